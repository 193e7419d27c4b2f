"""Fixtures that every part's tests share: a real server, a client of it, and servers of one's own for faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from redis.asyncio import Redis

from convscope.protocol.connection import connect
from tests.servers import PrivateServer


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A server that the whole session shares; CONVSCOPE_TEST_SERVER=redis-server makes it Debian's Redis."""
    with PrivateServer() as server:
        yield server.url


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the shared server, which is emptied first."""
    client = connect(valkey_url)
    await client.flushall()
    await client.config_set("maxmemory", 0)
    yield client
    await client.aclose()


@pytest.fixture
def private_server() -> Iterator[Callable[..., PrivateServer]]:
    """Makes and starts servers of one's own (arguments as PrivateServer); they end with the test."""
    servers: list[PrivateServer] = []

    def make(*, append_only: bool = False, port: int = 0, config: dict[str, str] | None = None) -> PrivateServer:
        server = PrivateServer(append_only=append_only, port=port, config=config)
        servers.append(server)
        return server.start()

    yield make
    for server in servers:
        server.close()
