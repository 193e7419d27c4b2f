"""Maps whose numbers are names: one colour for each that occurs, no colour between two, a legend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convscope.render.categories import MOST_CATEGORIES, palette
from convscope.render.page import LegendEntry, lay_legend, own_range_bar
from tests.convscope.render.helpers import Png, draw

NAMES = {7: "tabby", 300: "tiger cat", 862: "torch", 642: "marimba"}
MAP = np.array([[7, 7, 7, 300], [7, 7, 862, 862], [7, 7, 862, 642]], np.int32)
UPLOAD = np.full((30, 40, 3), 100, np.uint8)


def categorical(maps: Any = MAP[None], names: dict[int, str] | None = None, **options: Any) -> Png:
    fields = {"views": ("overlay", "picture", "tiles"), "title": "none", "image": 0, "categories": names or NAMES}
    return draw(np.asarray(maps), UPLOAD, fields, **options)


@pytest.mark.parametrize("view", ["picture", "tiles", "overlay"])
def test_each_class_has_one_colour_and_there_is_none_between(view: str) -> None:
    png = categorical(view=view, scale=10 if view != "overlay" else 4.0, alpha=1.0)
    told = {one["value"]: one for one in png.scale["categories"]}
    assert {value: one["name"] for value, one in told.items()} == NAMES
    assert len({one["color"] for one in told.values()}) == 4
    side = 10 if view != "overlay" else 40
    expected = MAP.repeat(side, 0).repeat(side, 1)
    colour = {value: tuple(bytes.fromhex(one["color"][1:])) for value, one in told.items()}
    if view != "overlay":
        body = png.body(30, 40)
    else:
        (top, left), *_ = np.argwhere((png.pixels == colour[7]).all(2))
        body = png.pixels[top : top + 120, left : left + 160]
    assert (body == np.array([[colour[value] for value in row] for row in expected.tolist()])).all()


def test_the_legend_begins_with_the_most_frequent() -> None:
    told = categorical().scale
    assert [one["name"] for one in told["categories"]] == ["tabby", "torch", "tiger cat", "marimba"]
    assert [round(12 * one["share"]) for one in told["categories"]] == [7, 3, 1, 1]
    assert (told["normalize"], told["vmin"], told["vmax"]) == ("categories", None, None)


def test_names_have_no_scale_so_that_options_of_scales_pass_them_by() -> None:
    assert (categorical().pixels == categorical(colormap="magma", normalize="symmetric").pixels).all()


def test_equal_names_are_told_apart() -> None:
    told = categorical(names={7: "crane", 300: "crane", 862: "torch"}).scale["categories"]
    assert {one["name"] for one in told} == {"crane (7)", "crane (300)", "torch", "642"}


@pytest.mark.parametrize("view", ["picture", "overlay"])
def test_many_classes_keep_their_colours_and_the_rarest_are_grey(view: str) -> None:
    many = np.arange(400).reshape(1, 20, 20)
    many[0, :10] = np.arange(100).repeat(2).reshape(10, 20)
    png = categorical(many, {0: "zero"}, view=view)
    colours = [one["color"] for one in png.scale["categories"]]
    assert len(colours) == 300
    assert len(set(colours[:MOST_CATEGORIES])) == MOST_CATEGORIES
    assert len(set(colours[MOST_CATEGORIES:])) == 1
    if view == "picture":
        drawn = {tuple(pixel) for pixel in png.body(520, 520).reshape(-1, 3).tolist()}
        assert drawn == {tuple(bytes.fromhex(one[1:])) for one in colours}


def test_the_palette_is_no_grey_and_no_two_are_one() -> None:
    colours = palette()[:MOST_CATEGORIES].astype(int)
    assert len({tuple(one) for one in colours.tolist()}) == MOST_CATEGORIES
    assert (colours.max(1) - colours.min(1) > 12).all()


def test_what_does_not_fit_into_the_legend_is_counted() -> None:
    entries = [LegendEntry(f"class number {index}", index, 0.01) for index in range(100)]
    placed = lay_legend(entries, 400)
    *shown, last = placed
    assert last.level is None
    assert last.text == f"{100 - len(shown)} more"
    assert [one.level for one in shown] == list(range(len(shown)))
    assert len(shown) > 6
    assert lay_legend(entries[:2], 400)[-1].level == 1
    assert lay_legend(entries[:2], 60)[-1].line == 1


def test_overlays_of_maps_with_ranges_of_their_own_state_them() -> None:
    maps = np.stack([np.linspace(0, 1, 16).reshape(4, 4), np.linspace(-3, 12, 16).reshape(4, 4)]).astype(np.float32)
    plain = {"views": ("overlay",), "image": 0, "value_name": "activation"}
    several, one = draw(maps, UPLOAD, plain), draw(maps[:1], UPLOAD, plain)
    assert several.scale["vmin"] == [0.0, -3.0]
    bar = own_range_bar("activation")
    assert (bar.name, [text for _, text in bar.ticks]) == ("activation of each map", ["minimum", "maximum"])
    for png in (several, one):
        # The last lines hold a colour bar: more colours than a page of text has.
        assert len({tuple(pixel) for pixel in png.pixels[-40:].reshape(-1, 3).tolist()}) > 150
