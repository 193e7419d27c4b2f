"""Levels computed by hand, read back from the pixels of whole pictures."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convscope.protocol.pictures import Picture, Slice, Tile
from convscope.render import RenderOptions, render
from convscope.render.colors import nan_colour, table
from convscope.render.page import centred_bar, colour_bar, notes_on_scale
from convscope.render.scaling import scale_maps
from tests.convscope.render.helpers import Png, draw, grey_levels

INF, NAN = float("inf"), float("nan")


class TestOneMap:
    def test_map_spans_minimum_to_maximum(self) -> None:
        # (x − 2)/8 · 255: 0, 63.75 → 64, 127.5 → 128, 255
        assert grey_levels([2, 4, 6, 10], normalize="map") == [0, 64, 128, 255]

    def test_standard_puts_the_mean_at_128_and_a_deviation_at_64(self) -> None:
        # mean 0, standard deviation 1: 128 ± 64
        assert grey_levels([-1, 1, -1, 1], normalize="standard") == [64, 192, 64, 192]

    def test_standard_clips(self) -> None:
        # mean 1, standard deviation 3: nine zeros at 128 − 21.3 = 106.7, ten at 128 + 192 → 255
        assert grey_levels([0] * 9 + [10], normalize="standard") == [107] * 9 + [255]

    def test_symmetric_keeps_zero_in_the_middle(self) -> None:
        # 127/4 levels for each 1: 128 − 63.5 = 64.5 → 65
        assert grey_levels([-2, 0, 2, 4], normalize="symmetric") == [
            int(table("gray", True)[i, 0]) for i in (65, 128, 192, 255)
        ]

    def test_zero_has_the_neutral_colour_of_a_diverging_map(self) -> None:
        png = draw(np.array([[[-1.0, 0.0, 3.0]]]), normalize="symmetric", colormap="RdBu_r", scale=4)
        colour = png.body(4, 12)[1, 5].astype(int)
        assert colour.min() > 240
        assert colour.max() - colour.min() <= 1

    @pytest.mark.parametrize("normalize", ["map", "layer"])
    def test_infinities_are_clipped(self, normalize: str) -> None:
        assert grey_levels([-INF, 0, 1, INF], normalize=normalize) == [0, 0, 255, 255]

    def test_infinities_are_clipped_about_zero(self) -> None:
        assert grey_levels([-INF, 0, 1, INF], normalize="symmetric") == [0, 128, 255, 255]

    def test_a_fixed_range_clips(self) -> None:
        assert grey_levels([-5, 0, 0.5, 9], fields={"value_range": (0.0, 1.0)}) == [0, 0, 128, 255]

    def test_half_a_range_leaves_the_other_end_to_the_data(self) -> None:
        # Positive evidence only: negative values are drawn as zero.
        assert grey_levels([-5, 0, 1, 2], fields={"value_range": (0.0, INF)}) == [0, 0, 128, 255]

    def test_another_normalisation_shows_all_values(self) -> None:
        levels = grey_levels([-4, 0, 2], fields={"value_range": (0.0, INF)}, normalize="symmetric")
        assert levels == [0, 128, int(table("gray", True)[192, 0])]

    def test_outliers_are_drawn_as_the_ends(self) -> None:
        # Magnitudes other than zero: 1, 2, 4, 100; a quarter may lie beyond, so 4 is the end: 127/4 levels for each 1.
        values = [-100, -2, 0, 0, 1, 4]
        gray = table("gray", True)[:, 0]
        expected = [int(gray[level]) for level in (1, 65, 128, 128, 160, 255)]
        assert grey_levels(values, fields={"normalize": "symmetric", "outliers": 0.25}) == expected
        # A share too small for one of four values clips nothing.
        fine = grey_levels(values, fields={"normalize": "symmetric", "outliers": 0.24})
        assert fine == grey_levels(values, fields={"normalize": "symmetric"})

    def test_outliers_above_a_scale_that_begins_at_zero(self) -> None:
        values = np.array([[0.0, 1.0, 2.0, 4.0, 100.0]], np.float32)
        fields = {"normalize": "layer", "value_range": (0.0, INF), "outliers": 0.25}
        # A quarter of the four values other than zero may be beyond: the scale ends at 4.
        assert grey_levels(values[0], fields=fields) == [0, 64, 128, 255, 255]
        page = draw(values[None], fields=fields)
        assert (page.scale["vmin"], page.scale["vmax"], page.scale["clipped"]) == (0.0, 4.0, True)

    def test_magnitudes_of_signed_colours(self) -> None:
        colours = np.array([[[[1.0, 0.0]], [[-4.0, 0.5]], [[2.0, -1.0]]]], np.float32)
        fields = {"signed": True, "normalize": "symmetric", "magnitude": True, "views": ("picture", "tiles")}
        page = draw(colours, fields=fields, scale=4)
        assert (page.scale["normalize"], page.scale["vmin"], page.scale["vmax"]) == ("layer", 0.0, 4.0)
        assert page.body(4, 8)[0, ::4, 0].tolist() == [255, 64]
        signed = draw(colours, fields=fields, scale=4, normalize="symmetric")  # the sum: −1 and −0.5
        assert (signed.scale["colormap"], signed.scale["vmax"]) == ("RdBu_r", 1.0)
        assert draw(colours, fields=fields, view="tiles").scale["normalize"] == "symmetric"
        grey = draw(np.array([[[[-3.0, 1.5]]]], np.float32), fields=fields, scale=4)
        assert grey.body(4, 8)[0, ::4, 0].tolist() == [255, 128]

    def test_outliers_are_counted_over_the_group_and_said(self) -> None:
        maps = np.array([[[1.0, 2.0]], [[3.0, 90.0]]], np.float32)
        before = maps.copy()
        scaled = scale_maps(list(maps), ["a", "a"], "symmetric", outliers=0.25)
        assert [(scale.vmax, scale.clipped) for scale in scaled.scales] == [(3.0, True)] * 2
        apart = scale_maps(list(maps), ["a", "b"], "symmetric", outliers=0.25)
        assert [scale.vmax for scale in apart.scales] == [2.0, 90.0]
        assert np.array_equal(maps, before)
        png = draw(maps, fields={"normalize": "symmetric", "outliers": 0.25})
        assert (png.scale["vmax"], png.scale["clipped"]) == (3.0, True)
        assert draw(maps, fields={"normalize": "symmetric", "outliers": 0.25}).pixels.tobytes() == png.pixels.tobytes()

    def test_outliers_of_nothing_but_zeros_and_of_values_that_are_not_finite(self) -> None:
        zeros = np.zeros((2, 2), np.float32)
        strange = np.array([[NAN, -INF], [0.0, 2.0]], np.float32)
        for one, end in ((zeros, 0.0), (strange, 2.0)):
            (scale,) = scale_maps([one], ["a"], "symmetric", outliers=0.01).scales
            assert scale.vmax == end

    def test_another_normalisation_has_no_outliers(self) -> None:
        fields = {"normalize": "symmetric", "outliers": 0.5}
        assert grey_levels([0, 1, 2, 10], fields=fields, normalize="layer") == [0, 26, 51, 255]

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float32, np.float64, np.bool_])
    def test_every_type_of_number(self, dtype: type) -> None:
        assert grey_levels([0, 1], dtype=dtype) == [0, 255]


class TestConstant:
    @pytest.mark.parametrize("normalize", ["map", "layer", "standard"])
    @pytest.mark.parametrize("value", [7.5, -3e-30, 3e38])
    def test_is_a_flat_mid_tone(self, normalize: str, value: float) -> None:
        assert grey_levels([value] * 4, normalize=normalize) == [128] * 4

    @pytest.mark.parametrize("normalize", ["map", "layer", "standard"])
    def test_nothing_but_zeros_is_the_bottom(self, normalize: str) -> None:
        assert grey_levels([0.0] * 4, normalize=normalize) == [0] * 4

    @pytest.mark.parametrize("normalize", ["map", "standard"])
    def test_a_map_of_rounding_is_no_picture(self, normalize: str) -> None:
        maps = np.array([[[1e-10, 9e-10, 4e-10]], [[1.0, 2.0, 3.0]]], np.float32)
        dead = (Tile((Slice("maps", (0,)),), dead=True), Tile((Slice("maps", (1,)),)))
        picture = Picture(name="layer", heading="", views=("tiles",), tiles=dead)
        options = RenderOptions(normalize=normalize, colormap="gray", scale=4, columns=1)
        page = Png.of(render(picture, {"maps": maps}.__getitem__, None, options))
        assert (page.body(4, 12) == 0).all()
        alive = Picture(name="layer", heading="", views=("tiles",), tiles=(Tile((Slice("maps", (0,)),)), dead[1]))
        assert not (Png.of(render(alive, {"maps": maps}.__getitem__, None, options)).body(4, 12) == 0).all()

    def test_zero_is_the_middle_of_symmetric(self) -> None:
        assert grey_levels([0.0] * 4, normalize="symmetric") == [128] * 4

    def test_rounding_of_single_precision_is_not_structure(self) -> None:
        almost = np.float32(1000) + np.array([0, 1, 2, 3], np.float32) * np.spacing(np.float32(1000))
        assert grey_levels(almost, normalize="map") == [128] * 4
        assert grey_levels(almost, normalize="standard") == [128] * 4

    def test_a_dead_map_keeps_its_place_on_the_layers_scale(self) -> None:
        png = draw(np.array([[[0.0, 0.0]], [[-1.0, 1.0]]]), normalize="layer", colormap="gray", scale=4, columns=1)
        assert (png.body(4, 8) == 128).all()

    def test_one_value_among_nan(self) -> None:
        png = draw(np.array([[[NAN, 5.0]]]), colormap="gray", scale=4)
        body = png.body(4, 8)
        assert tuple(body[0, 0]) == nan_colour("gray")[1]
        assert tuple(body[0, 7]) == (128, 128, 128)


class TestSeveralMaps:
    def test_map_scales_each_and_layer_all(self) -> None:
        maps = np.array([[[0.0, 1.0]], [[0.0, 2.0]]])
        apart = draw(maps, normalize="map", colormap="gray", scale=4, columns=1)
        assert apart.body(4, 8)[0, 7, 0] == 255
        together = draw(maps, normalize="layer", colormap="gray", scale=4, columns=1)
        assert together.body(4, 8)[0, 7, 0] == 128

    def test_groups_have_scales_of_their_own(self) -> None:
        maps = [np.array([[0.0, 1.0]]), np.array([[0.0, 2.0]]), np.array([[0.0, 8.0]])]
        scaled = scale_maps(maps, ["a", "a", "b"], "layer")
        assert [int(levels[0, 1]) for levels in scaled.levels] == [128, 255, 255]
        assert [(scale.vmin, scale.vmax) for scale in scaled.scales] == [(0, 2), (0, 2), (0, 8)]

    def test_shapes_may_differ(self) -> None:
        maps = [np.zeros((2, 3)), np.ones((1, 1)), np.full((3, 4, 5), 2.0)]
        levels = scale_maps(maps, ["", "", ""], "layer").levels
        assert [level.shape for level in levels] == [(2, 3), (1, 1), (3, 4, 5)]
        assert [int(level.flat[0]) for level in levels] == [0, 128, 255]


class TestColour:
    def test_channels_are_never_normalised_apart(self) -> None:
        # One filter, channels 0, 1 and 4: a channel alone would be flat, jointly they are 0, 64 and 255.
        filters = np.stack([np.full((2, 2), value, np.float32) for value in (0.0, 1.0, 4.0)])[None]
        body = draw(filters, normalize="map", scale=4).body(8, 8)
        assert (body == [0, 64, 255]).all()

    def test_layer_takes_the_extremes_of_all_filters(self) -> None:
        filters = np.zeros((2, 3, 1, 1), np.float32)
        filters[0, 0], filters[1] = 1, 2
        png = draw(filters, normalize="layer", scale=8, columns=1)
        assert tuple(png.body(8, 8)[0, 0]) == (128, 0, 0)

    def test_zero_is_grey_in_a_signed_projection(self) -> None:
        projection = np.zeros((1, 3, 1, 2), np.float32)
        projection[0, :, 0, 1] = (2.0, 0.0, -2.0)
        body = draw(projection, normalize="symmetric", scale=8).body(8, 16)
        assert tuple(body[0, 0]) == (128, 128, 128)
        assert tuple(body[0, 15]) == (255, 128, 1)

    @pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
    def test_photographs_are_drawn_as_they_are(self, axes: tuple[int, int, int]) -> None:
        photograph = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
        body = draw(photograph.transpose(axes)[None], scale=1).body(5, 6)
        assert (body == photograph).all()


FINITE_OR_NOT = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.one_of(
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4)),
    ),
    elements=st.one_of(
        st.floats(width=16),
        st.sampled_from([0.0, -0.0, 1.0, NAN, INF, -INF, 65504.0, 6e-8]),
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    maps=st.lists(FINITE_OR_NOT, min_size=1, max_size=4),
    normalize=st.sampled_from(["map", "layer", "standard", "symmetric"]),
    exponent=st.sampled_from([0, -300, 300, 37, -37]),
)
def test_any_numbers_become_levels_without_a_warning(maps: list[np.ndarray], normalize: str, exponent: int) -> None:
    with np.errstate(all="ignore"):
        maps = [(values * values.dtype.type(1) * 10.0**exponent).astype(values.dtype) for values in maps]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = scale_maps(maps, [str(k % 2) for k in range(len(maps))], normalize)  # type: ignore[arg-type]
    for values, levels, missing in zip(maps, scaled.levels, scaled.nan, strict=True):
        assert levels.dtype == np.uint8
        assert levels.shape == values.shape
        assert (np.zeros_like(levels, bool) if missing is None else missing).tolist() == np.isnan(values).tolist()
        order = np.argsort(values[~np.isnan(values)], kind="stable")
        assert (np.diff(levels[~np.isnan(values)][order].astype(int)) >= 0).all(), "larger values have no lower levels"


def test_the_bar_says_which_end_holds_more() -> None:
    scaled = scale_maps([np.array([[-1.0, 2.0]])], ["a"], "layer", (0.0, INF))
    bar = colour_bar(scaled.scales[0], "layer", "evidence", own_moments=False)
    assert [text for _, text in bar.ticks] == ["≤ 0", "1", "2"]


def test_the_note_says_the_ends_that_are_fixed() -> None:
    assert notes_on_scale("layer", 1, 1, value_range=(0.0, INF)) == ["from 0 to the maximum"]
    assert notes_on_scale("layer", 3, 1, value_range=(-INF, 1.0)) == ["from the minimum to 1 of all"]
    assert notes_on_scale("layer", 1, 1) == ["by the minimum and maximum"]


class TestAboutACentre:
    def test_levels_are_counted_from_it(self) -> None:
        values = np.array([[0.25, 0.75, 0.75 - 0.25, 1.0]], np.float32)
        scaled = scale_maps([values], ["a"], "symmetric", centre=0.75)
        # 127 levels are the largest distance, 0.5.
        assert scaled.levels[0].tolist() == [[1, 128, 65, 192]]
        (scale,) = scaled.scales
        assert (scale.vmin, scale.vmax, scale.centre, scale.reach) == (0.25, 1.25, 0.75, 0.5)
        assert (scale.low, scale.high) == (0.25, 1.0)

    def test_rounding_about_it_is_nothing(self) -> None:
        values = np.float32(0.75) + np.array([[0, 1e-7, -1e-7]], np.float32)
        assert (scale_maps([values], ["a"], "symmetric", centre=0.75).levels[0] == 128).all()

    def test_the_bar_goes_from_end_to_end_with_a_line_at_it(self) -> None:
        (scale,) = scale_maps([np.array([[0.25, 1.0]])], ["a"], "symmetric", centre=0.75).scales
        bar = centred_bar(scale, "probability", "whole image")
        assert bar.ticks == ((0.0, "0.25"), (1.0, "1"))
        assert bar.mark == pytest.approx(2 / 3)
        assert "| whole image 0.75" in bar.name.replace("\u00a0", " ")
        assert (bar.levels[0], bar.levels[-1]) == (1, 192)
        assert abs(int(bar.levels[round(bar.mark * (len(bar.levels) - 1))]) - 128) <= 1

    def test_any_other_normalisation_knows_no_centre(self) -> None:
        fields = {"normalize": "symmetric", "colormap": "RdBu_r", "centre": 0.5, "centre_name": "whole image"}
        drawn = draw(np.array([[[0.25, 1.0]]]), None, fields)
        assert drawn.scale["centre"] == 0.5 and (drawn.scale["vmin"], drawn.scale["vmax"]) == (0.0, 1.0)
        plain = draw(np.array([[[0.25, 1.0]]]), None, fields, normalize="map")
        assert "centre" not in plain.scale and (plain.scale["vmin"], plain.scale["vmax"]) == (0.25, 1.0)
