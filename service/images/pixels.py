"""Decoded images of every kind → 8-bit sRGB: depth, palette, transparency, inks, profile, orientation.

Pillow and numpy only; a table of rules, each with its golden test. All shapes are H×W or H×W×C.

* More than 8 bits: scaled so that the darkest and lightest code stay so, and rounded.
* 32-bit integers, signed integers, and floats that leave 0…1 say no white: their smallest value becomes black, their
  largest white, what is not finite black. Floats within 0…1 are scaled by 255.
* Transparency lies on white (`BACKGROUND`), blended in sRGB's own numbers as browsers do.
* Inks without a usable profile: R = (255 − C)(255 − K) / 255, and so on.
* An ICC profile of the right kind is applied (perceptual); one that is broken, or sRGB already, is not.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from convscope.store.images import Pixels
from service.images.image_formats import PROFILE_BYTES, ImageFile, unsupported

BACKGROUND = 255
# Wide intermediate types are used for so many pixels at once.
BLOCK_PIXELS = 1 << 20

Mask = npt.NDArray[np.bool_]


def to_srgb(
    image: Image.Image, file: ImageFile, value_range: tuple[float, float] | None = None
) -> tuple[Pixels, list[str]]:
    """The pixels of an opened file as uint8 H×W×3 sRGB, and notes of what was done to them.

    Args:
        image, file: the opened file.
        value_range: which numbers of more than 8 bits become black and white; None goes by the file.

    Raises:
        ProblemError: `unsupported-format` for colours without a rule.
        Exception: whatever Pillow raises for a broken file.
    """
    notes: list[str] = []
    profile = file.profile or image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        grey, clear = _deep_grey(image, notes, value_range)
        colour, alpha = Image.fromarray(grey), None if clear is None else _alpha_where(~clear)
    elif file.format in ("PNG", "TIFF") and (deep := _deep_colour(image, file, notes, value_range)) is not None:
        colour, alpha = deep
    else:
        colour, alpha = _split(image, file)
    pixels = _apply_profile(colour, profile, notes)
    if alpha is not None and (alpha < 255).any():
        pixels = _blend(pixels, alpha)
        notes.append("transparency on white")
    return pixels, notes


def orient(pixels: Pixels, orientation: int) -> Pixels:
    """The picture turned as its EXIF orientation, 1 to 8, says."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _split(image: Image.Image, file: ImageFile) -> tuple[Image.Image, Pixels | None]:
    """Colour without transparency (mode L, RGB or CMYK), and opacity, from the modes of 8 bits and fewer."""
    transparency = image.info.get("transparency")
    mode = image.mode
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (mode == "P" and transparency is not None):
        # Premultiplied grey has one way out, by its own kind with straight alpha.
        image = (image.convert("LA") if mode == "La" else image).convert("RGBA")
        return image.convert("RGB"), np.asarray(image.getchannel("A"))
    if mode in ("P", "RGBX", "YCbCr"):
        return image.convert("RGB"), None
    if mode == "1":
        image = image.convert("L")
    if mode not in ("1", "L", "RGB", "CMYK"):
        raise unsupported(f"This {file.format} has colours of mode {mode}")
    if transparency is None or mode == "CMYK":
        return image, None
    # Grey below 8 bits was widened to 8, the transparent value was not.
    scale = 255 // (2**file.bits - 1) if mode == "L" and file.bits < 8 else 1
    clear = np.asarray(image) == np.asarray(transparency) * scale
    return image, _alpha_where(~(clear.all(axis=2) if clear.ndim == 3 else clear))


