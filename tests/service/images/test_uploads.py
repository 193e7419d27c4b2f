"""Every kind of image file, by pixels computed by hand; orientation and profiles."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageCms

from convscope.protocol.problems import ProblemError
from service.images.pixels import _round_16, orient
from service.images.uploads import decode, decode_image, read_base64
from tests.service.image_files import exif, grey_tiff, long, png, png16, png_chunk, saved, short, tiff

MEGAPIXELS = 40.0


def pixels(data: bytes) -> list[list[list[int]]]:
    """Decoded pixels as nested lists, after checking what always holds."""
    decoded = decode(data, MEGAPIXELS)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.ndim == 3
    assert decoded.pixels.shape[2] == 3
    assert decoded.pixels.flags.c_contiguous
    assert decoded.sha256 == hashlib.sha256(data).hexdigest()
    return decoded.pixels.tolist()


def grey(*rows: list[int]) -> list[list[list[int]]]:
    return [[[value] * 3 for value in row] for row in rows]


RGB = np.array([[[255, 0, 0], [0, 128, 7]], [[1, 2, 3], [200, 100, 50]]], np.uint8)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_rgb_comes_out_as_it_went_in(file_format: str) -> None:
    assert pixels(saved(Image.fromarray(RGB), file_format)) == RGB.tolist()


def test_webp_lossless() -> None:
    assert pixels(saved(Image.fromarray(RGB), "WEBP", lossless=True)) == RGB.tolist()


def test_jpeg_of_one_colour() -> None:
    flat = Image.new("RGB", (16, 16), (90, 90, 90))
    assert pixels(saved(flat, "JPEG", quality=95)) == [[[90, 90, 90]] * 16] * 16


def test_progressive_jpeg() -> None:
    flat = Image.new("L", (32, 32), 77)
    assert pixels(saved(flat, "JPEG", progressive=True)) == grey(*[[77] * 32] * 32)


def test_interlaced_png() -> None:
    # Seven passes of a 1×1 picture: only the first has a row.
    assert pixels(png([b"\x01\x02\x03"], 1, 8, 2, interlace=1)) == [[[1, 2, 3]]]


def test_greyscale() -> None:
    assert pixels(saved(Image.fromarray(np.array([[0, 9], [254, 255]], np.uint8)), "PNG")) == grey([0, 9], [254, 255])


@pytest.mark.parametrize(("bits", "row", "expected"), [
    (1, b"\x40", [0, 255]), (2, b"\x90", [170, 85]), (4, b"\xf1", [255, 17]),
])  # fmt: skip
def test_grey_below_8_bits_is_widened(bits: int, row: bytes, expected: list[int]) -> None:
    assert pixels(png([row], 2, bits, 0)) == grey(expected)


@pytest.mark.parametrize(("bits", "row", "clear", "expected"), [
    (1, b"\x40", 1, [0, 255]), (2, b"\x90", 1, [170, 255]), (4, b"\xf1", 15, [255, 17]), (8, b"\x07\x08", 7, [255, 8]),
])  # fmt: skip
def test_grey_with_a_transparent_value(bits: int, row: bytes, clear: int, expected: list[int]) -> None:
    data = png([row], 2, bits, 0, png_chunk(b"tRNS", struct.pack(">H", clear)))
    assert pixels(data) == grey(expected)


def test_rgb_with_a_transparent_value() -> None:
    trns = png_chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    assert pixels(png([b"\x01\x02\x03\x01\x02\x04"], 2, 8, 2, trns)) == [[[255, 255, 255], [1, 2, 4]]]


def test_palette() -> None:
    plte = png_chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    assert pixels(png([b"\x00\x01\x01"], 3, 8, 3, plte)) == [[[10, 20, 30], [40, 50, 60], [40, 50, 60]]]


def test_palette_with_transparency_lies_on_white() -> None:
    plte = png_chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60, 0, 0, 0]))
    trns = png_chunk(b"tRNS", bytes([255, 0, 51]))
    # 51 / 255 = 0.2 of black on white: 204.
    assert pixels(png([b"\x00\x01\x02"], 3, 8, 3, plte, trns)) == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_alpha_lies_on_white_and_the_record_says_so() -> None:
    rgba = np.array([[[100, 0, 255, 255], [100, 0, 255, 0], [100, 0, 255, 128]]], np.uint8)
    data = saved(Image.fromarray(rgba), "PNG")
    # 100·128/255 + 127 = 177.2; 0 + 127 = 127; 255.
    assert pixels(data) == [[[100, 0, 255], [255, 255, 255], [177, 127, 255]]]
    assert decode(data, MEGAPIXELS).notes == ("transparency on white",)


def test_opaque_alpha_needs_no_note() -> None:
    assert decode(saved(Image.new("RGBA", (2, 2), (1, 2, 3, 255)), "PNG"), MEGAPIXELS).notes == ()


def test_grey_with_alpha() -> None:
    image = Image.fromarray(np.array([[[100, 255], [0, 51]]], np.uint8))
    assert image.mode == "LA"
    assert pixels(saved(image, "PNG")) == grey([100, 204])


def test_sixteen_bit_grey_is_scaled_and_rounded() -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    # v / 257: 0, .498, .502, 1, 127.502, 254.498, 254.502, 255
    assert pixels(png16(values[..., None])) == grey([0, 0, 1, 1, 128, 254, 255, 255])


def test_sixteen_bit_grey_with_a_transparent_value() -> None:
    trns = png_chunk(b"tRNS", struct.pack(">H", 257))
    assert pixels(png16(np.array([[[257], [258]]], np.uint16), trns)) == grey([255, 1])


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colour_is_scaled_and_rounded(channels: int) -> None:
    values = np.array([[0, 128, 129, 383, 384, 386], [65535, 65407, 65406, 33000, 32767, 32768]], np.uint16)
    image = np.repeat(values[..., None], channels, axis=2)
    if channels in (2, 4):
        image[..., -1] = 65535
    assert pixels(png16(image)) == grey([0, 0, 1, 1, 1, 2], [255, 255, 254, 128, 127, 128])


def test_sixteen_bit_colour_with_alpha_and_with_a_transparent_value() -> None:
    rgba = np.array([[[25700, 0, 65535, 13107]]], np.uint16)  # 100, 0, 255 at 51: 100·.2 + 204 = 224
    assert pixels(png16(rgba)) == [[[224, 204, 255]]]
    trns = png_chunk(b"tRNS", struct.pack(">HHH", 256, 257, 258))
    rgb = np.array([[[256, 257, 258], [256, 257, 259]]], np.uint16)
    assert pixels(png16(rgb, trns)) == [[[255, 255, 255], [1, 1, 1]]]


def test_rounding_of_16_bits_is_exact_for_every_value() -> None:
    values = np.arange(65536, dtype=np.uint32).reshape(256, 256)
    rounded = _round_16((values >> 8).astype(np.uint8), (values & 255).astype(np.uint8))
    assert np.array_equal(rounded, np.floor(values / 257 + 0.5).astype(np.uint8))


def test_sixteen_bit_tiff() -> None:
    values = np.array([[0, 129], [32768, 65535]], np.uint16)
    assert pixels(grey_tiff(values)) == grey([0, 1], [128, 255])
    assert pixels(grey_tiff(values, photometric=0)) == grey([255, 254], [127, 0])


@pytest.mark.parametrize("compression", ["raw", "deflate"])
def test_sixteen_bit_rgb_tiff(compression: str) -> None:
    import zlib

    values = np.array([[[129, 128, 65535]]], "<u2").tobytes()
    data = values if compression == "raw" else zlib.compress(values)
    entries = [
        (258, 3, 3, short(16, 16, 16)), (259, 3, 1, short(1 if compression == "raw" else 8)), (262, 3, 1, short(2)),
        (273, 4, 1, long(8)), (277, 3, 1, short(3)), (278, 4, 1, long(1)), (279, 4, 1, long(len(data))),
    ]  # fmt: skip
    assert pixels(tiff(1, 1, entries, data)) == [[[1, 0, 255]]]


def test_integers_without_a_white_are_stretched() -> None:
    data = grey_tiff(np.array([[-1000, 0, 1000]], np.int32))
    assert pixels(data) == grey([0, 128, 255])
    assert "-1000 to 1000 stretched to 8 bits" in decode(data, MEGAPIXELS).notes


def test_floats() -> None:
    assert pixels(grey_tiff(np.array([[0.0, 0.5, 1.0]], np.float32))) == grey([0, 128, 255])
    assert pixels(grey_tiff(np.array([[-2, 0, 2, np.nan, np.inf]], np.float32))) == grey([0, 128, 255, 0, 0])
    assert pixels(grey_tiff(np.full((1, 2), 7, np.float32))) == grey([0, 0])


def test_one_bit() -> None:
    image = Image.fromarray(np.array([[255, 0, 255]], np.uint8)).convert("1")
    for file_format in ("PNG", "BMP", "TIFF"):
        assert pixels(saved(image, file_format)) == grey([255, 0, 255])
    assert pixels(saved(image, "TIFF", compression="group4")) == grey([255, 0, 255])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff(compression: str) -> None:
    assert pixels(saved(Image.fromarray(RGB), "TIFF", compression=compression)) == RGB.tolist()


def test_inks() -> None:
    cmyk = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (0, 128, 255, 51)])
    # (255−C)(255−K)/255 with K = 51: 204, 101.6, 0
    assert pixels(saved(cmyk, "TIFF"))[0][0] == [204, 102, 0]
    # Pillow writes inks inverted with Adobe's mark, as Photoshop does.
    jpeg = saved(cmyk, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in jpeg
    assert np.abs(np.array(pixels(jpeg)) - [204, 102, 0]).max() <= 2


def test_adobe_ycck_jpeg() -> None:
    # Inks are stored inverted; marked with Adobe's transform 2 the first three are luma and chroma of 255 − stored.
    # So an ink of 155 is stored as luma 100, read as stored ink 255 − 100, inverted to an ink of 100: light 155.
    cmyk = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (155, 127, 127, 0)])
    jpeg = saved(cmyk, "JPEG", quality=100, subsampling=0)
    at = jpeg.index(b"Adobe") + 11
    found = np.array(pixels(jpeg[:at] + b"\x02" + jpeg[at + 1 :]))
    assert np.abs(found - 155).max() <= 1


def test_what_cmyk_was_done_with_is_noted() -> None:
    cmyk = saved(Image.new("CMYK", (4, 4), (0, 128, 255, 51)), "TIFF")
    assert decode(cmyk, MEGAPIXELS).notes == ("CMYK by a formula, without a profile",)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_gif_of_several_frames_is_noted_however_it_was_made(frames: int) -> None:
    """Without the extensions that most animations have: descriptors and data, one behind the other."""
    whole = saved(Image.effect_noise((40, 30), 80).convert("P"), "GIF")
    start = whole.index(b"\x2c\x00\x00\x00\x00\x28\x00\x1e\x00")
    frame = whole[start:-1]
    assert whole[-1:] == b"\x3b"
    data = whole[:start] + b"\x21\xfe\x02hi\x00".join([frame] * frames) + b"\x3b"
    found = decode(data, MEGAPIXELS)
    assert found.notes == (("first frame of an animation",) if frames > 1 else ())
    assert (found.pixels == decode(whole, MEGAPIXELS).pixels).all()
    for end in range(start, len(whole) + 20, 7):
        with contextlib.suppress(ProblemError):
            decode(data[:end], MEGAPIXELS)


def test_animations_give_their_first_frame() -> None:
    first, second = Image.new("RGB", (3, 2), (255, 0, 0)), Image.new("RGB", (3, 2), (0, 0, 255))
    for file_format, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(first, file_format, save_all=True, append_images=[second], **options)
        assert pixels(data) == [[[255, 0, 0]] * 3] * 2
        assert any("animation" in note for note in decode(data, MEGAPIXELS).notes), file_format


def test_gif_with_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 1, 2, 3])
    image.putpixel((1, 0), 1)
    assert pixels(saved(image, "GIF")) == [[[9, 8, 7], [1, 2, 3]]]
    assert pixels(saved(image, "GIF", transparency=1)) == [[[9, 8, 7], [255, 255, 255]]]


# A picture of 2×3 pixels as it is stored for each orientation, so that upright it always reads abc / def.
A, B, C, D, E, F = ([value] * 3 for value in (10, 20, 30, 40, 50, 60))
STORED = {
    1: [[A, B, C], [D, E, F]],
    2: [[C, B, A], [F, E, D]],
    3: [[F, E, D], [C, B, A]],
    4: [[D, E, F], [A, B, C]],
    5: [[A, D], [B, E], [C, F]],
    6: [[C, F], [B, E], [A, D]],
    7: [[F, C], [E, B], [D, A]],
    8: [[D, A], [E, B], [F, C]],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    stored = np.array(STORED[orientation], np.uint8)
    assert orient(stored, orientation).tolist() == [[A, B, C], [D, E, F]]
    upright = [[A, B, C], [D, E, F]]
    block = exif(orientation)
    assert pixels(saved(Image.fromarray(stored), "PNG", exif=block)) == upright
    assert pixels(saved(Image.fromarray(stored), "WEBP", lossless=True, exif=block)) == upright
    assert pixels(saved(Image.fromarray(stored), "TIFF", tiffinfo={274: orientation})) == upright
    # A JPEG of blocks of 8×8, since it does not keep single pixels.
    blocks = Image.fromarray(stored.repeat(8, axis=0).repeat(8, axis=1))
    found = np.array(pixels(saved(blocks, "JPEG", quality=100, subsampling=0, exif=block)))
    assert np.abs(found[4::8, 4::8].astype(int) - np.array(upright)).max() <= 1


@pytest.mark.parametrize("block", [
    b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 40,
    exif(0), exif(9), exif(65535), exif(6)[:-6], b"Exif\0\0garbage that is long enough",
])  # fmt: skip
def test_broken_exif_does_no_harm(block: bytes) -> None:
    flat = Image.new("RGB", (8, 4), (5, 5, 5))
    for file_format in ("JPEG", "PNG", "WEBP"):
        assert np.array(pixels(saved(flat, file_format, exif=block))).shape[:2] in {(4, 8), (8, 4)}


def swapped_profile() -> bytes:
    """sRGB with red and green primaries exchanged: applying it exchanges the channels."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    places = {bytes(profile[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    at, size = struct.unpack_from(">II", profile, places[b"desc"] + 4)
    profile[at : at + size] = bytes(profile[at : at + size]).replace(
        "sRGB".encode("utf-16-be"), "oddo".encode("utf-16-be")
    )
    return bytes(profile)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_colour_profile_is_applied(file_format: str) -> None:
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    data = saved(
        flat, file_format, icc_profile=swapped_profile(), **({"quality": 100} if file_format == "JPEG" else {})
    )
    decoded = decode(data, MEGAPIXELS)
    assert "colour profile applied" in decoded.notes
    assert np.abs(decoded.pixels.astype(int) - [40, 200, 90]).max() <= 6


