"""The runs that a supervisor holds: taken, followed, let go, given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import Claim, Jobs, Verdict
from workers.supervision.claimed_run import Held
from workers.supervision.counters import Totals
from workers.supervision.fault_points import fault_point
from workers.supervision.run_lifecycle import Follower, Withdrawn
from workers.supervision.tasks import end_tasks
from workers.supervision.watchdog import Keeper
from workers.wire import Frame

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Room:
    """How many runs a worker holds at once, by the kind of slot they were given."""

    interactive: int = 32
    batch: int = 16


class Holdings:
    """All claimed runs that are not yet over.

    Args:
        room: how many at once.
        give_back_s: how long to try to give a run back; later its lease has run out anyway.
        freed: called when there is room again.
    """

    def __init__(
        self,
        jobs: Jobs,
        follower: Follower,
        keeper: Keeper,
        totals: Totals,
        *,
        room: Room,
        give_back_s: float,
        freed: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._follower = follower
        self._keeper = keeper
        self._totals = totals
        self._room = room
        self._give_back_s = give_back_s
        self._freed = freed
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def free(self) -> Room:
        """The room that is left."""
        slots = [held.claim.slot for held in self._held.values()]
        interactive, batch = slots.count("interactive"), slots.count("batch")
        return Room(max(0, self._room.interactive - interactive), max(0, self._room.batch - batch))

    def hear(self, frame: Frame) -> None:
        """A word of the engine, if it is on a run that is held."""
        held = self._held.get(str(frame.header.get("run")))
        if held is not None:
            held.hear(frame)

    def take(self, claim: Claim) -> None:
        """Begin to follow a claimed run."""
        held = Held(claim)
        if held.token in self._held:
            return  # the queue repeated its answer
        for before in [other for other in self._held.values() if other.run == claim.run and not other.letting_go]:
            # Its lease was lost, and the queue gave it to us again.
            self._withdraw(before, Verdict.FENCED)
        self._held[held.token] = held
        self._totals.add("claims")
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
        turning = self._keeper.turning()
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
                ask = self._keeper.send(Frame({"type": "save", "run": held.token}))
                held.asking = asyncio.create_task(ask, name=f"ask {held.token}")

    async def give_back_all(self, *, crashed: bool, reason: str) -> None:
        """Give back every run that is not computed yet: its engine is gone, or this worker stops.

        Args:
            crashed: those that an engine had are suspected of its end.
        """
        lost = [held for held in self._held.values() if held.final is None]
        for held in lost:
            held.dropped.set()
            if not held.letting_go:
                self._replace(held, partial(self._give_back, held, crashed=crashed and held.sent, reason=reason))
        await asyncio.gather(*(held.task for held in lost if held.task is not None), return_exceptions=True)

    async def _follow(self, held: Held) -> None:
        try:
            await self._follower.follow(held)
        except Withdrawn as withdrawn:
            await self._let_go(held, withdrawn.verdict)
        self._forget(held)

    def _withdraw(self, held: Held, verdict: Verdict) -> None:
        """Stop following a run and let it go."""
        self._replace(held, lambda: self._let_go(held, verdict))

    def _replace(self, held: Held, end: Callable[[], Awaitable[None]]) -> None:
        """Stop a run's follower; then do `end`, and forget the run."""
        held.letting_go = True

        async def ending(follower: asyncio.Task[None] | None) -> None:
            if follower is not None:
                await end_tasks([follower])
            await end()
            self._forget(held)

        held.task = asyncio.create_task(ending(held.task), name=f"end {held.token}")

    async def _let_go(self, held: Held, verdict: Verdict) -> None:
        """Stop a run that is not wanted from us now; confirm a cancellation, or give it back, once it has stopped."""
        held.letting_go = True
        log.info("run_withdrawn", run=held.run, jobs=held.claim.members, verdict=str(verdict))
        self._totals.add(f"runs_{verdict}")
        if held.sent and held.final is None:
            await self._keeper.send(Frame({"type": "cancel", "run": held.token}))
            # An engine that does not answer is killed by the watch; then `give_back_all` sets this.
            await held.dropped.wait()
        if verdict is Verdict.CANCELLED:
            await self._give_back(held, crashed=False, reason="cancelled")
        elif verdict is Verdict.PARK:
            await self._give_back(held, crashed=False, reason="others have to be alone here")

    async def _give_back(self, held: Held, *, crashed: bool, reason: str) -> None:
        fault_point("before_give_back")
        until = time.monotonic() + self._give_back_s
        while True:
            try:
                verdict = await self._jobs.give_back(held.run, held.epoch, crashed=crashed, reason=reason)
            except ProblemError as problem:
                if time.monotonic() > until:
                    log.warning("give_back_failed", run=held.run, problem=problem.name)
                    return
                await asyncio.sleep(0.25)
                continue
            log.info("run_given_back", run=held.run, crashed=crashed, reason=reason, verdict=str(verdict))
            return

    def _forget(self, held: Held) -> None:
        if self._held.pop(held.token, None) is not None:
            self._freed()