def _deep_grey(
    image: Image.Image, notes: list[str], value_range: tuple[float, float] | None
) -> tuple[Pixels, Mask | None]:
    values = np.asarray(image)
    if value_range is not None:
        transparency = image.info.get("transparency") if image.mode.startswith("I;16") else None
        return _ranged(values, value_range, notes), None if transparency is None else values == transparency
    if not image.mode.startswith("I;16"):
        return _stretch(values, notes), None
    transparency = image.info.get("transparency")
    clear = None if transparency is None else values == transparency
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(258) == (12,):
        grey = _by_blocks(values, lambda block: (block.astype(np.uint32) * 255 + 2047) // 4095)
        notes.append(f"12 bits scaled to 8{_found(values)}")
    else:
        wide = values.astype(np.uint16, copy=False)
        grey = _round_16((wide >> 8).astype(np.uint8), (wide & 255).astype(np.uint8))
        notes.append(f"16 bits scaled to 8{_found(wide)}")
    if tags.get(262) == 0:  # white is zero, which Pillow leaves as it is at this depth
        grey = 255 - grey
    return grey, clear


def _found(values: npt.NDArray[Any]) -> str:
    """Which numbers there are, so that a range can be wished where they are few."""
    return f"; values from {int(values.min())} to {int(values.max())} found"


def _ranged(values: npt.NDArray[Any], value_range: tuple[float, float], notes: list[str]) -> Pixels:
    """Numbers as 8 bits, black and white where the caller wishes."""
    low, high = value_range
    notes.append(
        f"{low:g} to {high:g} scaled to 8 bits{_found(values)}"
        if values.dtype.kind in "ui"
        else f"{low:g} to {high:g} scaled to 8 bits"
    )

    def scale(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scaled = (block.astype(np.float64) - low) / (high - low) * 255
        return np.floor(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255) + 0.5)

    return _by_blocks(values, scale)


def _stretch(values: npt.NDArray[Any], notes: list[str]) -> Pixels:
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
        notes.append("0 to 1 scaled to 8 bits")
    else:
        notes.append(f"{low:g} to {high:g} stretched to 8 bits")
    span = high - low
    if span <= 0 or not np.isfinite(span):
        span = 1.0

    def scale(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scaled = (block.astype(np.float64) - low) / span * 255
        return np.floor(np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0).clip(0, 255) + 0.5)

    return _by_blocks(values, scale)


# Raw modes of 16-bit samples: Pillow keeps the first byte of each; with the other byte order it keeps the second.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B"}


def _deep_colour(
    image: Image.Image, file: ImageFile, notes: list[str], value_range: tuple[float, float] | None
) -> tuple[Image.Image, Pixels | None] | None:
    """Colour and opacity of 16-bit colour files; None for any other.

    Pillow has no mode of 16 bits a channel and drops the lower byte. So the file is decoded once for the upper bytes
    and once for the lower, and rounded from both.
    """
    raw = _raw_mode(image)
    if raw == "LA;16B":  # the four bytes of a pixel, taken apart as if they were four channels
        _set_raw_mode(image, "RGBA")
        both = np.asarray(image)
        high, low = both[..., 0::2], both[..., 1::2]
        grey, alpha = _round_16(high, low)[..., 0], _round_16(high, low)[..., 1]
        grey = _of_16(high[..., 0], low[..., 0], value_range, notes)
        return Image.fromarray(np.ascontiguousarray(grey)), np.ascontiguousarray(alpha)
    if raw not in ("RGB;16B", "RGB;16L", "RGB;16N", "RGBA;16B", "RGBA;16L", "RGBA;16N"):
        return None
    transparency = image.info.get("transparency")
    second = Image.open(io.BytesIO(file.data), formats=(file.format,))
    _set_raw_mode(second, raw[:-1] + _OTHER_BYTE[raw[-1]])
    high, low = np.asarray(image), np.asarray(second)
    if raw.startswith("RGBA"):
        colour = _of_16(high[..., :3], low[..., :3], value_range, notes)
        return Image.fromarray(np.ascontiguousarray(colour)), np.ascontiguousarray(_round_16(high, low)[..., 3])
    eight = _of_16(high, low, value_range, notes)
    if transparency is None:
        return Image.fromarray(eight), None
    key = np.asarray(transparency)
    clear = ((high == key >> 8) & (low == (key & 255))).all(axis=2)
    return Image.fromarray(eight), _alpha_where(~clear)


def _of_16(high: Pixels, low: Pixels, value_range: tuple[float, float] | None, notes: list[str]) -> Pixels:
    """16-bit samples, from their upper and lower bytes, as 8 bits."""
    wide = (high.astype(np.uint16) << 8) | low
    if value_range is not None:
        return _ranged(wide, value_range, notes)
    notes.append(f"16 bits scaled to 8{_found(wide)}")
    return _round_16(np.ascontiguousarray(high), np.ascontiguousarray(low))


def _raw_mode(image: Image.Image) -> str:
    tiles: Any = getattr(image, "tile", [])
    if not tiles:
        return ""
    args = tiles[0].args
    return str(args if isinstance(args, str) else args[0])


def _set_raw_mode(image: Image.Image, raw: str) -> None:
    opened: Any = image
    opened.tile = [
        tile._replace(args=raw if isinstance(tile.args, str) else (raw, *tile.args[1:])) for tile in opened.tile
    ]


def _round_16(high: Pixels, low: Pixels) -> Pixels:
    """round(v / 257) of v = 256 · high + low = 257 · high + (low − high)."""
    out = np.empty_like(high)
    rows = max(1, BLOCK_PIXELS // max(1, high.shape[1]))
    for top in range(0, len(high), rows):
        upper = high[top : top + rows]
        beyond = low[top : top + rows].astype(np.int16) - upper
        out[top : top + rows] = upper + (beyond > 128).view(np.uint8) - (beyond < -128).view(np.uint8)
    return out


def _by_blocks(values: npt.NDArray[Any], rule: Any) -> Pixels:
    out = np.empty(values.shape, np.uint8)
    rows = max(1, BLOCK_PIXELS // max(1, values.shape[1]))
    for top in range(0, len(values), rows):
        out[top : top + rows] = rule(values[top : top + rows])
    return out


def _alpha_where(opaque: Mask) -> Pixels:
    return np.where(opaque, np.uint8(255), np.uint8(0))


def _blend(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Pixels on the background: (a · p + (255 − a) · background) / 255, rounded."""
    out = np.empty_like(pixels)
    rows = max(1, BLOCK_PIXELS // max(1, pixels.shape[1]))
    for top in range(0, len(pixels), rows):
        opacity = alpha[top : top + rows, :, None].astype(np.uint32)
        out[top : top + rows] = (pixels[top : top + rows] * opacity + BACKGROUND * (255 - opacity) + 127) // 255
    return out


def _apply_profile(image: Image.Image, profile: bytes | None, notes: list[str]) -> Pixels:
    """Colours (mode L, RGB or CMYK) as sRGB."""
    if profile is not None:
        converted = _through_profile(image, profile)
        if isinstance(converted, Image.Image):
            notes.append("colour profile applied")
            return np.asarray(converted)
        if converted:
            notes.append(f"colour profile ignored: {converted}")
    if image.mode == "CMYK":
        notes.append("CMYK by a formula, without a profile")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _through_profile(image: Image.Image, profile: bytes) -> Image.Image | str:
    """The picture in sRGB, or why the profile is not used; an empty reason for sRGB itself."""
    if not isinstance(profile, bytes) or len(profile) > PROFILE_BYTES:
        return "too large"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[image.mode]
        if opened.profile.xcolor_space.strip() != space:
            return "of another colour space"
        if space == "RGB" and "srgb" in (opened.profile.profile_description or "").lower():
            return ""
        converted = ImageCms.profileToProfile(
            image, opened, ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL, outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        return "broken"
    return converted if converted is not None else "broken"
