"""Image files before they are decoded: which format the bytes are, and what a decoder may be shown of them.

Pure functions on bytes; imports no decoder. JPEG and PNG are rebuilt from what their pixels need, so that no decoder
ever meets their text, thumbnails, second pictures or metadata; profile and orientation are taken out here. Every walk
stops after a bounded number of steps, however the file was made.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field

from convscope.protocol.problems import ProblemError
from service.images.heif_boxes import heif_kind, largest_size

ACCEPTED = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "NPY", "SAFETENSORS")
PROFILE_BYTES = 4 << 20

# Real files have ten scans or fewer; each may cost as much time as the whole picture and takes but a few bytes.
MOST_JPEG_SCANS = 100
MOST_JPEG_SEGMENTS = 10_000
# 32 MiB in pieces of 8 KiB, as libpng writes them, are 4096.
MOST_PNG_CHUNKS = 65_536
MOST_GIF_PREAMBLE_BYTES = 1 << 20
# Pillow undoes BMP's run lengths in Python, pixel by pixel.
MOST_RLE_PIXELS = 1_000_000
MOST_IFD_ENTRIES = 4096


@dataclass(frozen=True)
class ImageFile:
    """A file as a decoder may see it.

    Args:
        format: one of ACCEPTED.
        data: bytes to decode.
        size: width and height by the header, where they can be read before decoding.
        profile: ICC profile, where this file's walk found one.
        orientation: by EXIF, 1 to 8.
        bits: of one sample, where it matters.
        notes: what was left out.
    """

    format: str
    data: bytes
    size: tuple[int, int] | None = None
    profile: bytes | None = None
    orientation: int = 1
    bits: int = 8
    notes: tuple[str, ...] = field(default=())


def inspect(data: bytes) -> ImageFile:
    """The format of an uploaded file, by its bytes alone, and what of it may be decoded.

    Raises:
        ProblemError: `unsupported-format` for what is something else, `unreadable-image` for what is broken.
    """
    if not data:
        raise unreadable("The file is empty.")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _inspect_png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _inspect_jpeg(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _inspect_gif(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _inspect_webp(data)
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return ImageFile("TIFF", data)
    if (
        data.startswith(b"BM")
        and len(data) > 17
        and struct.unpack_from("<I", data, 14)[0] in (12, 40, 52, 56, 64, 108, 124)
    ):
        return _inspect_bmp(data)
    if data[4:8] == b"ftyp" and (kind := heif_kind(data)) is not None:
        return _inspect_heif(data, kind)
    raise unsupported(f"This is {_describe(data)}")


def unreadable(detail: str) -> ProblemError:
    """The problem of a file that is broken."""
    return ProblemError("unreadable-image", detail)


def unsupported(detail: str) -> ProblemError:
    """The problem of a file of another kind; says which are accepted."""
    accepted = ", ".join(ACCEPTED)
    return ProblemError("unsupported-format", f"{detail}; accepted are {accepted}.", possible=list(ACCEPTED))


def exif_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 when there is none or the block is broken."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    (at,) = struct.unpack_from(f"{order}I", exif, 4)
    if at + 2 > len(exif):
        return 1
    (entries,) = struct.unpack_from(f"{order}H", exif, at)
    for place in range(at + 2, at + 2 + 12 * min(entries, MOST_IFD_ENTRIES), 12):
        if place + 12 > len(exif):
            return 1
        tag, kind, count = struct.unpack_from(f"{order}HHI", exif, place)
        if tag == 0x0112 and kind == 3 and count == 1:
            (value,) = struct.unpack_from(f"{order}H", exif, place + 8)
            return value if 1 <= value <= 8 else 1
    return 1


_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document (PSD)"),
    (b"SIMPLE  =", "a FITS file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x00\x00\x01\x00", "a Windows icon"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"qoif", "a QOI image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"OggS", "an Ogg file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)


def _describe(data: bytes) -> str:
    for magic, name in _FOREIGN:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return "an MP4 video, or an image of its kind that is coded by neither HEVC nor AV1"
    if data[128:132] == b"DICM":
        return "a DICOM file"
    if re.match(rb"P[1-7fF][\s#]", data):
        return "a Netpbm image"
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head.startswith(b"<?xml"):
        return "an XML document"
    if head.startswith(b"data:"):
        return "a data URL; send the bytes themselves, or as JSON with base64"
    if not re.search(rb"[^\t\r\n -\x7e\x80-\xff]", head):
        return "text"
    return "no image format that is known here"


def _inspect_png(data: bytes) -> ImageFile:
    kept = [data[:8]]
    profile, orientation, notes = None, 1, []
    at = 8
    for _ in range(MOST_PNG_CHUNKS):
        if at + 12 > len(data):
            raise unreadable("The PNG file ends too early.")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise unreadable("The PNG file ends too early.")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[at:end])
        elif kind == b"iCCP" and profile is None:
            profile = _png_profile(data[at + 8 : end - 4])
        elif kind == b"eXIf":
            orientation = exif_orientation(data[at + 8 : end - 4])
        elif kind == b"acTL":
            notes.append("the default picture of an animation")
        at = end
        if kind == b"IEND":
            break
    else:
        raise unreadable(f"The PNG file has more than {MOST_PNG_CHUNKS} chunks.")
    header = kept[1] if len(kept) > 1 else b""
    if header[4:8] != b"IHDR" or len(header) != 25:
        raise unreadable("The PNG file has no header.")
    width, height, bits = struct.unpack_from(">IIB", header, 8)
    return ImageFile("PNG", b"".join(kept), (width, height), profile, orientation, bits, tuple(notes))


def _png_profile(chunk: bytes) -> bytes | None:
    name_end = chunk.find(b"\0", 0, 80)
    if name_end < 0 or chunk[name_end + 1 : name_end + 2] != b"\0":
        return None
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(chunk[name_end + 2 :], PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if unpacker.eof else None


_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# In the coded data FF is followed by 00 or a restart number; anything else is the next marker.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)


def _inspect_jpeg(data: bytes) -> ImageFile:
    kept = [b"\xff\xd8"]
    profiles: list[bytes] = []
    size, orientation, scans, at = None, 1, 0, 2
    for _ in range(MOST_JPEG_SEGMENTS):
        found = _JPEG_MARKER.search(data, at)
        if found is None:
            raise unreadable("The JPEG file ends too early.")
        marker, begin = found[1][0], found.end()
        kept.append(data[at : found.start()])  # the coded data of a scan, or nothing
        if marker == 0xD9:
            kept.append(b"\xff\xd9")
            break
        if marker in (0x01, 0xD8):
            at = begin
            continue
        end = begin + int.from_bytes(data[begin : begin + 2], "big")
        if end > len(data) or end < begin + 2:
            raise unreadable("The JPEG file ends too early.")
        content = data[begin + 2 : end]
        if marker == 0xE1 and content.startswith(b"Exif\0\0") and orientation == 1:
            orientation = exif_orientation(content)
        elif marker == 0xE2 and content.startswith(b"ICC_PROFILE\0"):
            profiles.append(content[12:])
        if marker in _JPEG_FRAMES and len(content) >= 5:
            size = struct.unpack_from(">HH", content, 1)[::-1]
        if marker == 0xDA:
            scans += 1
            if scans > MOST_JPEG_SCANS:
                raise unreadable(f"The JPEG file has more than {MOST_JPEG_SCANS} scans.")
        # Of the application segments only JFIF's and Adobe's say how to read the colours.
        if (not 0xE0 <= marker <= 0xEF and marker != 0xFE) or marker in (0xE0, 0xEE):
            kept.append(b"\xff" + bytes([marker]) + data[begin:end])
        at = end
    else:
        raise unreadable(f"The JPEG file has more than {MOST_JPEG_SEGMENTS} segments.")
    return ImageFile("JPEG", b"".join(kept), size, _jpeg_profile(profiles), orientation)


def _jpeg_profile(pieces: list[bytes]) -> bytes | None:
    """Pieces carry their number and how many there are; an incomplete profile is none."""
    numbered = {piece[0]: piece[2:] for piece in pieces if len(piece) > 2 and piece[1] == len(pieces)}
    if not pieces or sorted(numbered) != list(range(1, len(pieces) + 1)):
        return None
    return b"".join(numbered[number] for number in sorted(numbered))


def _inspect_gif(data: bytes) -> ImageFile:
    if len(data) < 14:
        raise unreadable("The GIF file ends too early.")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    limit = min(len(data), MOST_GIF_PREAMBLE_BYTES)
    while at < limit and data[at] != 0x2C:
        if data[at] != 0x21:  # Pillow skips single stray bytes too
            at += 1
            continue
        at += 2
        while at < limit and data[at]:
            at += 1 + data[at]
        at += 1
    if at + 10 > len(data):
        raise unreadable("The GIF file has no picture.")
    if at >= limit:
        raise unreadable(f"The GIF file has more than {MOST_GIF_PREAMBLE_BYTES >> 20} MiB before its first picture.")
    x, y, wide, high = struct.unpack_from("<HHHH", data, at + 1)
    notes = ("first frame of an animation",) if _another_gif_frame(data, at) else ()
    return ImageFile("GIF", data, (max(width, x + wide), max(height, y + high)), notes=notes)


def _another_gif_frame(data: bytes, at: int) -> bool:
    """Whether another picture follows the one whose descriptor is there."""
    flags = data[at + 9]
    at = _after_gif_blocks(data, at + 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0))
    while at < len(data) and data[at] == 0x21:
        at = _after_gif_blocks(data, at + 2)
    return at < len(data) and data[at] == 0x2C


def _after_gif_blocks(data: bytes, at: int) -> int:
    """Where a row of sub-blocks ends, each with its length before it, an empty one last."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _inspect_webp(data: bytes) -> ImageFile:
    kind = data[12:16]
    if len(data) < 30:
        raise unreadable("The WEBP file ends too early.")
    if kind == b"VP8X":
        size = (1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
        notes = ("first frame of an animation",) if data[20] & 2 else ()
        return ImageFile("WEBP", data, size, notes=notes)
    if kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return ImageFile("WEBP", data, (1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)))
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageFile("WEBP", data, (width & 0x3FFF, height & 0x3FFF))
    raise unreadable("The WEBP file has no picture.")


def _inspect_bmp(data: bytes) -> ImageFile:
    (header,) = struct.unpack_from("<I", data, 14)
    if len(data) < 14 + header:
        raise unreadable("The BMP file ends too early.")
    if header == 12:
        return ImageFile("BMP", data, struct.unpack_from("<HH", data, 18))
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (1, 2) and abs(width * height) > MOST_RLE_PIXELS:
        raise unsupported(f"This is a run-length coded BMP of more than {MOST_RLE_PIXELS} pixels")
    return ImageFile("BMP", data, (abs(width), abs(height)))


def _inspect_heif(data: bytes, kind: str) -> ImageFile:
    notes = ("first picture of a sequence",) if data[8:12] in (b"avis", b"hevc", b"msf1") else ()
    try:
        size = largest_size(data)
    except ValueError as error:
        raise unreadable(f"The {kind} file is damaged or ends too early: {error}.") from error
    return ImageFile(kind, data, size, notes=notes)
