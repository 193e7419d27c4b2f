"""The process that engines are forked from, without a supervisor around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from workers.engine_config import EngineConfig
from workers.supervision.fork_server import Forked, ForkServerError, ForkServerProcess

DUMMIES = {"methods": "tests.workers.engine.dummies", "networks": "tests.workers.engine.networks:Networks"}


@asynccontextmanager
async def loaded(**config: str) -> AsyncIterator[ForkServerProcess]:
    server = ForkServerProcess(EngineConfig(device="cpu", **config).json())  # type: ignore[arg-type]
    try:
        await server.load()
        yield server
    finally:
        await server.close()


def let_go(forked: Forked) -> None:
    forked.sock.close()
    forked.standard_error.close()


async def test_what_engines_really_import_starts_no_thread_and_has_no_credentials(monkeypatch: pytest.MonkeyPatch):
    for name in ("CONVSCOPE_REDIS_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    async with loaded() as server:
        assert server.process_id is not None
        process = psutil.Process(server.process_id)
        assert process.num_threads() == 1
        assert "secret" not in process.environ().values()
        forked = await server.fork()
        assert "secret" not in psutil.Process(forked.pid).environ().values()
        server.kill(forked.pid)
        assert await forked.status == -9
        server.kill(forked.pid)  # the number may be another process's by now
        let_go(forked)


async def test_an_engine_may_end_before_anybody_hears_that_it_began():
    async with loaded(**{**DUMMIES, "networks": "tests.workers.engine.networks:NoSuchClass"}) as server:
        forking = asyncio.create_task(server.fork())
        await asyncio.sleep(0)
        time.sleep(1.0)  # noqa: ASYNC251  (the loop is busy: both words come in one)
        forked = await forking
        assert await forked.status == 3
        let_go(forked)


async def test_when_it_ends_its_engines_have_ended_and_it_forks_no_more():
    async with loaded(**DUMMIES) as server:
        forked = await server.fork()
        server.end()
        assert await forked.status == -9
        with pytest.raises(ForkServerError, match="signal 9"):
            await server.fork()
        let_go(forked)
