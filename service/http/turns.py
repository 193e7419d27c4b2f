"""A bound on what is under way at once, by its size; small things first, none waits for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from convscope.protocol.problems import ProblemError

PATIENCE_S = 10.0
"""Who has waited for so long goes before everybody smaller."""


@dataclass(eq=False)
class _Waiter:
    size: int
    since: float
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turns:
    """Lets things begin as long as all that are under way are not larger together than a bound.

    What is larger than the bound by itself goes alone. Of those that wait the smallest goes first, but for one that
    has waited long: the oldest of these is next, whatever its size.

    Args:
        most: the bound, in the unit of sizes.
        what: what there is too much of, for the refusal of one that waited in vain.
        wait_s: how long one waits at most, seconds.
    """

    def __init__(self, most: int, what: str, wait_s: float) -> None:
        self._most = most
        self._what = what
        self._wait_s = wait_s
        self._waiting: list[_Waiter] = []
        self.held = 0
        """Size of all that is under way."""

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    async def take(self, size: int) -> int:
        """Wait for a turn of that size, which has to be given back; its size within the bound.

        Raises:
            ProblemError: `queue-full` where none came in time.
        """
        size = min(max(size, 1), self._most)
        if not self._waiting and self._fits(size):
            self.held += size
            return size
        waiter = _Waiter(size, time.monotonic())
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self._wait_s):
                self._let_in()
                await waiter.turn
        except BaseException as error:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif waiter.turn.done() and not waiter.turn.cancelled():
                self.held -= size  # its turn came in the moment in which it left
            self._let_in()
            if isinstance(error, TimeoutError):
                raise ProblemError("queue-full", f"Too much is {self._what} at once.", retry_after_s=5.0) from error
            raise
        return size

    def give_back(self, size: int) -> None:
        """End a turn; `size` is what `take` said."""
        self.held -= size
        self._let_in()

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """A turn for as long as the block runs.

        Raises:
            ProblemError: `queue-full`.
        """
        taken = await self.take(size)
        try:
            yield
        finally:
            self.give_back(taken)

    def _fits(self, size: int) -> bool:
        return self.held + size <= self._most

    def _let_in(self) -> None:
        while self._waiting:
            oldest = min(self._waiting, key=lambda each: each.since)
            patient = time.monotonic() - oldest.since > PATIENCE_S
            first = oldest if patient else min(self._waiting, key=lambda each: (each.size, each.since))
            if not self._fits(first.size):
                return
            self._waiting.remove(first)
            if not first.turn.done():
                self.held += first.size
                first.turn.set_result(None)
