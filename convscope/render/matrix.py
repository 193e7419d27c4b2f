"""The view `matrix`: a heat map with labels on both axes, values in the cells where they fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.protocol.pictures import Picture
from convscope.render.colors import FRAME, HATCH, INK, SOFT_INK, WHITE, nan_colour, table
from convscope.render.options import Plan
from convscope.render.page import MINUS, Page, clean, colour_bar, notes_on_scale, number
from convscope.render.scaling import Scaled, scale_maps
from convscope.render.sheet import SMALL, Sheet, check_size, elide, line_height, text_width
from convscope.render.stopping import go_on
from convscope.render.tiles import Arrays, Drawn, palette_of, read_part, scale_facts

Bytes = NDArray[np.uint8]

MOST_LABEL_WIDTH = 170
TICK = 4
_HATCH_PERIOD = 6
"""Pixels from one stroke to the next, where there is no value."""
_MOST_WRITTEN = 24
"""Rows or columns up to which values are written into the cells."""


def pixels_per_cell(rows: int, columns: int, scale: float | None) -> int:
    """Whole pixels for each cell: about 640 for the longer side, 48 at most, one at least."""
    return int(scale) if scale is not None else int(min(48, max(1, 640 // max(rows, columns, 1))))


def label_step(count: int, cell: int) -> int:
    """Every how manieth row gets a label so that lines of text do not touch: 1, 2, 5, 10, 20, …"""
    needed = (line_height(SMALL) - 1) / cell
    step, factors = 1, (2, 2.5, 2)
    turn = 0
    while step < needed:
        step = round(step * factors[turn % 3])
        turn += 1
    return min(step, max(count, 1))


def labels(given: Sequence[str], count: int, cell: int) -> list[tuple[int, str]]:
    """The labels that are written: row or column, and text; numbers where the picture has none."""
    texts = [clean(text) for text in given] if len(given) == count else [str(index) for index in range(count)]
    step = label_step(count, cell)
    return [(index, elide(texts[index], SMALL, MOST_LABEL_WIDTH, middle=True)) for index in range(0, count, step)]


def _widest(labels: Sequence[tuple[int, str]]) -> int:
    return max((text_width(text, SMALL) for _, text in labels), default=0)


def _write_labels(
    sheet: Sheet,
    rows: Sequence[tuple[int, str]],
    columns: Sequence[tuple[int, str]],
    top: int,
    left: int,
    cell: int,
    bottom: int,
) -> None:
    """Row labels to the left, column labels turned, under the matrix, each with a tick at the middle of its cells."""
    line = line_height(SMALL)
    for index, text in rows:
        middle = top + index * cell + cell // 2
        sheet.fill(middle, left - TICK, 1, TICK - 1, SOFT_INK)
        sheet.text(middle - line // 2, left - TICK - 3 - text_width(text, SMALL), text, SMALL, ink=SOFT_INK)
    for index, text in columns:
        middle = left + index * cell + cell // 2
        sheet.fill(bottom + 1, middle, TICK - 1, 1, SOFT_INK)
        sheet.text(bottom + TICK + 3, middle - line // 2, text, SMALL, ink=SOFT_INK, turned=True)


def cell_texts(values: NDArray[Any], cell: int) -> list[list[str]] | None:
    """Each value as short text, or None where the cells are too small for that; the array has all digits."""
    if max(values.shape) > _MOST_WRITTEN:
        return None
    finite = np.abs(values[np.isfinite(values)])
    decimals = 0.1 <= (finite.max() if finite.size else 0.0) < 100

    def short(value: float) -> str:
        if not math.isfinite(value):
            return ""
        return f"{value:.2f}".replace("-", MINUS) if decimals else number(float(f"{value:.2g}"))

    texts = [[short(float(value)) for value in row] for row in values]
    fit = all(text_width(text, SMALL) + 4 <= cell for row in texts for text in row)
    return texts if fit else None


def _write_values(
    sheet: Sheet, texts: Sequence[Sequence[str]], levels: Bytes, colours: Bytes, top: int, left: int, cell: int
) -> None:
    """Each cell's value in the ink that stands out from its colour."""
    brightness = colours.astype(float) @ (0.299, 0.587, 0.114)
    for row, column in np.ndindex(*levels.shape):
        go_on()
        text = texts[row][column]
        ink = INK if brightness[levels[row, column]] > 140 else WHITE
        y = top + row * cell + (cell - line_height(SMALL)) // 2
        x = left + column * cell + (cell - text_width(text, SMALL)) // 2
        sheet.text(y, x, text, SMALL, ink=ink, over=True)