def test_srgb_itself_and_broken_profiles_change_nothing() -> None:
    flat = Image.fromarray(RGB)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey_image = Image.fromarray(RGB[..., 0])
    assert pixels(saved(flat, "PNG", icc_profile=srgb)) == RGB.tolist()
    assert pixels(saved(flat, "PNG", icc_profile=b"nonsense" * 40)) == RGB.tolist()
    assert pixels(saved(flat, "PNG", icc_profile=swapped_profile()[:200])) == RGB.tolist()
    assert pixels(saved(grey_image, "PNG", icc_profile=swapped_profile())) == grey(*RGB[..., 0].tolist())
    decoded = decode(saved(grey_image, "PNG", icc_profile=swapped_profile()), MEGAPIXELS)
    assert decoded.notes == ("colour profile ignored: of another colour space",)


async def test_decoding_from_base64_and_outside_the_loop() -> None:
    data = saved(Image.fromarray(RGB), "PNG")
    text = base64.b64encode(data).decode()
    assert (await decode_image(data, megapixels=1)).pixels.tolist() == RGB.tolist()
    for given in (text, f"data:image/png;base64,{text}", "\n".join(text[i : i + 60] for i in range(0, len(text), 60))):
        assert await read_base64(given) == data
    for wrong in ("", "ä", "=", "abc", text[:-5], "data:,"):
        with pytest.raises(ProblemError) as caught:
            await decode_image(await read_base64(wrong), megapixels=1)
        assert caught.value.name in {"unreadable-image", "unsupported-format"}


async def test_base64_in_many_words_takes_no_more_memory_than_in_one() -> None:
    text = "abc " * (1 << 18)  # four words make three groups
    tracemalloc.start()
    try:
        assert len(await read_base64(text)) == 3 * 3 * (1 << 16)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text)
    finally:
        tracemalloc.stop()
