"""Options are refused with what would have been possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convscope.protocol.pictures import Picture, Slice, Tile
from convscope.protocol.problems import ProblemError
from convscope.render import RenderOptions
from convscope.render.colors import fit_palette, is_diverging, nan_colour, table
from convscope.render.options import plan
from tests.convscope.render.helpers import draw

PICTURE = Picture(
    "layer",
    "",
    ("tiles", "overlay"),
    (Tile((Slice("m"),), titles={"index": "0", "max": "1"}),),
    value_range=(0.0, 1.0),
)


def refused(**options: Any) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        plan(PICTURE, RenderOptions(**options))
    assert caught.value.name == "invalid-request"
    assert [error.pointer for error in caught.value.errors] == [f"/query/{name}" for name in options][-1:]
    return caught.value


@pytest.mark.parametrize(
    ("options", "possible"),
    [
        ({"view": "matrix"}, ["tiles", "overlay"]),
        ({"view": "plot"}, ["tiles", "picture", "overlay", "matrix", "pca", "lines"]),
        ({"title": "loss"}, ["none", "index", "max"]),
        ({"normalize": "row"}, ["map", "layer", "standard", "symmetric"]),
    ],
)
def test_unknown_choices_name_the_possible_ones(options: dict[str, str], possible: list[str]) -> None:
    problem = refused(**options)
    assert problem.extra["possible"] == possible
    assert all(name in problem.detail for name in possible)


@pytest.mark.parametrize(
    "options",
    [
        {"columns": 0},
        {"columns": -1},
        {"scale": 0},
        {"scale": -2},
        {"scale": 1.5},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"alpha": 1.1},
        {"alpha": float("nan")},
    ],
)
def test_numbers_out_of_range(options: dict[str, float]) -> None:
    refused(**options)


@pytest.mark.parametrize(("name", "near"), [("virdis", "viridis"), ("trubo", "turbo"), ("rdbuu", "RdBu")])
def test_unknown_colour_maps_have_near_names(name: str, near: str) -> None:
    assert near in refused(colormap=name).extra["possible"]


def test_hopeless_colour_maps_get_common_names() -> None:
    assert "viridis" in refused(colormap="?!").extra["possible"]


@pytest.mark.parametrize(
    "name", ["viridis", "Viridis", "RdBu_r", "coolwarm", "colorbrewer:RdBu", "grey", "gray_r", "Set1"]
)
def test_known_colour_maps(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert table(RenderOptions(colormap=name).colormap or "", False).shape == (256, 3)
    assert not caplog.records, "no warning about names that mean two maps"


def test_a_new_normalisation_brings_a_colour_map_that_suits() -> None:
    assert plan(PICTURE, RenderOptions()).value_range == (0.0, 1.0)
    symmetric = plan(PICTURE, RenderOptions(normalize="symmetric"))
    assert is_diverging(symmetric.colormap)
    assert symmetric.value_range is None
    assert plan(PICTURE, RenderOptions(normalize="symmetric", colormap="magma")).colormap == "magma"


def test_the_colour_for_nan_is_far_from_the_map() -> None:
    for name in ("viridis", "gray", "turbo", "hsv", "spring", "cool", "RdBu_r"):
        distance = np.abs(table(name, False).astype(int) - np.array(nan_colour(name)[1])).sum(1).min()
        assert distance >= 100, name


def test_a_palette_keeps_the_levels_in_use() -> None:
    colours = table("viridis", False)
    used = np.zeros(256, bool)
    used[[0, 77, 128, 200, 255]] = True
    palette = fit_palette(colours, (255, 0, 255), used)
    assert len(palette.colours) <= 256
    assert (palette.colours[palette.levels[used]] == colours[used]).all()
    assert tuple(palette.colours[palette.nan]) == (255, 0, 255)


def test_options_change_the_picture() -> None:
    maps = np.arange(8.0).reshape(2, 2, 2)
    plain = draw(maps).pixels
    for options in ({"colormap": "magma"}, {"normalize": "layer"}, {"columns": 1}, {"scale": 9}, {"title": "mean"}):
        other = draw(maps, **options).pixels
        assert other.shape != plain.shape or (other != plain).any(), options
