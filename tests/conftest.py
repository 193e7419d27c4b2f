"""Fixtures that every part's tests share: a real server, a client of it, and servers of one's own for faults.

What they need is imported when they are used: `tests/gpu` runs where there is no Redis.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from workers.engine.environment import prepare_process

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from tests.servers import PrivateServer

# As an engine does: freed memory stays the process's own, and OpenMP's threads do not spin on the cores of other tests.
prepare_process()

REAL_PROCESSES = (
    "faults",
    "end_to_end",
    "service",
    "convscope/cli",
    "workers/supervision",
    "explorer",
    "contract/test_containers",
)
"""Tests that start, stop and kill real processes: a machine that stands still for seconds may fail one of them. They
have a second try, and the summary says RERUN; what is really broken fails twice."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of real processes their second try."""
    root = Path(__file__).parent
    for item in items:
        if item.path.relative_to(root).as_posix().startswith(REAL_PROCESSES):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A server that the whole session shares; CONVSCOPE_TEST_SERVER=redis-server makes it Debian's Redis."""
    from tests.servers import PrivateServer

    with PrivateServer() as server:
        yield server.url


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the shared server, which is emptied first."""
    from convscope.queue.connection import connect

    client = connect(valkey_url)
    await client.flushall()
    await client.config_set("maxmemory", 0)
    yield client
    await client.aclose()


@pytest.fixture
def private_server() -> Iterator[Callable[..., PrivateServer]]:
    """Makes and starts servers of one's own (arguments as PrivateServer); they end with the test."""
    from tests.servers import PrivateServer

    servers: list[PrivateServer] = []

    def make(*, append_only: bool = False, port: int = 0, config: dict[str, str] | None = None) -> PrivateServer:
        server = PrivateServer(append_only=append_only, port=port, config=config)
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.close()
