"""What the engine says, written by a thread of its own, so that a slow supervisor never holds up a slice."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from workers.wire import Blob, Channel, Frame, WireError

log = logging.getLogger(__name__)

WAITING_BYTES = 512 * 1024**2
WAITING_FRAMES = 1024


class Outbox:
    """A bounded queue of frames and the thread that writes them.

    Args:
        channel: where they go.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._busy = False
        self._changed = threading.Condition()
        threading.Thread(target=self._write, name="outbox", daemon=True).start()

    def say(self, kind: str, blobs: Sequence[Blob] = (), **header: Any) -> None:
        """Queue a frame; waits only while far too much is queued."""
        size = _size(blobs)
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._frames) < WAITING_FRAMES and (not self._frames or self._bytes + size <= WAITING_BYTES)
            )
            self._frames.append(Frame({"type": kind, **header}, blobs))
            self._bytes += size
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is written; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._frames and not self._busy, timeout_s)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._frames))
                frame = self._frames.popleft()
                self._busy = True
            try:
                self._channel.send(frame)
            except WireError as error:
                log.error("a frame cannot be sent", extra={"kind": frame.type, "error": str(error)})
            except OSError:
                # The supervisor is gone; the reader sees it too and ends this process.
                log.info("the supervisor no longer listens")
            with self._changed:
                self._bytes -= _size(frame.blobs)
                self._busy = False
                self._changed.notify_all()


def _size(blobs: Sequence[Blob]) -> int:
    return sum(memoryview(blob).nbytes for blob in blobs)
