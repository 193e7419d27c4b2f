"""How large a drawing will be, about, before anything is read or drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from convscope.protocol.pictures import Picture, Slice
from convscope.render.lines import lines_extent
from convscope.render.matrix import pixels_per_cell as pixels_per_matrix_cell
from convscope.render.options import Plan, RenderOptions, plan
from convscope.render.overlay import default_factor
from convscope.render.panels import in_panels
from convscope.render.tiles import pixels_per_cell


def extent(
    pictures: Sequence[Picture],
    shape: Callable[[str], Sequence[int]],
    upload: Callable[[int], tuple[int, int]],
    options: RenderOptions,
) -> int:
    """Pixels that are drawn and numbers that are read, together; titles and margins are left out.

    Args:
        pictures: those of one page.
        shape: of the array of that name.
        upload: height and width of the image with that number; asked for overlays only.
        options: how they are drawn.

    Raises:
        ProblemError: `invalid-request`, as `plan`.
    """
    grid = [picture for picture in pictures if picture.cell is not None]
    among = len(grid) if in_panels(grid, options) else 0
    return sum(
        _of_one(picture, shape, upload, plan(picture, options, among=among if picture.cell is not None else 0))
        for picture in pictures
    )


def _of_one(
    picture: Picture,
    shape: Callable[[str], Sequence[int]],
    upload: Callable[[int], tuple[int, int]],
    settled: Plan,
) -> int:
    parts = [part for tile in picture.tiles for part in tile.shown(settled.view)]
    if settled.view == "matrix" and picture.matrix is not None:
        rows, columns = _sides(picture.matrix, shape)
        return rows * columns * (1 + pixels_per_matrix_cell(rows, columns, settled.scale) ** 2)
    if settled.view == "lines":
        return lines_extent(settled.scale) + sum(math.prod(_sides(line.rows, shape)) for line in picture.lines)
    count = 1 if settled.view == "pca" else len(picture.tiles)
    if settled.view == "overlay" and picture.image is not None:
        height, width = upload(picture.image)
        factor = default_factor(height, width, max(count, settled.among)) if settled.scale is None else settled.scale
        return round(height * width * (1 + len(parts) * factor**2))
    pixels = 0
    for part in parts:
        rows, columns = _sides(part, shape)
        pixels += rows * columns * (1 + pixels_per_cell((rows, columns), settled, count) ** 2)
    return pixels


def _sides(part: Slice, shape: Callable[[str], Sequence[int]]) -> tuple[int, int]:
    """Rows and columns of a part, at least one of each; of planes, as many columns as all of them have."""
    left = list(shape(part.array))[len(part.index) :]
    if len(left) == 4 and left[2:] == [1, 1]:  # kernels of one pixel
        left = left[:2]
    if len(left) == 3 and left[2] == 3:
        left = left[:2]
    rows, columns = (left[-2], left[-1]) if len(left) >= 2 else (1, math.prod(left))
    return max(1, rows), max(1, columns)
