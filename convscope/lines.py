"""Lines for somebody who may stop reading them: written by a thread of its own, and dropped where they pile up.

Standard library only.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
MOST_BYTES = 1 << 20
"""Text that waits to be read; what comes beyond it is dropped."""
END_WITHIN_S = 1.0
_PIECE_BYTES = 1 << 16


class LineWriter:
    """A text file whose writer never waits for its reader.

    Args:
        descriptor: an open file's number, as of standard error.
        told: makes the line that tells how many were dropped, once they are read again.
        most_bytes: how much text may wait.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int, told: Callable[[int], str], most_bytes: int = MOST_BYTES) -> None:
        self._descriptor = descriptor
        self._told = told
        self._most_bytes = most_bytes
        self.dropped = 0
        """Lines since the start that nobody will read."""
        self._untold = 0
        self._begin()
        os.register_at_fork(after_in_child=self._begin)
        atexit.register(self.end)

    def _begin(self) -> None:
        """Nothing waits, and no thread runs: so it is at first, and in the child of a fork."""
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._ended = False

    def write(self, text: str) -> int:
        """Take text, whole lines at a time; returns at once."""
        data = text.encode(self.encoding, "backslashreplace")
        with self._changed:
            if self._bytes + len(data) > self._most_bytes:
                self._drop(max(1, data.count(b"\n")))
                return len(text)
            self._waiting.append(data)
            self._bytes += len(data)
            if self._thread is None and not self._ended:
                self._thread = threading.Thread(target=self._pass_on, name="lines", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Do nothing: what was written is on its way."""

    def isatty(self) -> bool:
        """Whether a person reads it."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """The file's number."""
        return self._descriptor

    def end(self, within_s: float = END_WITHIN_S) -> None:
        """Wait until everything is read, not longer than that; the process is about to end."""
        until = time.monotonic() + within_s
        with self._changed:
            while self._bytes and self._thread is not None and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._untold += lines

    def _pass_on(self) -> None:
        """Write what waits, for ever; a file that cannot be written to any more takes nothing."""
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                data = self._waiting[0]
            if not self._written(data):
                with self._changed:
                    self._drop(sum(max(1, each.count(b"\n")) for each in self._waiting))
                    self._waiting.clear()
                    self._bytes, self._most_bytes = 0, 0
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting.popleft()
                self._bytes -= len(data)
                if self._untold and not self._waiting:
                    line = self._told(self._untold).encode(self.encoding, "backslashreplace") + b"\n"
                    self._untold = 0
                    self._waiting.append(line)
                    self._bytes += len(line)
                self._changed.notify_all()

    def _written(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view[:_PIECE_BYTES]) :]
            except BlockingIOError:  # somebody made the file non-blocking, as a terminal that others share
                select.select([], [self._descriptor], [])
            except OSError:
                return False
        return True
