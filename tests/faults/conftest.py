"""Workers of a test's own, on the shared server or one of the test's own, and a client of their queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.workers.harness import Client, Worker

Start = Callable[..., Worker]


@pytest.fixture
def start(valkey_url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts workers on one data folder (arguments as Worker, `url` for another server); they end with the test."""
    workers: list[Worker] = []

    def make(*, url: str = valkey_url, **how: Any) -> Worker:
        workers.append(Worker(url, tmp_path, **how))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture
def client(redis: Redis, tmp_path: Path) -> Client:
    """A client of the shared server, which is emptied first."""
    return Client(redis, tmp_path)
