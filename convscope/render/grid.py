"""Where the tiles of a page lie: columns and rows of cells of one size, each with room for its texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convscope.render.sheet import LABEL, SMALL, line_height, text_width

TILE_GAP = 8
MOST_CELL_WIDTH = 200
"""A column is made wider than its tiles for their texts, but not wider than this."""
_ROW_WIDTH = 1400
"""Two or three tiles stand in one row as long as it is no wider than this."""


@dataclass(frozen=True)
class Grid:
    """Measures of a grid of tiles: cells of equal size, titles above and captions below each tile."""

    columns: int
    rows: int
    cell_width: int
    cell_height: int
    title_height: int
    tile_height: int

    @property
    def width(self) -> int:
        """Pixels of all columns with the gaps between them."""
        return self.columns * (self.cell_width + TILE_GAP) - TILE_GAP

    @property
    def height(self) -> int:
        """Pixels of all rows with the gaps between them."""
        return self.rows * (self.cell_height + TILE_GAP) - TILE_GAP

    def corner(self, tile: int) -> tuple[int, int]:
        """Top and left of a tile's cell, from the grid's corner."""
        row, column = divmod(tile, self.columns)
        return row * (self.cell_height + TILE_GAP), column * (self.cell_width + TILE_GAP)


def lay_grid(
    titles: Sequence[str], captions: Sequence[Sequence[str]], sizes: Sequence[tuple[int, int]], columns: int | None
) -> Grid:
    """Measure a grid for tiles of these sizes (height and width, pixels); without `columns` about as wide as high."""
    tile_height = max((height for height, _ in sizes), default=1)
    widest_text = max(
        (
            text_width(text, size)
            for size, texts in ((LABEL, [titles]), (SMALL, captions))
            for line in texts
            for text in line
        ),
        default=0,
    )
    cell_width = max([1, min(widest_text, MOST_CELL_WIDTH), *(width for _, width in sizes)])
    title_height = line_height(LABEL) if any(titles) else 0
    caption_lines = max((len(lines) for lines in captions), default=0)
    cell_height = title_height + tile_height + (2 + line_height(SMALL) * caption_lines if caption_lines else 0)
    count = len(sizes)
    if columns is None and count <= 3 and count * cell_width <= _ROW_WIDTH:
        columns = count
    if columns is None:
        columns = _balanced(count, math.sqrt(count * (cell_height + TILE_GAP) / (cell_width + TILE_GAP)))
    columns = max(1, min(columns, count))
    rows = max(1, math.ceil(count / columns))
    return Grid(columns, rows, cell_width, cell_height, title_height, tile_height)


def _balanced(count: int, ideal: float) -> int:
    """A number of columns near the ideal that leaves few places of the last row empty."""

    def awkwardness(columns: int) -> float:
        empty = -count % columns
        return abs(columns - ideal) / ideal + empty / columns / 2

    near = range(max(1, math.floor(ideal * 0.75)), math.ceil(ideal * 1.3) + 1)
    return min(near, key=awkwardness)
