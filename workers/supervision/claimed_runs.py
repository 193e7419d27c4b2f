"""The runs that a supervisor holds: taken, followed, let go, given back."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import Claim, Jobs, Lane, Verdict
from workers.supervision.claimed_run import ClaimedRun
from workers.supervision.counters import Counters
from workers.supervision.fault_points import fault_point
from workers.supervision.run_lifecycle import RunLifecycle, Withdrawn
from workers.supervision.tasks import end_tasks
from workers.supervision.watchdog import Watchdog
from workers.wire import Frame

log = structlog.get_logger(__name__)


AGED_SHARE = 0.25
"""Part of the interactive places that batch runs may have when they have waited long."""
CALLER_SHARE = 0.75
"""Part of a lane's places that one caller may have, where callers have quotas."""


@dataclass(frozen=True)
class Places:
    """How many runs a worker holds at once, by lane; `aged`: batch runs that may yet take an interactive place."""

    quick: int = 16
    interactive: int = 32
    batch: int = 16
    aged: int = 8

    @property
    def any(self) -> bool:
        """Whether there is room for a run of some lane."""
        return self.quick + self.interactive + self.batch > 0

    def most(self) -> dict[Lane, int]:
        """How many of a lane's places one caller may have."""
        return {
            "quick": math.ceil(CALLER_SHARE * self.quick),
            "interactive": math.ceil(CALLER_SHARE * self.interactive),
            "batch": math.ceil(CALLER_SHARE * self.batch),
        }


