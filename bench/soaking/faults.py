"""The faults of a soak, by the clock: workers and engines killed, the server killed and started again."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from bench.soaking.load import Load
from bench.soaking.processes import Processes
from convscope.protocol.problems import ProblemError
from convscope.queue.keys import key
from convscope.queue.stats import read_workers

AWAY_S = 1.0


@dataclass
class Kill:
    """A worker or an engine killed: when (Unix time, ms), and what it was computing."""

    kind: str
    at_ms: float
    runs: list[str]


@dataclass
class Faults:
    """The schedule.

    Args:
        worker_every_s: between two kills of a worker, its supervisor and its engine in turn with its engine alone.
        server_every_s: between two kills of the queue's server.
    """

    processes: Processes
    load: Load
    choice: random.Random
    worker_every_s: float
    server_every_s: float
    kills: list[Kill] = field(default_factory=list)
    server_restarts: int = 0

    async def workers(self) -> None:
        """Kill one worker after the other."""
        turn = 0
        while True:
            await asyncio.sleep(self.worker_every_s)
            name = f"worker {1 + turn % 2}"
            if turn % 4 < 3:
                self.kills.append(Kill("worker", time.time() * 1000, await self._runs(name)))
                self.processes.kill(name)
                self.processes.start_worker(name)
            else:
                await self._kill_engine(name)
            turn += 1

    async def engines(self) -> None:
        """Kill an engine for each job that was chosen to do so: a poison job, as its worker sees it."""
        while True:
            await self.load.crash_wanted.wait()
            self.load.crash_wanted.clear()
            await self._kill_engine(f"worker {self.choice.randrange(1, 3)}")

    async def server(self) -> None:
        """Kill the queue's server, and start it again on its data a moment later."""
        while True:
            await asyncio.sleep(self.server_every_s)
            self.processes.kill("server")
            await asyncio.sleep(AWAY_S)
            await self.processes.start_server()
            self.server_restarts += 1

    async def _kill_engine(self, name: str) -> None:
        engine = self.processes.engine(name)
        if engine is None:
            return
        runs = await self._runs(name)
        with suppress(psutil.NoSuchProcess):
            engine.kill()
            self.kills.append(Kill("engine", time.time() * 1000, runs))

    async def _runs(self, name: str) -> list[str]:
        """The runs that a worker holds just now."""
        try:
            for info in await read_workers(self.processes.redis):
                if info.pid == self.processes.pid(name):
                    return [str(run) for run in await self.processes.redis.smembers(key("held", info.id))]
        except (ProblemError, OSError):
            return []
        return []
