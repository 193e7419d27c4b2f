"""Threads for work that may never come back: a decoder that is caught in a trap cannot be stopped, only written off.

Knows nothing of files. A decoder's time counts from its start, not from when it was asked for; while the threads are
busy, others wait their turn, within bounds. The threads end with the process, whatever they are doing.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import structlog

from convscope.protocol.problems import ProblemError

T = TypeVar("T")

# Decoding releases the interpreter lock; the rest of the cores stay free for answering.
AT_ONCE = max(2, min(4, os.cpu_count() or 2))
# Decoding takes about 20 ns a pixel; a decoder that is still busy after this long is caught in a trap.
LIMIT_S = 30.0
# With full threads before them, so many large images are decoded in this time that a client should come back later.
WAIT_S = 60.0
# Trapped threads beside the usual ones; each may hold a core and an image's memory. Further ones keep their places, so
# that in the end images are refused and everything else is still answered.
MOST_STUCK = 4

log = structlog.get_logger(__name__)


class Decoders:
    """The threads of one event loop.

    Args:
        at_once: how many work at the same time.
        limit_s: how long one may work, seconds.
        wait_s: how long a caller waits for its turn, seconds.
        most_stuck: how many trapped threads are replaced.
    """

    def __init__(self, at_once: int, limit_s: float, wait_s: float, most_stuck: int) -> None:
        self._room = asyncio.Semaphore(at_once)
        self._limit_s, self._wait_s, self._most_stuck = limit_s, wait_s, most_stuck
        self.stuck = 0
        """Trapped threads that have been replaced."""

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises.

        Raises:
            ProblemError: `queue-full` where no thread became free; `unreadable-image` where `work` did not end in time.
        """
        try:
            async with asyncio.timeout(self._wait_s):
                await self._room.acquire()
        except TimeoutError as error:
            raise ProblemError("queue-full", "Too many images are waiting to be decoded.", retry_after_s=5.0) from error
        try:
            outcome = self._start(work)
        except RuntimeError as error:  # the machine gives no thread
            self._room.release()
            raise ProblemError("queue-full", "There is no thread for another image.", retry_after_s=5.0) from error
        return await outcome

    def _start(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Begin, with a place taken. What becomes of the place is settled here, whether or not anyone still waits."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        replaced = False

        def overdue() -> None:
            nonlocal replaced
            replaced = self.stuck < self._most_stuck
            if replaced:
                self.stuck += 1
                self._room.release()
            log.warning("decoder_stuck", limit_s=self._limit_s, replaced=replaced, stuck=self.stuck)
            if not outcome.done():
                detail = f"The image was not decoded within {self._limit_s:g} seconds."
                outcome.set_exception(ProblemError("unreadable-image", detail))

        def ended(settle: Callable[[Any], None], what: Any) -> None:
            clock.cancel()
            if replaced:
                self.stuck -= 1
            else:
                self._room.release()
            if not outcome.done():
                settle(what)

        def thread() -> None:
            try:
                end: tuple[Any, Any] = outcome.set_result, work()
            except BaseException as error:  # noqa: BLE001 (whatever it is, it is the caller's)
                end = outcome.set_exception, error
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(ended, *end)

        threading.Thread(target=thread, name="decode", daemon=True).start()
        clock = loop.call_later(self._limit_s, overdue)
        return outcome


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Decoders] = WeakKeyDictionary()


def decoders() -> Decoders:
    """Those of the running event loop; a service has one."""
    loop = asyncio.get_running_loop()
    if loop not in _of_loop:
        _of_loop[loop] = Decoders(AT_ONCE, LIMIT_S, WAIT_S, MOST_STUCK)
    return _of_loop[loop]
