"""The heat map: cells, labels that stay apart at any size, values, missing values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convscope.protocol.pictures import Picture, Slice
from convscope.render import RenderOptions, render
from convscope.render.colors import GREYS, table
from convscope.render.matrix import label_step, pixels_per_cell
from convscope.render.sheet import SMALL, elide, line_height, text_width
from tests.convscope.render.helpers import Png


def matrix(values: np.ndarray, labels: Any = None, **options: Any) -> Png:
    rows, columns = values.shape
    names = labels or (lambda index: f"layer{index}.conv")
    picture = Picture(
        "matrix",
        "CKA",
        ("matrix",),
        matrix=Slice("m"),
        row_labels=tuple(names(index) for index in range(rows)),
        column_labels=tuple(names(index) for index in range(columns)),
        value_range=(0.0, 1.0),
        value_name="CKA",
    )
    return Png.of(render(picture, lambda _: values, None, RenderOptions(**options)))


@pytest.mark.parametrize("rows", [8, 64, 512])
def test_cells_have_the_colours_of_their_values(rows: int) -> None:
    values = np.linspace(0, 1, rows * rows).reshape(rows, rows)
    cell = pixels_per_cell(rows, rows, None)
    body = matrix(values).body(rows * cell, rows * cell)
    # Corners of the cells, where no value is written.
    wanted = table("viridis", False)[np.floor(values * 255 + 0.5).astype(int)].astype(int)
    assert np.abs(body[::cell, ::cell] - wanted).max() <= 4


@pytest.mark.parametrize("rows", [1, 2, 8, 64, 512])
def test_labels_never_touch(rows: int) -> None:
    cell = pixels_per_cell(rows, rows, None)
    step = label_step(rows, cell)
    assert step * cell >= line_height(SMALL) - 1 or step == rows
    assert step == 1 or (step // 2) * cell < line_height(SMALL)


@pytest.mark.parametrize("rows", [8, 64, 512])
def test_labels_are_drawn_on_both_axes(rows: int) -> None:
    values = np.zeros((rows, rows))
    with_labels, without = matrix(values), matrix(values, lambda _: " ")
    cell = pixels_per_cell(rows, rows, None)
    assert with_labels.pixels.shape[0] > without.pixels.shape[0]
    assert with_labels.pixels.shape[1] > without.pixels.shape[1]
    ink = (with_labels.pixels < 180).all(2)
    labels = -(-rows // label_step(rows, cell))
    left_of_matrix = ink[40 : 40 + rows * cell, 12:60]
    assert left_of_matrix.sum() > labels * 20
    # Lines of text are apart: as many separate bands of ink as there are labels.
    bands = np.diff(np.concatenate([[False], left_of_matrix.any(1)]).astype(int)) == 1
    assert labels - 2 <= bands.sum() <= labels


def test_steps_are_round_numbers() -> None:
    assert [label_step(10_000, cell) for cell in (16, 8, 4, 3, 2, 1)] == [1, 2, 5, 5, 10, 20]


def test_long_labels_keep_both_ends() -> None:
    name = "features.denseblock4.denselayer16.conv2.with.a.very.long.name"
    short = elide(name, SMALL, 120, middle=True)
    assert text_width(short, SMALL) <= 120
    assert short.startswith("feat")
    assert short.endswith("name")
    assert matrix(np.zeros((4, 4)), lambda _: name).pixels.shape[1] < 700


def test_few_cells_carry_their_values() -> None:
    eight = matrix(np.full((8, 8), 0.5)).body(384, 384)
    flat = eight.reshape(8, 48, 8, 48, 3)
    assert all((flat[row, :, column] != flat[0, 0, 0, 0]).any() for row in range(8) for column in range(8))
    sixty_four = matrix(np.full((64, 64), 0.5)).body(640, 640)
    assert (sixty_four == sixty_four[0, 0]).all()


@pytest.mark.parametrize("rows", [8, 64, 512])
def test_missing_values_are_hatched(rows: int) -> None:
    values = np.full((rows, rows), 0.5)
    values[1] = np.nan
    cell = pixels_per_cell(rows, rows, None)
    png = matrix(values)
    row = png.body(rows * cell, rows * cell)[cell : 2 * cell]
    found = {tuple(int(part) for part in colour) for colour in row.reshape(-1, 3)}
    assert found == {(255, 255, 255), (int(GREYS[4]),) * 3}
    assert png.scale["nan"] == "hatched"
    assert png.pixels.shape[0] > matrix(np.full((rows, rows), 0.5)).pixels.shape[0], "a note says so"


def test_nothing_but_missing_values() -> None:
    png = matrix(np.full((3, 3), np.nan))
    assert (png.scale["vmin"], png.scale["vmax"]) == (0.0, 1.0)


def test_an_oblong_matrix_without_labels_counts() -> None:
    picture = Picture("m", "", ("matrix",), matrix=Slice("m"))
    png = Png.of(render(picture, lambda _: np.arange(30.0).reshape(3, 10), None, RenderOptions(scale=12)))
    assert png.body(36, 120).size
    assert png.scale["vmax"] == 29
