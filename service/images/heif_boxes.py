"""The boxes of HEIF files (ISO/IEC 23008-12), as far as kind and size need them; imports no decoder.

Every walk is bounded by the file's length and by a number of boxes, however the file was made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MOST_BOXES = 4096
_KINDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"hevc": "HEIF", b"hevx": "HEIF"}
_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes on the way to the sizes, with the bytes that stand before their own boxes."""


def heif_kind(data: bytes) -> str | None:
    """`AVIF` or `HEIF` by the brands of the first box, major brand first; None for what no decoder here reads."""
    (length,) = struct.unpack_from(">I", data, 0)
    brands = data[8 : min(length, len(data), 8 + 4 * 64)]
    for at in (0, *range(8, len(brands) - 3, 4)):
        if (kind := _KINDS.get(brands[at : at + 4])) is not None:
            return kind
    return None


def _boxes(data: bytes, begin: int, end: int, left: list[int]) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte of the content, and end of each box.

    Raises:
        ValueError: a box that ends outside of what holds it, or too many.
    """
    at = begin
    while at + 8 <= end:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError(f"it has more than {MOST_BOXES} boxes")
        length, kind = struct.unpack_from(">I4s", data, at)
        content = at + 8
        if length == 1 and content + 8 <= end:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = end if length == 0 else at + length
        if not content <= stop <= end:
            raise ValueError(f"its box {kind.decode('latin-1')!r} ends outside of what holds it")
        yield kind, content, stop
        at = stop


def largest_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of the largest picture that the properties of items tell; None where there is none.

    A picture put together of tiles has its own size beside that of a tile.

    Raises:
        ValueError: broken boxes, with what is wrong.
    """
    left = [MOST_BOXES]
    waiting = [(0, len(data))]
    best: tuple[int, int] | None = None
    while waiting:
        begin, end = waiting.pop()
        for kind, content, stop in _boxes(data, begin, end, left):
            if kind in _CONTAINERS:
                waiting.append((min(content + _CONTAINERS[kind], stop), stop))
            elif kind == b"ispe" and stop - content >= 12:
                width, height = struct.unpack_from(">II", data, content + 4)
                best = (width, height) if best is None or width * height > best[0] * best[1] else best
    return best
