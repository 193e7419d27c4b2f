"""Pages that would be too large get a smaller scale and say so; columns by layer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from convscope.protocol.pictures import Picture, Slice, Tile
from convscope.protocol.problems import ProblemError
from convscope.render import RenderOptions, render, stack
from convscope.render.options import plan
from convscope.render.sheet import MAX_MEGAPIXELS
from tests.convscope.render.helpers import Png, tiles


def scales(page: Png) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(page.text["convscope:scale"])
    return found


def test_8192_kernel_tiles_fit_on_one_page() -> None:
    weights = np.random.RandomState(0).randn(128, 64, 3, 3).astype(np.float32)
    pairs = [Tile((Slice("weights", (k, m)),), {"index": f"{k}, {m}"}) for k in range(128) for m in range(64)]
    picture = Picture(
        name="conv", heading="conv", views=("tiles",), tiles=tuple(pairs), normalize="symmetric", signed=True,
        columns=64,
    )  # fmt: skip
    page = Png.of(render(picture, {"weights": weights}.__getitem__, None, RenderOptions()))
    (told,) = scales(page)
    assert told["fitted_scale"] >= 8  # pixels a cell
    height, width = page.pixels.shape[:2]
    assert 0.5 * MAX_MEGAPIXELS < height * width / 1e6 <= MAX_MEGAPIXELS
    with pytest.raises(ProblemError) as refused:  # a scale that was asked for is not changed
        render(picture, {"weights": weights}.__getitem__, None, RenderOptions(scale=64))
    assert refused.value.name == "too-expensive"


def test_a_page_that_fits_says_nothing_of_it() -> None:
    picture, arrays = tiles(np.random.RandomState(0).rand(4, 5, 5))
    page = Png.of(render(picture, arrays, None, RenderOptions()))
    assert "fitted_scale" not in scales(page)[0]


def test_the_mosaics_of_eight_layers_stand_under_each_other() -> None:
    """As many maps as the convolutions of VGG11 have, of a quarter of their sides."""
    shapes = [(64, 56), (128, 28), (256, 14), (256, 14), (512, 7), (512, 7), (512, 4), (512, 4)]
    arrays = {
        f"maps/{k}": np.random.RandomState(k).rand(count, side, side).astype(np.float32)
        for k, (count, side) in enumerate(shapes)
    }
    pictures = [
        Picture(
            name=f"features.{k}", heading=f"layer {k}", views=("tiles",),
            tiles=tuple(Tile((Slice(f"maps/{k}", (place,)),), {"index": str(place)}) for place in range(count)),
        )
        for k, (count, _) in enumerate(shapes)
    ]  # fmt: skip
    page = Png.of(
        stack(pictures, arrays.__getitem__, lambda _: None, RenderOptions(columns="features.0:8,features.7:64"))
    )
    told = scales(page)
    assert [each["picture"] for each in told] == [picture.name for picture in pictures]
    assert page.pixels.shape[0] * page.pixels.shape[1] <= 1e6 * MAX_MEGAPIXELS
    assert any("fitted_scale" in each for each in told)


def test_columns_by_layer() -> None:
    picture = Picture(name="features.3/1", also=("conv2_1/1",), heading="", views=("tiles",), columns=5)
    for asked, wanted in (
        (None, 5), (7, 7), ("7", 7), ("features.3:9,features.6:4", 9), ("conv2_1:6", 6), ("features.3/1:2", 2),
        ("features.6:4", 5),
    ):  # fmt: skip
        assert plan(picture, RenderOptions(columns=asked)).columns == wanted
    for wrong in ("eight", "features.3", "features.3:x", "features.3:0", "features.3:5000"):
        with pytest.raises(ProblemError) as refused:
            RenderOptions(columns=wrong)
        assert refused.value.errors[0].pointer == "/query/columns"
