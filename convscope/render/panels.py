"""Pictures of one result as a grid of panels: rows and columns with headers, or in reading order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.protocol.pictures import Cell, Picture
from convscope.render.colors import SOFT_INK, table
from convscope.render.options import Plan, RenderOptions, columns_of, plan
from convscope.render.page import BAR_WIDTH, Bar, Page, clean, number, own_range_bar
from convscope.render.sheet import LABEL, SMALL, check_size, elide, line_height, text_width, wrap_words
from convscope.render.stopping import go_on
from convscope.render.tiles import Drawn

Bytes = NDArray[np.uint8]

MOST_PANELS = 128
"""Pictures in a grid of panels; a full page has fewer."""
_GAP = 6
_ROW_WIDTH = 1400
"""Two or three panels stand in one row as long as it is no wider than this."""
_PAGE_SHAPE = 1.5
"""Width of a page for each of its height."""
_MOST_ROW_HEADER = 140
_MOST_HEADER_LINES = 2


def in_panels(pictures: Sequence[Picture], options: RenderOptions) -> bool:
    """Whether these pictures of one result stand in a grid: several, each with its place, none a page of many tiles."""
    return (
        len(pictures) > 1
        and all(one.cell is not None and len(one.tiles) == 1 for one in pictures)
        and options.title in (None, "none")
        and all(plan(one, options).view != "matrix" for one in pictures)
    )


def draw_panels(pictures: Sequence[Picture], draw: Callable[[Picture, Plan], Drawn], options: RenderOptions) -> Drawn:
    """The grid of panels as one page; `facts` holds those of every picture under `pictures`.

    Args:
        draw: makes one panel of a picture by its plan: nothing but the picture, in a size that leaves room for all.

    Raises:
        ProblemError: `too-expensive`.
    """
    cells = [one.cell for one in pictures if one.cell is not None]
    asked = columns_of(pictures[0], options.columns)
    drawn, panels, plans = [], [], []
    area = 0
    for picture in pictures:
        go_on()
        settled = plan(picture, options, among=len(pictures))
        made = draw(picture, settled)
        panel = np.asarray(made.sheet.image().convert("RGB"))
        area += panel.shape[0] * panel.shape[1]
        check_size(1, area, "The pictures together")
        plans.append(settled)
        drawn.append(made)
        panels.append(panel)
    width = max(panel.shape[1] for panel in panels)
    arrangement = _arrange(cells, asked, (max(panel.shape[0] for panel in panels), width))
    captions = [
        [*arrangement.names(cell), *_ranges(made.facts), *([cell.caption] if cell.caption else [])]
        for cell, made in zip(cells, drawn, strict=True)
    ]
    places, rows, columns = arrangement.places, arrangement.rows, arrangement.columns

    header = max((text_width(row, LABEL) for row in rows), default=0)
    header = min(header, _MOST_ROW_HEADER) + (_GAP if header else 0)
    heads = [wrap_words(clean(column), LABEL, width, _MOST_HEADER_LINES) for column in columns]
    head_height = line_height(LABEL) * max((len(lines) for lines in heads), default=0)
    heights = [0] * (max(row for row, _ in places) + 1)
    for panel, (row, _), lines in zip(panels, places, captions, strict=True):
        heights[row] = max(heights[row], panel.shape[0] + 2 + line_height(SMALL) * len(lines) + _GAP)
    tops = [head_height + sum(heights[:row]) for row in range(len(heights))]
    across = max(column for _, column in places) + 1
    step = width + _GAP
    body = (head_height + sum(heights) - _GAP, header + across * step - _GAP)
    check_size(*body, "The pictures together")
    heading = cells[0].heading + (f"  {cells[0].column}" if arrangement.one_column else "")
    common, bar = _common_bar(pictures, plans, [one.facts for one in drawn])
    notes = ["each by its own range"] if len(drawn) > 1 else []
    if any(one.normalize == "symmetric" and one.centre is None for one in plans):
        notes.append("signed ones about zero, red above it")
    page = Page(*body, heading, notes, bar)
    sheet = page.draw(None, table(common.colormap, common.normalize == "symmetric"), "The pictures together")

    for column, lines in enumerate(heads):
        for line, text in enumerate(lines):
            sheet.text(page.top + line * line_height(LABEL), page.left + header + column * step, text, LABEL)
    for row, text in enumerate(rows):
        middle = page.top + tops[row] + heights[row] // 2 - line_height(LABEL)
        sheet.text(middle, page.left, elide(clean(text), LABEL, _MOST_ROW_HEADER), LABEL)
    for panel, (row, column), lines in zip(panels, places, captions, strict=True):
        top, left = page.top + tops[row], page.left + header + column * step
        sheet.put(top, left, panel)
        for line, text in enumerate(lines):
            below = top + panel.shape[0] + 1 + line * line_height(SMALL)
            sheet.text(below, left, elide(text, SMALL, width), SMALL, ink=SOFT_INK)
    return Drawn(sheet, {"pictures": [one.facts for one in drawn]}, repeated=False)


@dataclass(frozen=True)
class _Arrangement:
    """Row and column of each panel, and the headers of rows and columns; in reading order there are none.

    `one_column`: rows of the only column, laid across the page, so that its name stands in the heading.
    """

    places: list[tuple[int, int]]
    rows: list[str]
    columns: list[str]
    one_column: bool = False

    def names(self, cell: Cell) -> list[str]:
        """What stands under a panel that no header names."""
        if self.rows or self.columns:
            return []
        return [clean(cell.row if self.one_column else "  ".join(filter(None, (cell.row, cell.column))))]


def _arrange(cells: Sequence[Cell], columns: int | None, size: tuple[int, int]) -> _Arrangement:
    rows, heads = (list(dict.fromkeys(names)) for names in ([c.row for c in cells], [c.column for c in cells]))
    places = [(rows.index(cell.row), heads.index(cell.column)) for cell in cells]
    one_column = len(heads) == 1
    if columns is None and one_column:
        # One class by many methods would be a column many screens long.
        one_row = len(cells) <= 3 and len(cells) * (size[1] + _GAP) <= _ROW_WIDTH
        columns = len(cells) if one_row else max(1, round(math.sqrt(len(cells) * size[0] / size[1] * _PAGE_SHAPE)))
    if columns is not None or len(set(places)) < len(places):
        across = columns or max(1, round(math.sqrt(len(cells))))
        return _Arrangement([divmod(place, across) for place in range(len(cells))], [], [], one_column)
    return _Arrangement(places, rows, heads)


def _ranges(facts: Mapping[str, Any]) -> list[str]:
    """The ends of a panel's scale, where it has one."""
    low, high = facts.get("vmin"), facts.get("vmax")
    return [f"{number(low)} to {number(high)}"] if isinstance(low, float) and isinstance(high, float) else []


def _common_bar(
    pictures: Sequence[Picture], plans: Sequence[Plan], facts: Sequence[Mapping[str, Any]]
) -> tuple[Plan, Bar]:
    """The plan that most panels have their colours from, and its bar."""
    kinds = [(one.colormap, one.normalize) for one in plans]
    most = Counter(kinds).most_common(1)[0][0]
    first = kinds.index(most)
    name = pictures[first].value_name
    lows = {told.get("vmin") for told, kind in zip(facts, kinds, strict=True) if kind == most}
    if lows == {0.0}:
        levels = np.linspace(0, 255, BAR_WIDTH).round().astype(np.uint8)
        return plans[first], Bar(((0.0, "0"), (1.0, "maximum")), clean(f"{name} of each"), levels)
    return plans[first], own_range_bar(name)
