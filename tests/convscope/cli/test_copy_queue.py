"""`convscope copy-queue`: from the embedded server of a data folder that is not served to a server of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from convscope.cli.embedded import socket_path
from convscope.queue.keys import key
from tests.convscope.cli.launched import Launched
from tests.servers import PrivateServer, old_redis_binary, redis_binary


@pytest.fixture
def other(tmp_path: Path) -> Iterator[PrivateServer]:
    """Debian's Redis where there is one, else another server like the embedded one."""
    with PrivateServer(binary=redis_binary(tmp_path)) as server:
        yield server


def copy(data: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVSCOPE_")}
    command = [sys.executable, "-P", "-m", "convscope.cli", "copy-queue", "--data", str(data), *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_from_a_data_folder_to_a_server(other: PrivateServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Launched(data) as server:
        assert server.address
        with redis.Redis(unix_socket_path=str(socket_path(data / "valkey"))) as embedded:
            embedded.hset(key("job", "j1"), mapping={"state": "queued"})
            embedded.xadd(key("events", "j1"), {"name": "state"}, id="1-0")
        busy = copy(data, "--redis-url", other.url)
        assert busy.returncode == 1 and "is already served by" in busy.stderr and "stop that one first" in busy.stderr
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    done = copy(data, "--redis-url", other.url)
    assert done.returncode == 0 and done.stdout.endswith(" keys copied\n"), done.stderr
    with redis.Redis(unix_socket_path=str(other.socket), decode_responses=True) as found:
        assert found.hgetall(key("job", "j1")) == {"state": "queued"}
        assert found.xrange(key("events", "j1")) == [("1-0", {"name": "state"})]
        again = copy(data, "--redis-url", other.url)
        assert again.returncode == 1 and "--replace" in again.stderr
        found.hset(key("job", "j2"), "state", "queued")
        assert copy(data, "--redis-url", other.url, "--replace").returncode == 0
        assert not found.exists(key("job", "j2")) and found.exists(key("job", "j1"))
        # Back, from server to server.
        with PrivateServer() as third:
            assert copy(data, "--from", other.url, "--redis-url", third.url).returncode == 0
            with redis.Redis(unix_socket_path=str(third.socket), decode_responses=True) as back:
                assert back.xrange(key("events", "j1")) == [("1-0", {"name": "state"})]


def test_what_cannot_be_is_said(other: PrivateServer, tmp_path: Path) -> None:
    assert "--redis-url names the server" in copy(tmp_path).stderr
    assert "has no queue of an embedded server" in copy(tmp_path, "--redis-url", other.url).stderr
    nobody = copy(tmp_path, "--from", other.url, "--redis-url", f"unix://{tmp_path}/nobody")
    assert nobody.returncode == 1 and "cannot be reached" in nobody.stderr
    old = old_redis_binary()
    if old is not None:
        with PrivateServer(binary=old) as server:
            refused = copy(tmp_path, "--from", other.url, "--redis-url", server.url)
        assert refused.returncode == 1 and "Redis 6.2.14" in refused.stderr and "7.0 or later" in refused.stderr
