"""The data folder: made private, and locked, so that two servers never share one."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self


@dataclass(frozen=True)
class Holder:
    """The server that holds a data folder: its launcher's process id and its address, as far as they are known."""

    pid: int | None
    address: str | None

    def __str__(self) -> str:
        who = f"process {self.pid}" if self.pid else "another server"
        return f"{who} at {self.address}" if self.address else who


class DataFolderError(Exception):
    """The folder cannot be made or written."""


class DataFolderInUseError(Exception):
    """Another server holds the lock of this data folder."""

    def __init__(self, folder: Path, holder: Holder) -> None:
        super().__init__(f"{folder} is already served by {holder}")
        self.folder = folder
        self.holder = holder


class DataFolder:
    """A private data folder under an exclusive lock, given up at the end of the `with` or at the process's death.

    The lock is flock on `serve.lock`. Python opens files close-on-exec, so no child of ours keeps it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock_file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Make the folder where needed and lock it.

        Raises:
            DataFolderInUseError: another server holds it.
            DataFolderError: the folder cannot be made or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = (self.path / "serve.lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise DataFolderError(f"cannot write to the data folder {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = _read_holder(file.read())
            file.close()
            raise DataFolderInUseError(self.path, holder) from None
        self._lock_file = file
        self.announce(None)
        return self

    def announce(self, address: str | None) -> None:
        """Write into the lock file who holds the folder, for a second server to read."""
        file = self._lock_file
        if file is None:
            raise RuntimeError("the data folder is not locked")
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "address": address}, file)
        file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


def _read_holder(text: str) -> Holder:
    """What a lock file says; nothing, when its holder is just writing it."""
    try:
        said = json.loads(text)
        return Holder(pid=int(said["pid"]), address=said["address"])
    except (ValueError, KeyError, TypeError):
        return Holder(pid=None, address=None)
