"""AVIF and HEIF (HEIC) uploads: pixels, orientation, transparency, sizes by the boxes, broken boxes."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from convscope.protocol.problems import ProblemError
from service.images.heif_boxes import MOST_BOXES, heif_kind, largest_size
from service.images.pixels import orient
from service.images.uploads import decode

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
LOSSLESS = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "HEIF": {"quality": -1, "chroma": 444}}
KINDS = list(LOSSLESS)


def saved(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **(LOSSLESS[kind] | options))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_come_out_as_they_went_in(kind: str) -> None:
    found = decode(saved(NOISE, kind), 1.0)
    # Colours pass through luma and chroma of 8 bits.
    assert np.abs(found.pixels.astype(int) - NOISE).max() <= 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_pictures_are_turned_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(saved(NOISE, kind, exif=exif.tobytes()), 1.0).pixels
    wanted = orient(NOISE, orientation)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 3


@pytest.mark.parametrize("kind", KINDS)
def test_transparency_lies_on_white(kind: str) -> None:
    clear = np.dstack([NOISE, np.zeros((20, 30), np.uint8)])
    found = decode(saved(clear, kind), 1.0)
    assert (found.pixels == 255).all() and "transparency on white" in found.notes


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_refused_by_the_boxes_before_anything_is_decoded(kind: str) -> None:
    data = saved(NOISE, kind)
    size = largest_size(data)
    assert size is not None and size[0] >= 30 and size[1] >= 20  # HEVC pads small pictures
    data = data.replace(struct.pack(">II", *size), struct.pack(">II", 60_000, 60_000))
    with pytest.raises(ProblemError) as caught:
        decode(data, 40.0)
    assert caught.value.name == "too-many-pixels"


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (b"heic\0\0\0\0mif1", "HEIF"),
        (b"mif1\0\0\0\0heic", "HEIF"),
        (b"mif1\0\0\0\0avif", "AVIF"),
        (b"isom\0\0\0\0mp42", None),
    ],
)
def test_the_brands_say_the_kind(brands: bytes, kind: str | None) -> None:
    assert heif_kind(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands) == kind


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def test_the_largest_picture_counts() -> None:
    sizes = b"".join(box(b"ispe", struct.pack(">III", 0, *size)) for size in ((512, 512), (4032, 3024), (320, 240)))
    assert largest_size(box(b"meta", bytes(4) + box(b"iprp", box(b"ipco", sizes)))) == (4032, 3024)
    assert largest_size(box(b"moov", bytes(20))) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (box(b"meta", bytes(4) + struct.pack(">I4s", 99, b"iprp")), "ends outside"),
        (struct.pack(">I4s", 4, b"meta"), "ends outside"),
        (box(b"free", b"") * (MOST_BOXES + 1), "more than"),
    ],
)
def test_broken_boxes_say_why(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        largest_size(data)
