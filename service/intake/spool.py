"""Bytes on their way: in memory while they are few, else in a file without a name."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from convscope.protocol.problems import ProblemError

MEMORY_BYTES = 1 << 20
PIECE_BYTES = 256 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT)
"""What a full disk says; the last one where not even a folder for temporary files can be written to."""


class Spool:
    """Bytes in memory while they are few, else in a file without a name; written once, then read anywhere."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Append.

        Raises:
            ProblemError: `store-full` when the disk is, `store-unavailable` when it fails.
        """
        if self._file is None and self.size + len(data) <= MEMORY_BYTES:
            self._memory += data
        else:
            try:
                await asyncio.to_thread(self._write_file, data)
            except OSError as error:
                raise ProblemError(
                    "store-full" if error.errno in _FULL else "store-unavailable",
                    f"The upload cannot be kept: {os.strerror(error.errno or 0)}.",
                    retry_after_s=5.0,
                ) from error
        self.size += len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; reads the disk, so not for the event loop."""
        if self._file is None:
            return bytes(self._memory[offset : offset + size])
        pieces = []
        while size > 0 and (piece := os.pread(self._file.fileno(), size, offset)):
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return b"".join(pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All bytes, piece by piece; then it is closed."""
        try:
            for offset in range(0, self.size, PIECE_BYTES):
                if self._file is None:
                    yield self.read_at(offset, PIECE_BYTES)
                else:
                    yield await asyncio.to_thread(self.read_at, offset, PIECE_BYTES)
        finally:
            self.close()

    def close(self) -> None:
        """Give memory and disk back."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()

    def _write_file(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed by close)
            self._write_all(bytes(self._memory))
            self._memory = bytearray()
        self._write_all(data)

    def _write_all(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


class SpoolView(io.RawIOBase):
    """A stretch of a spool as a file to read and seek in."""

    def __init__(self, spool: Spool, offset: int, size: int) -> None:
        self._spool, self._offset, self._size = spool, offset, size
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, as of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, "negative seek position")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, as of any file."""
        wanted = max(0, min(len(buffer), self._size - self._at))
        data = self._spool.read_at(self._offset + self._at, wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
