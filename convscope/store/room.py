"""How much may yet be put into a folder: the disk keeps a reserve, and the store a bound.

What clients send is refused first. Results and checkpoints of work under way may use most of the reserve; the last part
of it is for the queue's own file, without which nothing works.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

from convscope.protocol.problems import ProblemError

SCAN_EVERY_S = 60.0
QUEUE_SHARE = 4
"""One part in so many of the reserve is for the queue's file."""
RETRY_AFTER_S = 60.0


class Room:
    """The room of one folder, for one process.

    Args:
        folder: the store.
        reserve_bytes: free bytes of its disk that uploads leave alone.
        bound_bytes: of all artifacts, for uploads; 0: none.
    """

    def __init__(self, folder: Path, reserve_bytes: int, bound_bytes: int) -> None:
        self._folder = folder
        self._reserve = reserve_bytes
        self._bound = bound_bytes
        self._used = 0
        self._scanned_at = float("-inf")
        self._scanning: asyncio.Task[None] | None = None

    async def check(self, nbytes: int, *, upload: bool) -> None:
        """Refuse what does not fit.

        Raises:
            ProblemError: `store-full`, with what is missing.
        """
        free = shutil.disk_usage(self._folder).free
        keep = self._reserve if upload else self._reserve // QUEUE_SHARE
        if free < keep + nbytes:
            raise store_full(
                f"The artifact store's disk has {free / 2**20:,.0f} MiB left; {keep / 2**20:,.0f} MiB are kept for "
                "work under way."
            )
        if upload and self._bound:
            await self._look()
            if self._used + nbytes > self._bound:
                raise store_full(f"The artifact store has {self._used / 2**30:.1f} GiB, as much as is allowed.")

    def took(self, nbytes: int) -> None:
        """So many bytes were written; what others write is seen by the next scan."""
        self._used += nbytes

    async def _look(self) -> None:
        """Measure the folder when that was long ago; only the first time is waited for."""
        if self._scanning is None and time.monotonic() - self._scanned_at > SCAN_EVERY_S:
            self._scanning = asyncio.create_task(self._scan(), name="scan of the store")
        if self._scanning is not None and self._scanned_at == float("-inf"):
            await asyncio.shield(self._scanning)

    async def _scan(self) -> None:
        try:
            self._used = await asyncio.to_thread(_size, self._folder)
        finally:
            self._scanned_at = time.monotonic()
            self._scanning = None


def store_full(detail: str, **extra: Any) -> ProblemError:
    """The refusal of what does not fit into the store."""
    return ProblemError("store-full", detail, retry_after_s=RETRY_AFTER_S, **extra)


def _size(folder: Path) -> int:
    """Bytes of all files in a folder; what goes away meanwhile does not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
