"""Paper to draw on: pixels held as places in a palette where that suffices, as RGB where it does not, and text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from convscope.protocol.problems import ProblemError
from convscope.render.colors import GREY_OF_VALUE, GREYS, INK, WHITE, Palette

Bytes = NDArray[np.uint8]

MAX_MEGAPIXELS = 64
SMALL, LABEL, HEADING = 10, 11, 14
"""Text sizes, pixels."""
ELLIPSIS = "…"
_FONT = Path(__file__).parent / "fonts" / "DejaVuSans-subset.ttf"
_ZLIB_LEVEL = 1
"""Measured on a hundred-map page: level 2 saves 4 % of the bytes, level 3 costs half as much time again."""
_RLE, _DEFAULT = 3, 0
"""zlib strategies: run lengths are quicker and no larger where no pixel is repeated."""


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The basic layout engine, so that pictures do not depend on whether libraqm is there.
    return ImageFont.truetype(str(_FONT), size, layout_engine=ImageFont.Layout.BASIC)


def line_height(size: int) -> int:
    """Pixels from one line of text to the next."""
    ascent, descent = _font(size).getmetrics()
    return ascent + descent + 1


@lru_cache(maxsize=16384)
def text_width(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return int(np.ceil(_font(size).getlength(text)))


@lru_cache(maxsize=4096)
def elide(text: str, size: int, width: int, middle: bool = False) -> str:
    """The text, shortened with an ellipsis at its end or in its middle until it fits; "" where nothing does."""
    if text_width(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        kept = (low + high + 1) // 2
        if text_width(_shortened(text, kept, middle), size) <= width:
            low = kept
        else:
            high = kept - 1
    shortened = _shortened(text, low, middle)
    return shortened if text_width(shortened, size) <= width else ""


def _shortened(text: str, kept: int, middle: bool) -> str:
    if not middle:
        return text[:kept].rstrip() + ELLIPSIS
    tail = kept // 2
    return text[: kept - tail] + ELLIPSIS + (text[-tail:] if tail else "")


def wrap(phrases: Sequence[str], size: int, width: int) -> list[str]:
    """Phrases joined by dots into as few lines as fit, a phrase too long for a line elided."""
    lines: list[str] = []
    for phrase in phrases:
        joined = f"{lines[-1]}  ·  {phrase}" if lines else phrase
        if lines and text_width(joined, size) <= width:
            lines[-1] = joined
        else:
            lines.append(elide(phrase, size, width))
    return [line for line in lines if line]


def wrap_words(text: str, size: int, width: int, most: int) -> list[str]:
    """The text in at most so many lines, broken at spaces; what does not fit into the last is elided."""
    lines: list[str] = []
    rest = text.strip()
    while rest and len(lines) < most - 1 and text_width(rest, size) > width:
        ends = [match.start() for match in re.finditer(r"(?<=\S) ", rest)]
        fitting = [end for end in ends if text_width(rest[:end], size) <= width]
        if not fitting:
            break
        lines.append(rest[: fitting[-1]])
        rest = rest[fitting[-1] :].strip()
    return [*lines, elide(rest, size, width)] if rest else lines


@lru_cache(maxsize=4096)
def _coverage(text: str, size: int) -> Bytes:
    """How much of each pixel the text covers, 0 to 255; one line high."""
    canvas = Image.new("L", (max(text_width(text, size), 1), line_height(size)))
    ImageDraw.Draw(canvas).text((0, 0), text, fill=255, font=_font(size))
    coverage = np.asarray(canvas)
    coverage.setflags(write=False)
    return coverage


def check_size(height: int, width: int, what: str) -> None:
    """Refuse a page that would be unreasonably large.

    Raises:
        ProblemError: `too-expensive`, with the pixels, the limit and what to do.
    """
    pixels = height * width
    if pixels > MAX_MEGAPIXELS * 1_000_000:
        raise ProblemError(
            "too-expensive",
            f"{what} would be {width} × {height} pixels, {pixels / 1e6:.0f} megapixels; the limit is {MAX_MEGAPIXELS}. "
            "Ask for a smaller scale, for one layer or item with pick, or for fewer channels.",
            pixels=pixels,
            limit=MAX_MEGAPIXELS * 1_000_000,
        )


class Sheet:
    """A white page of H×W pixels.

    Args:
        palette: what its pixels are places in; None for an RGB page.
        what: the page's name, for the refusal of one that is too large.
    """

    def __init__(self, height: int, width: int, palette: Palette | None, what: str = "The picture") -> None:
        check_size(height, width, what)
        self.palette = palette
        self.height, self.width = height, width
        if palette is None:
            self.pixels: Bytes = np.full((height, width, 3), 255, np.uint8)
        else:
            self.pixels = np.full((height, width), palette.greys[WHITE], np.uint8)

    def grey(self, place: int) -> Any:
        """A grey of the page, by its place in GREYS, as the page's pixels hold it."""
        return GREYS[place] if self.palette is None else self.palette.greys[place]

    def put(self, top: int, left: int, block: Bytes) -> None:
        """Copy a block of the page's own kind of pixels."""
        self.pixels[top : top + block.shape[0], left : left + block.shape[1]] = block

    def fill(self, top: int, left: int, height: int, width: int, grey: int) -> None:
        """A rectangle of one of GREYS; what lies off the page is cut."""
        self.pixels[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = self.grey(grey)

    def frame(self, top: int, left: int, height: int, width: int, grey: int) -> None:
        """A line one pixel wide around, and outside of, a rectangle."""
        for edge in (top - 1, top + height):
            self.fill(edge, left - 1, 1, width + 2, grey)
        for edge in (left - 1, left + width):
            self.fill(top - 1, edge, height + 2, 1, grey)

    def text(
        self, top: int, left: int, text: str, size: int, *, ink: int = INK, turned: bool = False, over: bool = False
    ) -> None:
        """A line of text with its upper left corner there; what lies off the page is cut.

        Args:
            ink: place in GREYS.
            turned: upwards, turned by a quarter to the left.
            over: blend with what is there instead of with white paper; RGB pages only.
        """
        if not text:
            return
        coverage = _coverage(text, size)
        if turned:
            coverage = np.rot90(coverage)
        cut_top, cut_left = max(-top, 0), max(-left, 0)
        region = self.pixels[
            max(top, 0) : max(top + coverage.shape[0], 0), max(left, 0) : max(left + coverage.shape[1], 0)
        ]
        coverage = coverage[cut_top : cut_top + region.shape[0], cut_left : cut_left + region.shape[1]]
        if over and self.palette is None:
            share = coverage[..., None] / 255.0
            region[:] = np.rint(region * (1 - share) + int(GREYS[ink]) * share).astype(np.uint8)
            return
        places = _inked(ink)[coverage]
        covered = coverage > 8
        if self.palette is None:
            region[covered] = GREYS[places[covered]][:, None]
        else:
            region[covered] = self.palette.greys[places[covered]]

    def image(self) -> Image.Image:
        """The page as a Pillow image, mode P or RGB."""
        image = Image.fromarray(self.pixels)
        if self.palette is not None:
            image.putpalette(self.palette.colours.tobytes())
        return image


@lru_cache(maxsize=16)
def _inked(ink: int) -> Bytes:
    """For each coverage the place in GREYS of that much ink on white paper."""
    greys: Bytes = GREY_OF_VALUE[np.rint(255 - np.arange(256) * ((255 - int(GREYS[ink])) / 255)).astype(np.uint8)]
    return greys


def join(sheets: Sequence[Sheet]) -> Image.Image:
    """Pages under each other, left-aligned; in one palette where their colours fit into one."""
    if len(sheets) == 1:
        return sheets[0].image()
    height, width = sum(sheet.height for sheet in sheets), max(sheet.width for sheet in sheets)
    colours: dict[tuple[int, ...], int] = {}
    for sheet in sheets:
        if sheet.palette is not None:
            for colour in sheet.palette.colours.tolist():
                colours.setdefault(tuple(colour), len(colours))
    indexed = len(colours) <= 256 and all(sheet.palette is not None for sheet in sheets)
    if indexed:
        page = np.full((height, width), colours[(255, 255, 255)], np.uint8)
    else:
        page = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for sheet in sheets:
        pixels = sheet.pixels
        if sheet.palette is not None:
            if indexed:
                places = [colours[tuple(colour)] for colour in sheet.palette.colours.tolist()]
                pixels = np.array(places, np.uint8)[pixels]
            else:
                pixels = np.asarray(sheet.image().convert("RGB"))
        page[top : top + sheet.height, : sheet.width] = pixels
        top += sheet.height
    image = Image.fromarray(page)
    if indexed:
        image.putpalette(np.array(list(colours), np.uint8).tobytes())
    return image


Format = Literal["PNG", "WEBP", "JPEG"]
_MOST_SIDE = {"WEBP": 16_383, "JPEG": 65_500}
"""Pixels of a page's longer side, by what a file of the format can say."""
_JPEG_QUALITY = 92
_MOST_EXIF = 60_000
"""Bytes of text in an EXIF block, which JPEG bounds."""


def encode(
    image: Image.Image, texts: Sequence[tuple[str, str]], *, repeated: bool, file_format: Format = "PNG"
) -> bytes:
    """A page as a file.

    Args:
        texts: keyword and text of each text chunk; in WebP and JPEG they are lines of EXIF's description.
        repeated: whether pixels were enlarged, so that long matches are there to find.
        file_format: PNG, lossless WebP, or JPEG of quality 92 without thinned colours.

    Raises:
        ProblemError: `too-expensive`: a page too long for the format.
    """
    if file_format != "PNG":
        return _encode_photograph(image, texts, file_format)
    info = PngInfo()
    for keyword, text in texts:
        info.add_text(keyword, text)
    buffer = io.BytesIO()
    strategy = _DEFAULT if repeated or image.mode != "P" else _RLE
    image.save(buffer, "PNG", compress_level=_ZLIB_LEVEL, compress_type=strategy, pnginfo=info)
    return buffer.getvalue()


def _encode_photograph(image: Image.Image, texts: Sequence[tuple[str, str]], file_format: Format) -> bytes:
    if max(image.size) > _MOST_SIDE[file_format]:
        raise ProblemError(
            "too-expensive",
            f"The page has {image.width} × {image.height} pixels; a side of a {file_format} file has at most "
            f"{_MOST_SIDE[file_format]}. Ask for PNG, or for one picture with pick.",
        )
    exif = Image.Exif()
    description = "\n".join(f"{keyword}: {text}" for keyword, text in texts)
    exif[0x010E] = description if len(description.encode()) <= _MOST_EXIF else texts[0][1][:_MOST_EXIF]
    buffer = io.BytesIO()
    if file_format == "WEBP":
        image.convert("RGB").save(buffer, "WEBP", lossless=True, quality=20, method=0, exif=exif)
    else:
        image.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0, exif=exif)
    return buffer.getvalue()
