"""Uploaded files → checked 8-bit sRGB pixels, in threads of their own, and kept. Knows image files, nothing of HTTP.

The bytes decide, never a name or a declared type. What is too large is refused by its header, before anything is
decoded; whatever a decoder does with a broken file ends as a ProblemError.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
import logging
import string
import struct
import warnings
import zlib
from functools import partial
from typing import Any

from PIL import Image, UnidentifiedImageError
from pillow_heif import register_heif_opener

from convscope.protocol.problems import ProblemError
from convscope.store.images import INLINE_BYTES, DecodedImage, ImageRecord, Images
from service.images.arrays import Range, draw, is_array, read_array, to_planes
from service.images.decoders import decoders
from service.images.image_formats import exif_orientation, inspect, unreadable, unsupported
from service.images.pixels import orient, to_srgb

# Of a HEIF file the primary picture alone; libheif keeps its own limits on boxes, items and memory.
register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

# One side at most so many times the other: a network's preprocessing scales the shorter side to a few hundred pixels,
# and 1×65000 would become 224×14,560,000.
MOST_ASPECT = 100

TIFF_COMPRESSIONS = frozenset(
    {"raw", "tiff_ccitt", "group3", "group4", "tiff_lzw", "jpeg", "tiff_adobe_deflate", "tiff_deflate",
     "tiff_raw_16", "packbits"}
)  # fmt: skip

# What Pillow and its decoders raise for files that are broken, as Hypothesis and the field have shown it.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
    EOFError, RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip

# A file may bring a thousand oddities; what matters of them is said in the problem, the rest would fill the log.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


async def decode_image(data: bytes, *, megapixels: float, value_range: Range | None = None) -> DecodedImage:
    """Decode a file outside the event loop.

    Args:
        data: the file's bytes: PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF or HEIF; of several frames the first is taken.
            Or an array, .npy or safetensors.
        megapixels: most pixels, in millions.
        value_range: which numbers of more than 8 bits become black and white; None goes by the file.

    Raises:
        ProblemError: `unsupported-format`, `unreadable-image`, `too-many-pixels`; `queue-full` where too many are
            being decoded.
    """
    return await decoders().run(lambda: decode(data, megapixels, value_range))


async def read_base64(text: str) -> bytes:
    """The file that is given in base64, with or without a `data:…;base64,` before it.

    Raises:
        ProblemError: `unreadable-image` for what is no base64; `queue-full` as `decode_image`.
    """
    return await decoders().run(lambda: _from_base64(text))


async def keep_image(
    images: Images, caller: str, data: bytes, *, megapixels: float, value_range: Range | None = None
) -> ImageRecord:
    """The image of a file, decoded and kept; one that the caller sent a moment ago is not decoded again.

    Args:
        images: where it is kept.
        caller: whose it is.
        data, megapixels, value_range: see `decode_image`.

    Raises:
        ProblemError: as `decode_image` and `Images.add`.
    """
    name = partial(sha256, data, value_range)
    digest = name() if len(data) < INLINE_BYTES else await asyncio.to_thread(name)
    known = await images.known(caller, digest)
    decoding = partial(decode_image, data, megapixels=megapixels, value_range=value_range)
    return known or await images.add(caller, await decoding())


def sha256(data: bytes, value_range: Range | None = None) -> str:
    """What a file is known by, hex; with a range, which makes other pixels of it, another name."""
    digest = hashlib.sha256(data)
    if value_range is not None:
        digest.update(f" range {value_range[0]!r},{value_range[1]!r}".encode())
    return digest.hexdigest()


def _decode_array(data: bytes, kind: str, megapixels: float, value_range: Range | None) -> DecodedImage:
    file = read_array(data, kind)
    height, width, _ = file.values.shape
    check_size(width, height, megapixels)
    planes, notes = to_planes(file, value_range)
    pixels, drawn = draw(planes)
    for array in (pixels, planes):
        array.flags.writeable = False
    return DecodedImage(pixels, kind, sha256(data, value_range), (*notes, drawn), planes)


def decode(data: bytes, megapixels: float, value_range: Range | None = None) -> DecodedImage:
    """Decode a file here and now; see `decode_image`.

    Raises:
        ProblemError: `unsupported-format`, `unreadable-image`, `too-many-pixels`.
    """
    if (kind := is_array(data)) is not None:
        return _decode_array(data, kind, megapixels, value_range)
    file = inspect(data)
    if file.size is not None:
        check_size(*file.size, megapixels)
    try:
        with Image.open(io.BytesIO(file.data), formats=(file.format,)) as image:
            check_size(*image.size, megapixels)
            if file.format == "TIFF":
                _check_tiff(image, megapixels)
            pixels, notes = to_srgb(image, file, value_range)
            orientation = file.orientation
            if file.format in ("WEBP", "AVIF"):  # of AVIF what its own boxes say, which Pillow hands on as EXIF
                orientation = exif_orientation(image.info.get("exif", b""))
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("The image has more pixels than any is allowed", megapixels) from error
    except UnidentifiedImageError as error:
        raise unreadable(f"This begins like a {file.format} file, but is damaged or of a kind nobody reads.") from error
    except _DECODER_ERRORS as error:
        raise unreadable(f"The {file.format} file is damaged or ends too early.") from error
    if orientation != 1:
        pixels = orient(pixels, orientation)
        notes.append(f"turned by EXIF orientation {orientation}")
    pixels.flags.writeable = False
    return DecodedImage(pixels, file.format, sha256(data, value_range), (*file.notes, *notes))


def check_size(width: int, height: int, megapixels: float) -> None:
    """Refuse what has no pixels, too many, or sides that differ too much.

    Raises:
        ProblemError: `unreadable-image`, `too-many-pixels`.
    """
    if width < 1 or height < 1:
        raise unreadable(f"The image has {width} × {height} pixels.")
    if width * height > megapixels * 1e6:
        raise _too_many_pixels(f"The image has {width} × {height} pixels", megapixels)
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise ProblemError(
            "too-many-pixels",
            f"The image has {width} × {height} pixels; scaled to a network's input it would have far too many. One "
            f"side may be {MOST_ASPECT} times the other at most.",
            width=width,
            height=height,
            limit_aspect=MOST_ASPECT,
        )


def _too_many_pixels(what: str, megapixels: float) -> ProblemError:
    return ProblemError("too-many-pixels", f"{what}; {megapixels:g} million are allowed.", limit_megapixels=megapixels)


def _check_tiff(image: Any, megapixels: float) -> None:
    """TIFF nests other formats and sizes of its own, which its decoder would believe."""
    compression = image.info.get("compression")
    if compression not in TIFF_COMPRESSIONS:
        raise unsupported(f"This is a TIFF with {str(compression)[:40]} compression")
    tags = image.tag_v2
    tile = (tags.get(322, 1), tags.get(323, 1))
    if not all(isinstance(side, int) for side in tile) or tile[0] * tile[1] > 2 * megapixels * 1e6:
        raise unreadable("The TIFF file has tiles of an impossible size.")
    if len(image.tile) > 65_536:
        raise unreadable("The TIFF file has too many strips.")


_WHITE_SPACE = string.whitespace.encode()


def _from_base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # Bytes throughout: words as strings of their own would take twenty times the text.
        return base64.b64decode(text.encode("ascii").translate(None, _WHITE_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise unreadable("The image is not valid base64.") from error
