"""Which workers of this data folder have died: each holds a lock for as long as it lives, which the kernel lets go.

Leases must outlast pauses and slow networks. A worker beside a dead one knows better, and sooner.
"""

from __future__ import annotations

import fcntl
from pathlib import Path


class Neighbours:
    """The locks of one data folder.

    Args:
        folder: where they lie.
        worker: id of the worker whose lock is taken and held here.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._own = folder / worker
        folder.mkdir(parents=True, exist_ok=True)
        with self._everybody():
            self._lock = self._own.open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def dead(self) -> list[str]:
        """Ids of workers whose lock nobody holds; each until it is forgotten."""
        with self._everybody():  # nobody is between the making of a file and its lock
            return [path.name for path in self._folder.iterdir() if path.name[0] != "." and not _held(path)]

    def forget(self, worker: str) -> None:
        """Remove the lock of a dead worker; another one may have done so."""
        (self._folder / worker).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the own lock, in order."""
        self._own.unlink(missing_ok=True)
        self._lock.close()

    def _everybody(self) -> _Gate:
        return _Gate(self._folder / ".everybody")


class _Gate:
    """A lock that is held for a moment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _held(path: Path) -> bool:
    """Whether a living process holds the lock of that file."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True  # another one forgot it just now
    except BlockingIOError:
        return True
    return False
