"""The view `matrix` as SVG: text that stays text at any size, cells as an image of one pixel each."""

from __future__ import annotations

import base64
import io
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.protocol.pictures import Picture
from convscope.render.colors import GREYS, INK, SOFT_INK, table
from convscope.render.matrix import cell_texts, labels, pixels_per_cell
from convscope.render.options import Plan
from convscope.render.page import BAR_HEIGHT, BAR_WIDTH, GAP, MARGIN, clean, colour_bar
from convscope.render.scaling import scale_maps
from convscope.render.sheet import HEADING, LABEL, SMALL, line_height, text_width
from convscope.render.tiles import Arrays, read_part

Bytes = NDArray[np.uint8]

_TICK = 6


def _text(left: float, top: float, text: str, size: int, ink: int = INK, more: str = "") -> str:
    """A line of text whose baseline lies there."""
    grey = int(GREYS[ink])
    colour = f"rgb({grey},{grey},{grey})"
    return f'<text x="{left:g}" y="{top:g}" font-size="{size}" fill="{colour}"{more}>{escape(clean(text))}</text>'


def _image(pixels: Bytes, left: float, top: float, width: float, height: float) -> str:
    """Pixels (H×W×3) stretched over a rectangle without blurring."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )


def matrix_svg(picture: Picture, arrays: Arrays, plan: Plan) -> bytes:
    """A matrix with its labels, values and bar.

    Args:
        picture: one with the view `matrix`.
        arrays: gives a named result array.
        plan: how it is drawn.

    Returns:
        An SVG document, UTF-8, equal for equal arguments; no value (NaN) is left white.

    Raises:
        ValueError: the picture declares no matrix.
    """
    if picture.matrix is None:
        raise ValueError(f"{picture.name} declares no matrix")
    values = read_part(0, picture.matrix, arrays, plan.signed, flatten=True).array
    rows, columns = (int(side) for side in values.shape)
    cell = pixels_per_cell(rows, columns, plan.scale)
    scaled = scale_maps([values], [""], plan.normalize, plan.value_range)
    colours = table(plan.colormap, plan.normalize == "symmetric")
    pixels = colours[scaled.levels[0]]
    if scaled.nan[0] is not None:
        pixels = np.where(scaled.nan[0][..., None], np.uint8(255), pixels)
    row_labels, column_labels = (
        labels(given, count, cell) for given, count in ((picture.row_labels, rows), (picture.column_labels, columns))
    )
    left = MARGIN + max((text_width(text, SMALL) for _, text in row_labels), default=0) + _TICK
    top = MARGIN + line_height(HEADING) + GAP
    right, bottom = left + columns * cell, top + rows * cell
    parts = [
        _text(MARGIN, MARGIN + HEADING, picture.heading, HEADING),
        _image(pixels, left, top, right - left, bottom - top),
    ]
    for index, text in row_labels:
        middle = top + (index + 0.5) * cell + SMALL / 3
        parts.append(_text(left - _TICK, middle, text, SMALL, SOFT_INK, ' text-anchor="end"'))
    for index, text in column_labels:
        middle = left + (index + 0.5) * cell + SMALL / 3
        turned = f' text-anchor="end" transform="rotate(-90 {middle:g} {bottom + _TICK})"'
        parts.append(_text(middle, bottom + _TICK, text, SMALL, SOFT_INK, turned))
    parts += _values(values, cell, scaled.levels[0], colours, (left, top))
    bar = colour_bar(scaled.scales[0], plan.normalize, picture.value_name, own_moments=False)
    at = bottom + 2 * _TICK + max((text_width(text, SMALL) for _, text in column_labels), default=0)
    parts.append(_image(colours[bar.levels][None], MARGIN, at, BAR_WIDTH, BAR_HEIGHT))
    parts.append(_text(MARGIN + BAR_WIDTH + GAP, at + BAR_HEIGHT - 2, bar.name, LABEL, SOFT_INK))
    for place, text in bar.ticks:
        anchor = "start" if place == 0 else "end" if place == 1 else "middle"
        below = at + BAR_HEIGHT + SMALL + 2
        parts.append(_text(MARGIN + place * BAR_WIDTH, below, text, SMALL, SOFT_INK, f' text-anchor="{anchor}"'))
    width = max(right, MARGIN + BAR_WIDTH + GAP + text_width(bar.name, LABEL), text_width(picture.heading, HEADING))
    width, height = int(width) + MARGIN, int(at + BAR_HEIGHT + 2 * SMALL) + MARGIN
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="DejaVu Sans, Verdana, sans-serif"><title>{escape(clean(picture.heading))}</title>'
        f'<rect width="{width}" height="{height}" fill="white"/>'
    )
    return "\n".join([opening, *parts, "</svg>\n"]).encode()


def _values(
    values: NDArray[np.generic], cell: int, levels: Bytes, colours: Bytes, corner: tuple[int, int]
) -> list[str]:
    """Each cell's value in the ink that stands out from its colour, where values fit."""
    texts = cell_texts(values, cell)
    if texts is None:
        return []
    brightness = colours.astype(float) @ (0.299, 0.587, 0.114)
    left, top = corner
    return [
        _text(
            left + (column + 0.5) * cell, top + (row + 0.5) * cell + SMALL / 3, text, SMALL,
            INK if brightness[levels[row, column]] > 140 else 0, ' text-anchor="middle"',
        )
        for row, line in enumerate(texts) for column, text in enumerate(line)
    ]  # fmt: skip
