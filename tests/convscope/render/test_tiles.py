"""The grid: places, sizes, texts, several parts, extremes of count and shape, the same bytes every time."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convscope.protocol.pictures import Picture, Slice, Tile
from convscope.protocol.problems import ProblemError
from convscope.render import RenderOptions, render, stack
from convscope.render.colors import GREYS, table
from convscope.render.sheet import Sheet
from tests.convscope.render.helpers import Png, draw, tiles

RNG = np.random.default_rng(0)


def ink(png: Png, top: int, bottom: int) -> int:
    """How many pixels are neither paper nor frame between two rows."""
    band = png.pixels[top:bottom]
    return int(((band != 255) & (band != int(GREYS[2]))).any(2).sum())


class TestPlaces:
    def test_cells_are_enlarged_without_blurring(self) -> None:
        body = draw(np.arange(6, dtype=np.float32).reshape(1, 2, 3), scale=5, colormap="viridis").body(10, 15)
        expected = table("viridis", False)[[[0, 51, 102], [153, 204, 255]]]
        assert (body == expected.repeat(5, 0).repeat(5, 1)).all()

    def test_tiles_run_from_left_to_right(self) -> None:
        maps = np.stack([np.full((4, 4), value, np.float32) for value in (0, 1, 2, 3)])
        png = draw(maps, normalize="layer", colormap="gray", scale=4, columns=2, title="none")
        seen = [tuple(np.argwhere(png.line(level))[0]) for level in (0, 85, 170)]
        assert seen[0][0] == seen[1][0] < seen[2][0]
        assert seen[0][1] == seen[2][1] < seen[1][1]

    @pytest.mark.parametrize("columns", [1, 2, 3, 7])
    def test_columns(self, columns: int) -> None:
        maps = RNG.normal(size=(7, 8, 8))
        widths = draw(maps, scale=8, columns=columns, fields={"heading": ""}, title="none").pixels.shape
        # The note is wider than few columns; then the page grows with the rows alone.
        assert widths[0] > (7 // columns) * 64
        assert widths[1] >= columns * 64

    def test_default_scale_makes_small_maps_visible_and_loses_no_cell(self) -> None:
        assert draw(RNG.normal(size=(1, 1, 1))).body(448, 448).size
        assert draw(RNG.normal(size=(100, 7, 7))).body(105, 105).size
        assert draw(RNG.normal(size=(100, 150, 150))).body(150, 150).size

    @pytest.mark.parametrize("count", [1, 2, 3, 300])
    def test_any_number_of_tiles(self, count: int) -> None:
        png = draw(RNG.normal(size=(count, 5, 4)).astype(np.float32), scale=6)
        corners = png.line(int(GREYS[2])).sum()
        assert corners >= count * 2 * (30 + 24)

    def test_no_tile_at_all(self) -> None:
        assert draw(np.zeros((0, 3, 3))).pixels.shape[1] > 50

    def test_vectors_and_numbers(self) -> None:
        assert draw(np.arange(4.0).reshape(1, 4), scale=8).body(8, 32).size
        assert draw(np.arange(2.0), scale=8).body(8, 8).size

    def test_parts_stand_side_by_side(self) -> None:
        patch = np.full((6, 6, 3), (200, 30, 40), np.uint8)
        projection = np.zeros((3, 6, 6), np.float32)
        picture = Picture(
            "p", "", ("tiles",), (Tile((Slice("patch"), Slice("projection"))),), normalize="symmetric", signed=True
        )
        arrays = {"patch": patch, "projection": projection}
        png = Png.of(render(picture, arrays.__getitem__, None, RenderOptions(scale=4)))
        patch_at = np.argwhere((png.pixels == (200, 30, 40)).all(2))
        grey_at = np.argwhere(png.line(128))
        assert len(patch_at) == len(grey_at) == 24 * 24
        assert patch_at[0][0] == grey_at[0][0]
        assert grey_at[0][1] == patch_at[0][1] + 24 + 2


class TestTexts:
    def test_titles_are_there_and_can_be_left_out(self) -> None:
        maps = np.zeros((1, 4, 4), np.float32)
        with_title, without = draw(maps, title="index"), draw(maps, title="none")
        assert with_title.pixels.shape[0] > without.pixels.shape[0]
        other = draw(maps, title="mean")
        assert other.pixels.shape == with_title.pixels.shape
        assert (other.pixels != with_title.pixels).any()

    @pytest.fixture
    def written(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Every text that a page carries."""
        found: list[str] = []
        write = Sheet.text

        def text(self: Sheet, top: int, left: int, words: str, *more: Any, **how: Any) -> Any:
            found.append(words)
            return write(self, top, left, words, *more, **how)

        monkeypatch.setattr(Sheet, "text", text)
        return found

    def test_a_fixed_scale_of_colours_is_said_once(self, written: list[str]) -> None:
        colours = RNG.random((2, 3, 4, 4), np.float32)
        draw(colours, normalize="layer", fields={"value_range": (0.0, 2.0), "normalize": "layer"})
        assert [words for words in written if "jointly" in words] == [
            "from 0 to 2 of all  ·  red, green and blue jointly"
        ]
        written.clear()
        draw(colours, normalize="layer")
        assert [words for words in written if "jointly 0" in words]

    def test_each_map_with_a_scale_of_its_own_has_its_range_below(self, written: list[str]) -> None:
        maps = np.stack([np.linspace(0, 1, 64), np.linspace(-2, 12.5, 64), np.full(64, 3.0)]).reshape(3, 8, 8)
        draw(maps)
        assert [words for words in written if " to " in words] == ["0 to 1", "−2 to 12.5", "3 to 3"]
        for shared in (maps[:1], np.stack([maps[0], maps[0]])):
            written.clear()
            draw(shared)
            assert not [words for words in written if " to " in words]
        written.clear()
        draw(maps, normalize="layer")
        draw(maps, scale=1)  # eight pixels hold no text
        assert not [words for words in written if " to " in words]
        draw(np.stack([maps[0], 1e-8 * maps[1]]), scale=12)
        assert [words for words in written if " to " in words] == ["0 to 1", "−2e−8 to 1e−7"]

    def test_captions_stand_below_the_tile(self) -> None:
        tile = Tile((Slice("m"),), caption=("unit (3, 4, 5)", "activation 1.5"))
        maps = {"m": np.zeros((4, 4), np.float32)}
        plain = Picture("p", "", ("tiles",), (Tile((Slice("m"),)),))
        captioned = Picture("p", "", ("tiles",), (tile,))
        below = Png.of(render(plain, maps.__getitem__, None, RenderOptions(scale=16)))
        with_caption = Png.of(render(captioned, maps.__getitem__, None, RenderOptions(scale=16)))
        grown = with_caption.pixels.shape[0] - below.pixels.shape[0]
        assert grown > 20
        # The tile is 64 high, 12 from the top: the captions are the ink under it.
        assert ink(with_caption, 12 + 64 + 1, 12 + 64 + grown) > 50

    def test_long_texts_are_cut_to_their_column(self) -> None:
        long = tuple(Tile((Slice("m", (k,)),), titles={"index": "W" * 400}, caption=("M" * 400,)) for k in (0, 1))
        picture = Picture("p", "H" * 900, ("tiles",), long, columns=2)
        png = Png.of(render(picture, lambda _: np.arange(32.0).reshape(2, 4, 4), None, RenderOptions(scale=8)))
        assert png.pixels.shape[1] < 600
        assert (png.pixels[:, -12:] == 255).all(), "nothing runs into the margin"
        gap = slice(12 + 200, 12 + 207)
        assert (png.pixels[52:, gap] == 255).all(), "nothing runs into the next column"

    def test_any_text_can_be_drawn(self) -> None:
        tile = Tile((Slice("m"),), titles={"index": "a\nb\x00\ud800 σ±× 猫"}, caption=("\t", ""))
        picture = Picture("p", "line\r\nline", ("tiles",), (tile,))
        assert Png.of(render(picture, lambda _: np.zeros((2, 2)), None, RenderOptions())).pixels.size

    def test_bar_only_where_one_scale_is_shared(self) -> None:
        maps = np.stack([np.linspace(0, k + 1, 16).reshape(4, 4) for k in range(4)])
        heights = {mode: draw(maps, normalize=mode, scale=8).pixels.shape[0] for mode in ("map", "layer", "standard")}
        assert heights["layer"] == heights["standard"] > heights["map"]
        bar = table("viridis", False)[np.linspace(0, 255, 240).round().astype(int)]
        png = draw(maps, normalize="layer", scale=8)
        rows = [row for row in png.pixels if np.abs(row[12:252].astype(int) - bar).max() <= 4]
        assert len(rows) == 12


