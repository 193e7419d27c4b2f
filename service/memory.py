"""The memory that requests in flight share: bodies that are read, images that are decoded, lists that are put together.

May import service.http.
"""

from __future__ import annotations

import ctypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from service.http.turns import Turns

SMALL_BYTES = 1 << 20
"""What takes less waits for nobody."""
WAIT_S = 60.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


class Memory:
    """A bound on the memory of what is under way; small things first.

    Bodies and images are counted apart, since an image is decoded while the body that brought it is held.

    Args:
        most_bytes: of all together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._bodies = Turns(most_bytes // 2, "being read", WAIT_S)
        self._images = Turns(most_bytes // 2, "being decoded", WAIT_S)

    @property
    def held(self) -> int:
        """Bytes that are in use, as estimated."""
        return self._bodies.held + self._images.held

    @asynccontextmanager
    async def body(self, nbytes: int) -> AsyncIterator[None]:
        """Room for a body that takes so much once it is read.

        Raises:
            ProblemError: `queue-full` where there is none within a minute.
        """
        async with _turn(self._bodies, nbytes):
            yield

    @asynccontextmanager
    async def image(self, nbytes: int) -> AsyncIterator[None]:
        """Room for an image that takes so much while it is decoded.

        Raises:
            ProblemError: `queue-full` where there is none within a minute.
        """
        async with _turn(self._images, nbytes):
            yield


@asynccontextmanager
async def _turn(turns: Turns, nbytes: int) -> AsyncIterator[None]:
    if nbytes <= SMALL_BYTES:
        yield
        return
    async with turns.turn(nbytes):
        yield


def return_freed_memory() -> None:
    """Let the C library give freed memory back to the system at once: large blocks by themselves, and few arenas.

    By default it keeps blocks as large as the largest that was ever freed, up to 32 MiB, in an arena for each thread.
    """
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_THRESHOLD, 256 * 1024), (_M_TRIM_THRESHOLD, 256 * 1024), (_M_ARENA_MAX, 2)):
            library.mallopt(option, value)
