"""Image files made byte by byte, for what Pillow does not write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk, with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    rows: list[bytes], width: int, bits: int, colour: int, *extra: bytes, height: int | None = None, interlace: int = 0
) -> bytes:
    """A PNG of rows as they are stored, without their filter byte (0 is put before each)."""
    header = struct.pack(">IIBBBBB", width, len(rows) if height is None else height, bits, colour, 0, 0, interlace)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + b"".join(extra)
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


def png16(values: npt.NDArray[np.uint16], *extra: bytes) -> bytes:
    """A 16-bit PNG of H×W×C values; C: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    return png([row.astype(">u2").tobytes() for row in values], values.shape[1], 16, colour, *extra)


def tiff(width: int, height: int, entries: list[tuple[int, int, int, bytes]], data: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; an entry is tag, type, count, value; `data` lies at offset 8."""
    entries = sorted([*entries, (256, 4, 1, struct.pack("<I", width)), (257, 4, 1, struct.pack("<I", height))])
    at = 8 + len(data)
    directory_size = 2 + 12 * len(entries) + 4
    heap = b""
    packed = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        packed += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            packed += value.ljust(4, b"\0")
        else:
            packed += struct.pack("<I", at + directory_size + len(heap))
            heap += value
    return b"II*\0" + struct.pack("<I", at) + data + packed + b"\0\0\0\0" + heap


def short(*values: int) -> bytes:
    """16-bit values of a TIFF."""
    return struct.pack(f"<{len(values)}H", *values)


def long(*values: int) -> bytes:
    """32-bit values of a TIFF."""
    return struct.pack(f"<{len(values)}I", *values)


def grey_tiff(values: npt.NDArray[Any], photometric: int = 1) -> bytes:
    """A raw TIFF of one channel, H×W, of any element type."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    height, width = values.shape
    return tiff(
        width,
        height,
        [
            (258, 3, 1, short(values.dtype.itemsize * 8)),
            (259, 3, 1, short(1)),
            (262, 3, 1, short(photometric)),
            (273, 4, 1, long(8)),
            (277, 3, 1, short(1)),
            (278, 4, 1, long(height)),
            (279, 4, 1, long(len(data))),
            (339, 3, 1, short(kind)),
        ],
        data,
    )


def exif(orientation: int) -> bytes:
    """An EXIF block that says nothing but an orientation."""
    return b"Exif\0\0" + b"II*\0\x08\0\0\0" + short(1) + struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0) + long(0)