class TestPicture:
    def test_a_signed_attribution_is_summed_over_colour(self) -> None:
        attribution = np.zeros((1, 3, 1, 3), np.float32)
        attribution[0, :, 0, 0] = (1, 1, 1)
        attribution[0, :, 0, 1] = (2, -1, -1)
        attribution[0, :, 0, 2] = (-3, 0, 0)
        fields = {"views": ("picture",), "signed": True, "normalize": "symmetric", "colormap": "gray"}
        png = draw(attribution, fields=fields, scale=8, colormap="gray")
        assert png.body(8, 24)[0, ::8, 0].tolist() == [255, 128, int(table("gray", True)[1, 0])]
        assert png.scale["vmin"] == -3
        assert png.scale["vmax"] == 3

    def test_a_signed_picture_gets_a_diverging_map(self) -> None:
        png = draw(np.ones((1, 3, 4, 4)), fields={"views": ("picture",), "signed": True, "normalize": "symmetric"})
        assert png.scale["colormap"] == "RdBu_r"

    def test_bytes_are_shown_as_they_are(self) -> None:
        photograph = RNG.integers(0, 256, (1, 9, 7, 3), np.uint8)
        assert (draw(photograph, view="picture", scale=1).body(9, 7) == photograph[0]).all()


class TestPng:
    def test_says_its_scale(self) -> None:
        png = draw([[[1.0, 3.0]]], fields={"value_name": "activation"})
        assert png.scale == {
            "picture": "layer",
            "view": "tiles",
            "normalize": "map",
            "colormap": "viridis",
            "vmin": 1.0,
            "vmax": 3.0,
            "value": "activation",
            "clipped": False,
            "nan": "#ff00ff",
        }
        assert png.text["Title"] == "net layer"
        assert png.text["Software"].startswith("Convscope ")

    def test_says_the_scale_of_each_map(self) -> None:
        scale = draw([[[1.0, 3.0]], [[float("nan")] * 2], [[0.0, float("inf")]]]).scale
        assert scale["vmin"] == [1, 0, 0]
        assert scale["vmax"] == [3, 0, 0]
        assert scale["clipped"] is True

    def test_says_mean_and_deviation(self) -> None:
        scale = draw([[[1.0, 3.0]]], normalize="standard").scale
        assert (scale["mean"], scale["std"], scale["vmin"]) == (2.0, 1.0, 0.0)

    def test_maps_are_stored_in_a_palette_and_colours_are_not(self) -> None:
        assert draw(np.zeros((1, 4, 4))).mode == "P"
        assert draw(np.zeros((1, 3, 4, 4))).mode == "RGB"

    def test_a_page_of_every_level_is_within_one_step_of_the_colour_map(self) -> None:
        body = draw(np.arange(256.0).reshape(1, 16, 16), colormap="turbo", scale=1).body(16, 16).reshape(256, 3)
        wanted = table("turbo", False).astype(int)
        wrong = np.abs(body - wanted).sum(1) > 0
        assert wrong.sum() <= 14
        assert (body[wrong] == wanted[np.flatnonzero(wrong) - 1]).all() or np.abs(body - wanted).max() <= 8

    def test_grey_maps_are_exact_at_every_level(self) -> None:
        body = draw(np.arange(256.0).reshape(1, 16, 16), colormap="gray", scale=1).body(16, 16)
        assert body[..., 0].ravel().tolist() == list(range(256))

    def test_equal_requests_give_equal_bytes(self) -> None:
        picture, arrays = tiles(RNG.normal(size=(20, 9, 9)))
        first = render(picture, arrays, None, RenderOptions(normalize="layer"))
        assert render(picture, arrays, None, RenderOptions(normalize="layer")) == first

    def test_too_many_pixels_are_refused_with_figures(self) -> None:
        with pytest.raises(ProblemError) as caught:
            draw(np.zeros((64, 200, 200), np.float32), scale=8)
        assert caught.value.name == "too-expensive"
        assert caught.value.extra["limit"] == 64_000_000
        assert caught.value.extra["pixels"] > 64 * 1600 * 1600
        assert "scale" in caught.value.detail


