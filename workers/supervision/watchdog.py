"""Keeps one engine running: starts it, watches that its loop turns, kills it when it hangs, starts the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from convscope.backoff import Backoff
from workers.supervision.claimed_run import ClaimedRun
from workers.supervision.counters import Counters
from workers.supervision.engine_process import EngineProcess
from workers.supervision.fork_server import ForkServerError, ForkServerProcess
from workers.wire import Frame

log = structlog.get_logger(__name__)

START_LIMIT_S = 300.0
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 30.0
"""Pauses before the next start, each twice the one before, while none gets ready."""

SOON_S = 1.0
"""After an engine that was ready the next one starts at once, since others wait for it; after the first pause where it
ended within this time, so that a device that kills its engines does not have us do nothing else."""


class Watchdog:
    """The engine of the moment.

    Args:
        config: of the engine, as JSON.
        stall_s: an engine whose loop does not turn for so long is killed.
        heard: called with every frame but the engine's own affairs; must not block.
        ended: awaited when an engine has ended, with how, before the next one is started.
        counters: counts ends and stalls.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        stall_s: float,
        heard: Callable[[Frame], None],
        ended: Callable[[str], Awaitable[None]],
        counters: Counters,
    ) -> None:
        self.unready = "the engine is starting"
        self.ready = asyncio.Event()
        self.drained = asyncio.Event()
        self._config = config
        self._stall_s = stall_s
        self._heard = heard
        self._ended = ended
        self._counters = counters
        self._child: EngineProcess | None = None
        self._server: ForkServerProcess | None = None
        self._ready_at = 0.0

    @property
    def card(self) -> Mapping[str, Any]:
        """What the engine said of itself; empty while there is none that is ready."""
        return self._child.card if self._child is not None and self._child.card and self._child.ready else {}

    @property
    def beat(self) -> Mapping[str, Any]:
        """Its last heartbeat."""
        return self._child.beat if self._child is not None else {}

    def turning(self) -> bool:
        """Whether its loop was heard to turn within the time it may take."""
        return self._child is not None and self._child.ready and self._child.silent_s() < self._stall_s

    async def send(self, frame: Frame) -> None:
        """Write a frame to the engine, if there is one that is ready."""
        if self._child is not None and self._child.ready:
            await self._child.send(frame)

    async def hand_over(self, held: ClaimedRun, frame: Frame) -> None:
        """Give a run to an engine that is ready, waiting for one.

        Raises:
            WireError: the frame is too large.
        """
        await self.ready.wait()
        assert self._child is not None
        held.sent = True
        await self._child.send(frame)

    async def close(self) -> None:
        """End the engine of the moment and what it was forked from, after `keep` has been ended."""
        if self._child is not None:
            await self._child.close()
        if self._server is not None:
            await self._server.close()

    async def keep(self) -> None:
        """Start an engine, and another one whenever it ends."""
        backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S)
        while True:
            lived_s = await self._live_and_die()
            if lived_s is not None:
                backoff.reset()
                await asyncio.sleep(0 if lived_s >= SOON_S else FIRST_BACKOFF_S)
            else:
                await asyncio.sleep(backoff.next_s())

    async def _live_and_die(self) -> float | None:
        """One engine from its start to its end; for how long it was ready, None where it never was."""
        try:
            self._child = await EngineProcess.fork(await self._loaded_server(), self._hear)
        except ForkServerError as error:
            self.unready = f"no engine can be started: {error}"
            self._counters.add("fork_server_failures")
            log.error("fork_server_failed", reason=str(error))
            return None
        how = await self._child.ended()
        lived_s = time.monotonic() - self._ready_at if self.ready.is_set() else None
        self.ready.clear()
        self.unready = self.unready or f"the engine ended ({how})"
        self._counters.add("engine_ends")
        self._counters.add(f"engine_ends_{how.partition(':')[0].replace(' ', '_')}")
        log.error("engine_ended", how=how, pid=self._child.pid, resident_bytes=self.beat.get("rss"))
        await self._ended(how)
        return lived_s

    async def _loaded_server(self) -> ForkServerProcess:
        """The fork server that runs, or a new one."""
        if self._server is not None and not self._server.ready:
            await self._server.close()
            self._server = None
        if self._server is None:
            self._server = ForkServerProcess(self._config)
            await self._server.load()
        return self._server

    async def watch(self) -> None:
        """Kill an engine that has fallen silent, or never got ready."""
        suspected: EngineProcess | None = None
        while True:
            await asyncio.sleep(min(1.0, self._stall_s / 4))
            child = self._child
            limit_s = self._stall_s if child is not None and child.ready else START_LIMIT_S
            if child is None or not child.running or child.silent_s() <= limit_s:
                suspected = None
            elif suspected is not child:
                # Looked at twice: after a stop of this very process the engine's beats are still on their way.
                suspected = child
            else:
                log.error("engine_silent", pid=child.pid, seconds=round(child.silent_s(), 1))
                self._counters.add("engine_stalls")
                if child.killed_for and self._server is not None:
                    self._server.end()  # which was told to, and did not
                child.kill("no progress")
                suspected = None

    def _hear(self, frame: Frame) -> None:
        assert self._child is not None
        if frame.type == "ready":
            self._child.card = frame.header
            self._child.last_beat = time.monotonic()
            self.unready = ""
            self.ready.set()
            self._ready_at = time.monotonic()
            log.info("engine_ready", pid=frame.header["pid"], device=frame.header["device"])
        elif frame.type == "unready":
            self.unready = str(frame.header["reason"])
            log.error("engine_unready", reason=self.unready)
            return
        elif frame.type == "drained":
            self.drained.set()
        self._heard(frame)
