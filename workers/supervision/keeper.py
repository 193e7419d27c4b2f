"""Keeps one engine running: starts it, watches that its loop turns, kills it when it hangs, starts the next.

An engine needs seconds to import torch. A spare one has done so already and takes over at once.

Import rule: `workers.engine.wire`, the rest of this package; never torch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from workers.engine.wire import Frame
from workers.supervision.child import EngineChild
from workers.supervision.held import Held
from workers.supervision.totals import Totals

log = structlog.get_logger(__name__)

START_LIMIT_S = 300.0
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 30.0
"""Pauses before the next start, each twice the one before, but none after an engine that had become ready: that one was
killed by a job or from outside, and others wait for its successor."""


class Keeper:
    """The engine of the moment.

    Args:
        config: of the engine, as JSON.
        stall_s: an engine whose loop does not turn for so long is killed.
        spare_after_s: an engine that has been ready for so long gets a spare, loaded and idle; 0: never. Loading takes
            seconds of a core, which a worker that has just lost an engine needs for other things.
        heard: called with every frame but the engine's own affairs; must not block.
        ended: awaited when an engine has ended, with how, before the next one is started.
        totals: counts ends and stalls.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        stall_s: float,
        spare_after_s: float,
        heard: Callable[[Frame], None],
        ended: Callable[[str], Awaitable[None]],
        totals: Totals,
    ) -> None:
        self.unready = "the engine is starting"
        self.ready = asyncio.Event()
        self.drained = asyncio.Event()
        self._config = config
        self._stall_s = stall_s
        self._spare_after_s = spare_after_s
        self._ready_at: float | None = None
        self._heard = heard
        self._ended = ended
        self._totals = totals
        self._child: EngineChild | None = None
        # Were a start ended half way, there would be a process that nobody knows.
        self._starting: asyncio.Task[EngineChild] | None = None
        self._spare: asyncio.Task[EngineChild] | None = None

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

    async def hand_over(self, held: Held, frame: Frame) -> None:
        """Give a run to an engine that is ready, waiting for one.

        Raises:
            WireError: the frame is too large.
        """
        await self.ready.wait()
        assert self._child is not None
        held.sent = True
        await self._child.send(frame)

    async def close(self) -> None:
        """End the engine of the moment and the spare one, after `keep` has been ended."""
        for starting in (self._starting, self._spare):
            if starting is not None:
                await (await starting).close()

    async def keep(self) -> None:
        """Start an engine, and another one after a pause whenever it ends."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            self._child = await self._next()
            await self._child.configure(self._config)
            how = await self._child.ended()
            was_ready, self._ready_at = self._ready_at is not None, None
            self.ready.clear()
            self.unready = self.unready or f"the engine ended ({how})"
            self._totals.add("engine_ends")
            self._totals.add(f"engine_ends_{how.partition(':')[0].replace(' ', '_')}")
            log.error("engine_ended", how=how, pid=self._child.pid, resident_bytes=self.beat.get("rss"))
            await self._ended(how)
            if was_ready:
                backoff_s = FIRST_BACKOFF_S
            else:
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    async def _next(self) -> EngineChild:
        """The spare engine, if there is one that runs, or a new one."""
        if self._spare is not None:
            self._starting, self._spare = self._spare, None
            spare = await asyncio.shield(self._starting)
            if spare.running:
                return spare
            await spare.close()
        self._starting = self._start(preload=False)
        return await asyncio.shield(self._starting)

    def _wants_spare(self) -> bool:
        steady = self._ready_at is not None and time.monotonic() - self._ready_at >= self._spare_after_s
        return steady and self._spare_after_s > 0

    def _start(self, preload: bool) -> asyncio.Task[EngineChild]:
        return asyncio.create_task(EngineChild.spawn(self._hear, preload=preload), name="start an engine")

    async def watch(self) -> None:
        """Kill an engine that has fallen silent, or never got ready; start the spare of one that works."""
        suspected: EngineChild | None = None
        while True:
            await asyncio.sleep(min(1.0, self._stall_s / 4))
            child = self._child
            if self._spare is None and self._wants_spare():
                self._spare = self._start(preload=True)
            limit_s = self._stall_s if child is not None and child.ready else START_LIMIT_S
            if child is None or child.silent_s() <= limit_s:
                suspected = None
            elif suspected is not child:
                # Looked at twice: after a stop of this very process the engine's beats are still on their way.
                suspected = child
            else:
                log.error("engine_silent", pid=child.pid, seconds=round(child.silent_s(), 1))
                self._totals.add("engine_stalls")
                child.kill("no progress")
                suspected = None

    def _hear(self, frame: Frame) -> None:
        assert self._child is not None
        if frame.type == "ready":
            self._child.card = frame.header
            self._child.last_beat = time.monotonic()
            self.unready = ""
            self.ready.set()
            log.info("engine_ready", pid=frame.header["pid"], device=frame.header["device"])
            self._ready_at = time.monotonic()
        elif frame.type == "unready":
            self.unready = str(frame.header["reason"])
            log.error("engine_unready", reason=self.unready)
            return
        elif frame.type == "drained":
            self.drained.set()
        self._heard(frame)