class ClaimedRuns:
    """All claimed runs that are not yet over.

    Args:
        room: how many at once.
        requeue_s: how long to try to give a run back; later its lease has run out anyway.
        freed: called when there is room again.
    """

    def __init__(
        self,
        jobs: Jobs,
        lifecycle: RunLifecycle,
        watchdog: Watchdog,
        counters: Counters,
        *,
        room: Places,
        requeue_s: float,
        freed: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._lifecycle = lifecycle
        self._watchdog = watchdog
        self._counters = counters
        self._room = room
        self._requeue_s = requeue_s
        self._freed = freed
        self._held: dict[str, ClaimedRun] = {}

    def __len__(self) -> int:
        return len(self._held)

    def free(self) -> Places:
        """The room that is left."""
        lanes = [held.claim.lane for held in self._held.values()]
        # Batch runs in interactive places are back in their own as soon as there is one.
        aged = max(0, lanes.count("batch") - self._room.batch)
        return Places(
            quick=max(0, self._room.quick - lanes.count("quick")),
            interactive=max(0, self._room.interactive - lanes.count("interactive") - aged),
            batch=max(0, self._room.batch - lanes.count("batch")),
            aged=max(0, math.ceil(AGED_SHARE * self._room.interactive) - aged),
        )

    def hear(self, frame: Frame) -> None:
        """A word of the engine, if it is on a run that is held."""
        held = self._held.get(str(frame.header.get("run")))
        if held is not None:
            held.hear(frame)

    def take(self, claim: Claim) -> None:
        """Begin to follow a claimed run."""
        held = ClaimedRun(claim)
        if held.token in self._held:
            return  # the queue repeated its answer
        for before in [other for other in self._held.values() if other.run == claim.run and not other.letting_go]:
            # Its lease was lost, and the queue gave it to us again.
            self._withdraw(before, Verdict.FENCED)
        self._held[held.token] = held
        self._counters.add("claims")
        log.info(
            "run_claimed",
            run=claim.run,
            jobs=claim.members,
            operation=claim.operation,
            lane=claim.lane,
            attempt=claim.attempt,
            alone=claim.alone,
            checkpoint_step=claim.checkpoint_step,
            request_id=claim.request_id,
        )
        held.task = asyncio.create_task(self._follow(held), name=f"run {held.token}")

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return [held.task for held in self._held.values() if held.task is not None]

    def names(self) -> list[str]:
        """The runs held, for logs."""
        return [held.run for held in self._held.values()]

    def storing(self) -> bool:
        """Whether a result or a checkpoint is on its way into the store."""
        return any(held.final is not None or held.checkpoint is not None for held in self._held.values())

    async def renew(self, worker: str) -> None:
        """Renew leases while the engine's loop turns, and stop what the queue no longer wants.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        turning = self._watchdog.turning()
        ours = [held for held in self._held.values() if not held.letting_go and (turning or held.final is not None)]
        verdicts = await self._jobs.renew(worker, [(held.run, held.epoch) for held in ours])
        for held in ours:
            verdict = verdicts.get(held.run, Verdict.GO_ON)
            if verdict is Verdict.GO_ON or held.letting_go or held.final is not None:
                continue
            if verdict is not Verdict.SAVE:
                self._withdraw(held, verdict)
            elif held.sent and held.checkpoint is None and (held.asking is None or held.asking.done()):
                # An engine that reads slowly must not keep the next renewal waiting.
                ask = self._watchdog.send(Frame({"type": "save", "run": held.token}))
                held.asking = asyncio.create_task(ask, name=f"ask {held.token}")

    async def requeue_all(self, *, crashed: bool, reason: str) -> None:
        """Give back every run that is not computed yet: its engine is gone, or this worker stops.

        Args:
            crashed: those that an engine had are suspected of its end.
        """
        lost = [held for held in self._held.values() if held.final is None]
        for held in lost:
            held.dropped.set()
            if not held.letting_go:
                self._replace(held, partial(self._requeue, held, crashed=crashed and held.sent, reason=reason))
        await asyncio.gather(*(held.task for held in lost if held.task is not None), return_exceptions=True)

    async def _follow(self, held: ClaimedRun) -> None:
        try:
            await self._lifecycle.follow(held)
        except Withdrawn as withdrawn:
            await self._let_go(held, withdrawn.verdict)
        self._forget(held)

    def _withdraw(self, held: ClaimedRun, verdict: Verdict) -> None:
        """Stop following a run and let it go."""
        self._replace(held, lambda: self._let_go(held, verdict))

    def _replace(self, held: ClaimedRun, end: Callable[[], Awaitable[None]]) -> None:
        """Stop a run's lifecycle; then do `end`, and forget the run."""
        held.letting_go = True

        async def ending(lifecycle: asyncio.Task[None] | None) -> None:
            if lifecycle is not None:
                await end_tasks([lifecycle])
            await end()
            self._forget(held)

        held.task = asyncio.create_task(ending(held.task), name=f"end {held.token}")

    async def _let_go(self, held: ClaimedRun, verdict: Verdict) -> None:
        """Stop a run that is not wanted from us now; confirm a cancellation, or give it back, once it has stopped."""
        held.letting_go = True
        log.info("run_withdrawn", run=held.run, jobs=held.claim.members, verdict=str(verdict))
        self._counters.add(f"runs_{verdict}")
        if held.sent and held.final is None:
            await self._watchdog.send(Frame({"type": "cancel", "run": held.token}))
            # An engine that does not answer is killed by the watch; then `requeue_all` sets this.
            await held.dropped.wait()
        if verdict is Verdict.CANCELLED:
            await self._requeue(held, crashed=False, reason="cancelled")
        elif verdict is Verdict.PARK:
            await self._requeue(held, crashed=False, reason="others have to be alone here")

    async def _requeue(self, held: ClaimedRun, *, crashed: bool, reason: str) -> None:
        fault_point("before_requeue")
        until = time.monotonic() + self._requeue_s
        while True:
            try:
                verdict = await self._jobs.requeue(held.run, held.epoch, crashed=crashed, reason=reason)
            except ProblemError as problem:
                if time.monotonic() > until:
                    log.warning("requeue_failed", run=held.run, problem=problem.name)
                    return
                await asyncio.sleep(0.25)
                continue
            log.info("run_given_back", run=held.run, crashed=crashed, reason=reason, verdict=str(verdict))
            return

    def _forget(self, held: ClaimedRun) -> None:
        if self._held.pop(held.token, None) is not None:
            self._freed()
