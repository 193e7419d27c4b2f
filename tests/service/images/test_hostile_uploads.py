"""Files that mean harm, or are broken: each gets its problem, in little memory, without being believed.

The figures of memory come from a process of its own that decodes with a bounded address space.
"""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from convscope.protocol.problems import ProblemError
from convscope.store.images import DecodedImage
from service.images.image_formats import ACCEPTED, MOST_JPEG_SCANS
from service.images.uploads import decode
from tests.service.image_files import exif, long, png, png_chunk, saved, short, tiff

MEGAPIXELS = 40.0
MIB = 1 << 20


def problem(data: bytes) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        decode(data, MEGAPIXELS)
    return caught.value


def picture(file_format: str, **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    return saved(Image.fromarray(noise), file_format, **options)


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", picture("PNG"))
    return buffer.getvalue()


FOREIGN = {
    "a PDF": b"%PDF-1.7\n1 0 obj",
    "Photoshop": b"8BPS\0\1" + bytes(40),
    "FITS": b"SIMPLE  =                    T",
    "MP4": b"\0\0\0\x18ftypisom\0\0\0\0",
    "JPEG XL": b"\xff\x0a\0\0",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "zip": zip_file(),
    "gzip": b"\x1f\x8b\x08\0",
    "SVG": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "HTML": b"<!DOCTYPE html><script>alert(1)</script>",
    "XML": b"<?xml version='1.0'?><!DOCTYPE lolz [<!ENTITY lol 'lol'>]>",
    "data URL": b"data:image/png;base64,iVBORw0KGgo=",
    "text": "Käse\r\n".encode(),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0",
    "Netpbm": b"P6 2 2 255\n" + bytes(12),
    "icon": b"\0\0\1\0\1\0",
    "DICOM": bytes(128) + b"DICM",
    "no image format": bytes(range(256)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_image_is_named(kind: str) -> None:
    error = problem(FOREIGN[kind])
    assert error.name == "unsupported-format"
    assert kind in error.detail
    assert error.extra["possible"] == list(ACCEPTED)


def test_nothing_at_all() -> None:
    assert problem(b"").name == "unreadable-image"


def ihdr(width: int, height: int) -> bytes:
    return png([b"\0"], width, 8, 0, height=height)


def vp8x(width: int, height: int) -> bytes:
    body = (
        b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\0\0\0\0"
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(width: int, height: int, compression: int = 0, data: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + header + bytes(1024) + data


def gif(width: int, height: int, wide: int = 1, high: int = 1, before: bytes = b"") -> bytes:
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + before + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, wide, high, 0) + b"\x02\x02\x44\x01\0\x3b"
    )  # fmt: skip


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(picture("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff_of(width: int, height: int, *more: tuple[int, int, int, bytes]) -> bytes:
    tags = {
        258: (258, 3, 1, short(8)), 259: (259, 3, 1, short(1)), 262: (262, 3, 1, short(1)), 273: (273, 4, 1, long(8)),
        277: (277, 3, 1, short(1)), 278: (278, 4, 1, long(height)), 279: (279, 4, 1, long(1)),
    }  # fmt: skip
    tags.update({entry[0]: entry for entry in more})
    return tiff(width, height, list(tags.values()), b"\0")


TOO_LARGE = {
    "png": ihdr(50_000, 50_000), "png of the greatest size": ihdr(2**31 - 1, 2**31 - 1), "webp": vp8x(16_000, 16_000),
    "webp of the greatest size": vp8x(2**24, 2**24), "bmp": bmp(30_000, -30_000), "gif": gif(65_535, 65_535),
    "gif by its frame": gif(1, 1, 65_535, 65_535), "jpeg": jpeg_of(65_500, 65_500), "tiff": tiff_of(60_000, 60_000),
    "tall": ihdr(1, 65_000), "wide": ihdr(65_000, 1), "one over the cap": ihdr(8000, 5001),
    "tall bmp": bmp(1, 39_000_000), "wide tiff": tiff_of(39_000_000, 1), "wide gif": gif(60_000, 1, 60_000, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_sizes_are_refused_by_the_header(kind: str) -> None:
    error = problem(TOO_LARGE[kind])
    assert error.name == "too-many-pixels"
    assert "limit_megapixels" in error.extra or error.extra["limit_aspect"] == 100


def test_the_caps_themselves_are_allowed() -> None:
    assert decode(saved(Image.new("L", (100, 1), 7), "PNG"), 1e-4).pixels.shape == (1, 100, 3)
    assert problem(saved(Image.new("L", (101, 1)), "PNG")).extra["limit_aspect"] == 100


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_files_cut_anywhere(file_format: str) -> None:
    whole = picture(file_format)
    assert decode(whole, MEGAPIXELS).pixels.shape == (24, 32, 3)
    for length in {*range(1, 64), *range(64, len(whole) - 2, 97)}:
        if file_format == "TIFF" and length >= 24 * 32 * 3 + 8:
            continue  # what is missing then is but metadata, or the directory
        assert problem(whole[:length]).name in {"unreadable-image", "unsupported-format"}, length


def test_a_wrong_name_does_not_matter_and_what_follows_a_picture_is_not_read() -> None:
    for file_format in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        plain, polyglot = picture(file_format), picture(file_format) + b"<script>alert(1)</script>" + zip_file()
        assert np.array_equal(decode(polyglot, MEGAPIXELS).pixels, decode(plain, MEGAPIXELS).pixels)


def test_checksums_and_missing_parts_of_a_png() -> None:
    whole = picture("PNG")
    at = whole.index(b"IDAT") + 40
    assert problem(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]).name == "unreadable-image"
    assert problem(whole[:8] + png_chunk(b"IEND", b"")).name == "unreadable-image"
    assert problem(whole[:8] + png_chunk(b"IHDR", bytes(13)) + png_chunk(b"IEND", b"")).name == "unreadable-image"
    assert problem(png([], 4, 8, 2, height=4)).name == "unreadable-image"
    assert problem(png([b"\0"], 4, 8, 9)).name == "unreadable-image"


def test_a_jpeg_of_endless_scans() -> None:
    # Each repeated scan of a progressive file is a few bytes and a pass over the whole picture.
    whole = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    begin = whole.rindex(b"\xff\xda")
    error = problem(whole[:begin] + whole[begin:-2] * (MOST_JPEG_SCANS + 1) + whole[-2:])
    assert error.name == "unreadable-image"
    assert "scans" in error.detail


def test_run_lengths_of_a_large_bmp() -> None:
    assert problem(bmp(6000, 6000, 1, b"\0\0" * 6000)).name == "unsupported-format"
    assert decode(bmp(2, 1, 1, b"\x02\x00\x00\x01"), MEGAPIXELS).pixels.shape == (1, 2, 3)


def test_tiff_of_other_compressions_and_tiles() -> None:
    for compression in (6, 34925, 50000, 50001, 34676, 60000):
        assert problem(tiff_of(8, 8, (259, 3, 1, short(compression)))).name in {
            "unsupported-format", "unreadable-image",
        }  # fmt: skip
    tiles = [(322, 4, 1, long(2**16)), (323, 4, 1, long(2**16)), (324, 4, 1, long(8)), (325, 4, 1, long(1))]
    assert problem(tiff_of(8, 8, *tiles)).name == "unreadable-image"


def compressed(byte: bytes, size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(byte * MIB) for _ in range(size // MIB)) + packer.flush()


def bombs() -> dict[str, bytes]:
    """Files of which believing a part would cost gigabytes or minutes."""
    row = b"\x10\x20\x30" * 4
    bomb = compressed(b"\0", 1024 * MIB)
    whole = png([row] * 4, 4, 8, 2)
    many = png_chunk(b"zTXt", b"a\0\0" + compressed(b"a", 8 * MIB)) * 500
    # One directory whose 4000 entries each claim the same 30 MiB.
    claims = b"".join(struct.pack("<HHII", 0x9000 + i, 7, 30 * MIB, 8) for i in range(4000))
    directory = b"Exif\0\0II*\0\x08\0\0\0" + short(4000) + claims + long(0) + bytes(30 * MIB)
    greedy = [(40_000 + i, 7, 16 * MIB, long(8)) for i in range(1000)]
    tiff_claims = tiff(4, 4, [
        (258, 3, 1, short(8)), (259, 3, 1, short(1)), (262, 3, 1, short(1)), (273, 4, 1, long(8)),
        (277, 3, 1, short(1)), (278, 4, 1, long(4)), (279, 4, 1, long(16)),
    ], bytes(16 * MIB))  # fmt: skip
    tiff_claims = tiff_claims[:4] + long(len(tiff_claims)) + tiff_claims[8:] + short(len(greedy) + 7) + b"".join(
        [struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in [
            (256, 4, 1, long(4)), (257, 4, 1, long(4)), (258, 3, 1, short(8)), (259, 3, 1, short(1)),
            (262, 3, 1, short(1)), (273, 4, 1, long(8)), (277, 3, 1, short(1)), *greedy,
        ]]
    ) + long(0)  # fmt: skip
    jpeg = saved(Image.new("RGB", (8, 8)), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 65_000 + 2) + b"Exif\0\0II*\0\x08\0\0\0" + bytes(65_000 - 14)
    return {
        "text": whole[:33] + png_chunk(b"zTXt", b"a\0\0" + bomb) + whole[33:],
        "many texts": whole[:33] + many + whole[33:],
        "international text": whole[:33] + png_chunk(b"iTXt", b"a\0\1\0\0\0" + bomb) + whole[33:],
        "profile": whole[:33] + png_chunk(b"iCCP", b"a\0\0" + bomb) + whole[33:],
        "pixels beyond the picture": whole[:33] + png_chunk(b"IDAT", bomb) + png_chunk(b"IEND", b""),
        "chunks": whole[:33] + png_chunk(b"aaAa", b"") * 1_000_000 + whole[33:],
        "empty pixel chunks": whole[:33] + png_chunk(b"IDAT", b"") * 1_000_000 + whole[33:],
        "png exif": whole[:33] + png_chunk(b"eXIf", directory[6:]) + whole[33:],
        "webp exif": saved(Image.new("RGB", (8, 8)), "WEBP", exif=directory),
        "jpeg exif": jpeg[:2] + segment * 400 + jpeg[2:],
        "jpeg segments": jpeg[:2] + b"\xff\xfe\0\2" * 4_000_000 + jpeg[2:],
        "jpeg fill": jpeg[:2] + b"\xff" * 30 * MIB,
        "gif comments": gif(1, 1, before=b"\x21\xfe" + (b"\xff" + b"a" * 255) * 120_000 + b"\0"),
        "gif extensions": gif(1, 1, before=b"\x21\x01\0" * 4_000_000),
        "gif junk": gif(1, 1, before=b"\1" * 20 * MIB),
        "gif trailing blocks": gif(1, 1)[:-1] + b"\x21\x01" + b"\1\1" * 8_000_000 + b"\0\x3b",
        "tiff claims": tiff_claims,
        "bmp deltas": bmp(990_000, 1, 1, b"\0\2\xff\xff" * 100_000),
        "exif orientation of a TIFF": tiff_of(4, 4, (274, 3, 30 * MIB, short(6))),
    }


DECODE = """
import resource, sys, time
from service.images.uploads import decode
from convscope.protocol.problems import ProblemError
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]), int(sys.argv[3]) + 1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = open(sys.argv[1], "rb").read()
try:
    print("pixels", decode(data, 40.0).pixels.shape)
except ProblemError as error:
    print(error.name)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert used * 1024 < int(sys.argv[2]), f"{used} KiB"
print(f"{used / 1024:.0f} MiB, {time.process_time():.2f} s of processor with the start", file=sys.stderr)
"""


BOMBS = bombs()


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_cost_neither_memory_nor_time(kind: str, tmp_path: Path) -> None:
    data = BOMBS[kind]
    assert len(data) <= 40 * MIB
    file = tmp_path / "bomb"
    file.write_bytes(data)
    # Twice the file and 64 MiB of memory; 10 s of processor stop what would take minutes.
    command = [sys.executable, "-c", DECODE, str(file), str(2 * len(data) + 64 * MIB), "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    print(kind, done.stdout.strip(), done.stderr.strip())
    assert done.stdout.startswith(("pixels", "unreadable-image", "unsupported-format", "too-many-pixels"))


def corpus() -> list[bytes]:
    rgb = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 13, 3), np.uint8))
    files = [saved(rgb, each) for each in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    files += [saved(rgb, "TIFF", compression=each) for each in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
    files += [
        saved(rgb, "JPEG", progressive=True, exif=exif(6)),
        saved(rgb.convert("CMYK"), "JPEG"),
        saved(rgb.convert("P"), "PNG", transparency=3),
        saved(rgb.convert("LA"), "PNG"),
        saved(rgb.convert("1"), "TIFF", compression="group4"),
        saved(rgb, "WEBP", lossless=True),
        saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
        saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
    ]
    return files


CORPUS = corpus()


def survives(data: bytes) -> None:
    try:
        decoded = decode(data, 1.0)
    except ProblemError as error:
        assert error.status in (413, 422)
        return
    assert isinstance(decoded, DecodedImage)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape[2] == 3
    assert decoded.pixels.size <= 3e6


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_flipped_bytes_give_pixels_or_a_problem(data: st.DataObject) -> None:
    broken = bytearray(data.draw(st.sampled_from(CORPUS)))
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(broken))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF"]), st.binary()
)
def test_any_bytes_after_a_magic(magic: bytes, rest: bytes) -> None:
    survives(magic + rest)


def test_headers_with_random_damage() -> None:
    chance = random.Random(0)
    for whole in CORPUS:
        for _ in range(60):
            broken = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                broken[chance.randrange(min(120, len(broken)))] = chance.randrange(256)
            survives(bytes(broken))