def _hatch(sheet: Sheet, block: Bytes, missing: NDArray[np.bool_]) -> None:
    """Oblique strokes on white where there is no value, running on from cell to cell."""
    y, x = np.nonzero(missing)
    stroke = (y + x) % _HATCH_PERIOD == 0
    block[y, x] = sheet.grey(WHITE)
    block[y[stroke], x[stroke]] = sheet.grey(HATCH)


def draw_matrix(picture: Picture, arrays: Arrays, plan: Plan) -> Drawn:
    """The view `matrix`.

    Raises:
        ProblemError: `too-expensive`.
        ValueError: the picture declares no matrix.
    """
    if picture.matrix is None:
        raise ValueError(f"{picture.name} has the view matrix but declares no matrix")
    values = read_part(0, picture.matrix, arrays, plan.signed, flatten=True).array
    rows, columns = int(values.shape[0]), int(values.shape[1])
    cell = pixels_per_cell(rows, columns, plan.scale)
    while cell > 1 and rows * columns * cell * cell > plan.most_pixels:
        cell -= 1
    row_labels, column_labels = labels(picture.row_labels, rows, cell), labels(picture.column_labels, columns, cell)
    line = line_height(SMALL)
    # Half a line of text may stand out over the first and last cells.
    spare = max(0, line // 2 - cell // 2) + 1
    indent = max(_widest(row_labels) + TICK + 4, spare)
    height, width = rows * cell, columns * cell
    body_height = spare + height + TICK + 4 + _widest(column_labels)
    body_width = indent + width + spare
    check_size(body_height, body_width, picture.name)

    scaled = scale_maps([values], [""], plan.normalize, plan.value_range)
    missing = scaled.nan[0]
    colours, (_, nan) = table(plan.colormap, plan.normalize == "symmetric"), nan_colour(plan.colormap)
    texts = cell_texts(values, cell)
    palette = palette_of(colours, nan, scaled) if texts is None else None
    bar = colour_bar(scaled.scales[0], plan.normalize, picture.value_name, own_moments=False)
    page = Page(body_height, body_width, picture.heading, _notes(plan, scaled), bar)
    sheet = page.draw(palette, colours, picture.name)

    block = (palette.levels if palette is not None else colours)[scaled.levels[0]]
    block = block.repeat(cell, 0).repeat(cell, 1)
    if missing is not None:
        _hatch(sheet, block, missing.repeat(cell, 0).repeat(cell, 1))
    top, left = page.top + spare, page.left + indent
    sheet.frame(top, left, height, width, FRAME)
    sheet.put(top, left, block)
    if texts is not None:
        _write_values(sheet, texts, scaled.levels[0], colours, top, left, cell)
    _write_labels(sheet, row_labels, column_labels, top, left, cell, top + height)
    facts = scale_facts(picture, plan, scaled, 1)
    return Drawn(sheet, facts, repeated=cell > 1)


def _notes(plan: Plan, scaled: Scaled) -> list[str]:
    notes = notes_on_scale(plan.normalize, 1, 1) if plan.normalize == "standard" else []
    if scaled.nan[0] is not None:
        notes.append("hatched: no value")
    return notes