class TestStack:
    def test_pictures_stand_under_each_other(self) -> None:
        first, arrays = tiles(RNG.normal(size=(3, 8, 8)), name="a")
        second, _ = tiles(RNG.normal(size=(3, 8, 8)), name="b")
        alone = Png.of(render(first, arrays, None, RenderOptions()))
        both = Png.of(stack([first, second], arrays, lambda _: None, RenderOptions()))
        assert both.pixels.shape[0] == 2 * alone.pixels.shape[0]
        assert (both.pixels[: alone.pixels.shape[0]] == alone.pixels).all()
        assert '"b"' in both.text["convscope:scale"]

    def test_a_photograph_among_maps(self) -> None:
        arrays = {"m": np.zeros((4, 4)), "p": np.full((4, 4, 3), (1, 2, 3), np.uint8)}
        pictures = [Picture(name, name, ("tiles",), (Tile((Slice(name),)),)) for name in arrays]
        png = Png.of(stack(pictures, arrays.__getitem__, lambda _: None, RenderOptions(scale=4)))
        assert (png.pixels == (1, 2, 3)).all(2).sum() == 256

    def test_all_together_have_the_limit_of_one(self) -> None:
        picture, arrays = tiles(np.zeros((1, 5000, 5000), np.float32))
        with pytest.raises(ProblemError) as caught:
            stack([picture] * 3, arrays, lambda _: None, RenderOptions())
        assert caught.value.name == "too-expensive"

    def test_sixteen_at_most_and_the_page_says_so(self) -> None:
        picture, arrays = tiles(np.zeros((1, 2, 2)))
        png = Png.of(stack([picture] * 20, arrays, lambda _: None, RenderOptions(scale=4)))
        alone = Png.of(render(picture, arrays, None, RenderOptions(scale=4)))
        assert png.text["convscope:scale"].count('"picture"') == 16
        assert png.pixels.shape[0] > 16 * alone.pixels.shape[0]
        assert ink(png, 16 * alone.pixels.shape[0], png.pixels.shape[0]) > 50


@settings(max_examples=60, deadline=None)
@given(
    maps=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
        st.one_of(
            hnp.array_shapes(min_dims=3, max_dims=3, max_side=5),
            st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 4), st.integers(1, 4)),
        ),
    ),
    options=st.fixed_dictionaries(
        {},
        optional={
            "view": st.sampled_from(["tiles", "picture", "overlay"]),
            "normalize": st.sampled_from(["map", "layer", "standard", "symmetric"]),
            "columns": st.integers(1, 9),
            "scale": st.integers(1, 5),
            "title": st.sampled_from(["none", "index", "mean"]),
            "colormap": st.sampled_from(["gray", "vik", "turbo", "Set1", "hsv", "viridis_r"]),
            "alpha": st.floats(0, 1),
        },
    ),
    signed=st.booleans(),
)
def test_whatever_is_asked_for_is_drawn_without_a_warning(maps: np.ndarray, options: dict, signed: bool) -> None:
    upload = np.zeros((6, 4, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = draw(maps, upload, {"signed": signed}, **options)
    assert png.scale["view"] == options.get("view", "tiles")
