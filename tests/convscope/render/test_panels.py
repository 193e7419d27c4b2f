"""Pictures of one result as a grid of panels with headers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from convscope.protocol.pictures import Cell, Picture, Slice, Tile
from convscope.render import RenderOptions, on_one_page, stack
from convscope.render.extent import extent
from tests.convscope.render.helpers import Png

UPLOAD = np.full((40, 60, 3), 90, np.uint8)
METHODS, CLASSES = ("gradcam", "layercam", "scorecam"), ("tabby  0.71", "collie  < 0.01")


def pictures(methods: tuple[str, ...] = METHODS, classes: tuple[str, ...] = CLASSES) -> list[Picture]:
    made = []
    for column in classes:
        for row in methods:
            cell = Cell(row, column, "net  layer")
            tile = Tile((Slice("maps", (len(made),)),), {"index": row})
            fields = {"normalize": "layer", "value_range": (0.0, float("inf")), "title": "none", "image": 0}
            made.append(Picture(f"{row}/{column}", row, ("overlay", "tiles"), (tile,), cell=cell, **fields))
    return made


def drawn(shown: list[Picture], maps: np.ndarray | None = None, **options: object) -> Png:
    maps = np.ones((len(shown), 4, 6), np.float32) if maps is None else maps
    return Png.of(stack(shown, {"maps": maps}.__getitem__, lambda _: UPLOAD, RenderOptions(**options)))


def panels(page: Png, height: int, width: int, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Corners of all rectangles of one colour, in reading order."""
    there = (page.pixels == colour).all(2)
    corners = []
    for top, left in np.argwhere(there):
        if there[top, left] and there[top : top + height, left : left + width].sum() == height * width:
            corners.append((int(top), int(left)))
            there[top : top + height, left : left + width] = False
    return corners


def test_rows_are_methods_and_columns_are_classes() -> None:
    page = drawn(pictures(), alpha=0.0, scale=1.0)
    corners = panels(page, 40, 60, (90, 90, 90))
    assert len(corners) == 6
    tops, lefts = sorted({top for top, _ in corners}), sorted({left for _, left in corners})
    assert (len(tops), len(lefts)) == (3, 2)
    header = page.pixels[tops[0] : tops[0] + 40, : lefts[0]]
    assert (header < 128).any(), "the method's name stands to the left of its row"
    assert (page.pixels[tops[0] - 16 : tops[0], lefts[1] : lefts[1] + 60] < 128).any(), "the class above its column"


def test_each_panel_is_at_its_method_and_class() -> None:
    maps = np.zeros((6, 4, 6), np.float32)
    maps[4] = np.linspace(1, 2, 24).reshape(4, 6)  # layercam of the second class
    page = drawn(pictures(), maps, alpha=1.0, scale=1.0, colormap="gray")
    black = panels(page, 40, 60, (0, 0, 0))
    assert len(black) == 5
    tops, lefts = sorted({top for top, _ in black}), sorted({left for _, left in black})
    assert (tops[1], lefts[1]) not in black and (tops[1], lefts[0]) in black


@pytest.mark.parametrize("columns", [1, 2, 3, 6])
def test_columns_are_obeyed(columns: int) -> None:
    corners = panels(drawn(pictures(), alpha=0.0, scale=1.0, columns=columns), 40, 60, (90, 90, 90))
    assert len({left for _, left in corners}) == columns
    assert len({top for top, _ in corners}) == 6 // columns


def test_thirteen_methods_of_one_class_are_a_page_and_no_ribbon() -> None:
    shown = pictures(tuple(f"method{n}" for n in range(13)), CLASSES[:1])
    height, width = drawn(shown).pixels.shape[:2]
    assert 0.5 < height / width < 1.6


def test_two_of_one_class_stand_side_by_side() -> None:
    corners = panels(drawn(pictures(METHODS[:2], CLASSES[:1]), alpha=0.0, scale=1.0), 40, 60, (90, 90, 90))
    assert len(corners) == 2 and corners[0][0] == corners[1][0]


def test_every_scale_is_in_the_text_chunk() -> None:
    page = drawn(pictures(), np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 4, 6), np.float32))
    told = json.loads(page.text["convscope:scale"])
    assert [one["picture"] for one in told] == [one.name for one in pictures()]
    assert [one["vmax"] for one in told] == [0, 1, 2, 3, 4, 5]


def test_so_many_are_drawn_as_are_measured_before() -> None:
    shown = pictures(tuple(f"m{n}" for n in range(100)))
    assert len(on_one_page(shown, RenderOptions())) == 128
    assert len(on_one_page([*shown[:20], *shown[:1]], RenderOptions())) == 21
    sizes = [
        extent(shown[:count], lambda _: (200, 4, 6), lambda _: (400, 600), RenderOptions()) for count in (1, 12, 100)
    ]
    assert sizes[1] < 12 * sizes[0] and sizes[2] < 100 * sizes[0] * 0.6, "panels are smaller, the more there are"


def test_what_has_no_cell_stands_under_each_other() -> None:
    shown = [Picture("a", "a", ("tiles",), (Tile((Slice("maps", (n,)),)),)) for n in range(2)]
    page = drawn(shown, scale=4)
    assert len(json.loads(page.text["convscope:scale"])) == 2
    assert page.pixels.shape[0] > page.pixels.shape[1] / 2


def test_what_has_no_cell_stands_under_the_grid_of_the_others() -> None:
    grid = pictures()
    below = Picture("below", "below", ("tiles",), (Tile((Slice("maps", (0,)),)),))
    alone, both = drawn(grid, alpha=0.0, scale=1.0), drawn([below, *grid], alpha=0.0, scale=1.0)
    assert [one["picture"] for one in json.loads(both.text["convscope:scale"])] == [*(g.name for g in grid), "below"]
    height = alone.pixels.shape[0] - 1
    assert both.pixels.shape[0] > height
    corners = panels(alone, 40, 60, (90, 90, 90))
    assert panels(both, 40, 60, (90, 90, 90))[: len(corners)] == corners
