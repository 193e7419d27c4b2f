"""How large the directory of a zip archive is, before anything reads it."""

from __future__ import annotations

import io
import struct

from convscope.protocol.problems import ProblemError
from service.intake.spool import SpoolView

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


def directory_size(view: SpoolView) -> int:
    """Bytes of an archive's directory, by the archive's end; the view is at its beginning afterwards.

    Raises:
        ProblemError: `malformed-body`.
    """
    size = view.seek(0, io.SEEK_END)
    start = max(0, size - 65_535 - _END.size - _END64_LOCATOR.size - _END64.size)
    view.seek(start)
    tail = view.read()
    assert tail is not None
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise ProblemError("malformed-body", "The zip archive ends too early.")
    found = _zip64_directory_size(tail, at, start)
    if found is None:
        found = int(_END.unpack_from(tail, at)[5])
    if found > size:
        raise ProblemError("malformed-body", "The zip archive is damaged.")
    view.seek(0)
    return found


def _zip64_directory_size(tail: bytes, at: int, start: int) -> int | None:
    """The size of the directory that a Zip64 archive states, or None for an ordinary archive.

    Programs that write an archive on the fly use this kind whatever its size. Its end has two records more, each just
    before the next. Some readers find the first by its place and others by the address in the second; both have to mean
    the same record, so that what is checked here is what is read later.

    Args:
        tail: the archive's last bytes.
        at: where in `tail` the ordinary end begins.
        start: where in the archive `tail` begins.

    Raises:
        ProblemError: `malformed-body` for records that contradict each other.
    """
    locator_at = at - _END64_LOCATOR.size
    if locator_at < 0 or tail[locator_at : locator_at + 4] != b"PK\x06\x07":
        return None
    record_at = locator_at - _END64.size
    _, _, address, _ = _END64_LOCATOR.unpack_from(tail, locator_at)
    if record_at < 0 or tail[record_at : record_at + 4] != b"PK\x06\x06" or address != start + record_at:
        raise ProblemError("malformed-body", "The zip archive's end is damaged.")
    size: int = _END64.unpack_from(tail, record_at)[8]
    return size
