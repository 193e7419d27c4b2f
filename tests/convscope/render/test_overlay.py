"""Where an overlay colours the upload, and how strongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convscope.protocol.problems import ProblemError
from convscope.render.colors import nan_colour, table
from convscope.render.overlay import interpolate, seen_axis
from tests.convscope.render.helpers import draw

GREY = np.full((100, 200, 3), 100, np.uint8)
# The network saw the square of 80 upload pixels from (10, 60) on, scaled to an input of 40 × 40.
TRANSFORM = {"upload_size": [100, 200], "input_size": [40, 40], "scale": [2.0, 2.0], "offset": [10.0, 60.0]}


def overlay(maps: Any, upload: np.ndarray = GREY, fields: dict[str, Any] | None = None, **options: Any) -> np.ndarray:
    """The drawn photograph alone, one pixel for each of the upload's."""
    fields = {"views": ("overlay",), "transform": TRANSFORM, "image": 0, "heading": ""} | (fields or {})
    options = {"scale": 1.0, "title": "none", "colormap": "gray"} | options
    drawn = draw(np.asarray(maps, np.float32), upload, fields, **options).pixels
    assert drawn.shape == upload.shape, "title=none leaves nothing but the picture"
    return drawn


class TestGeometry:
    def test_only_what_the_network_saw_is_coloured(self) -> None:
        drawn = overlay(np.ones((1, 4, 4)), alpha=1.0)
        seen = (drawn == 128).all(2)
        expected = np.zeros((100, 200), bool)
        expected[10:90, 60:140] = True
        assert (seen == expected).all()
        around = np.zeros((100, 200), bool)
        around[7:93, 57:143] = True
        assert (drawn[~around] == 100).all(), "the rest of the photograph is as it was"
        ring = around & ~expected
        assert set(drawn[ring].ravel().tolist()) == {30, 255}, "a white line between dark ones marks what was seen"
        assert (drawn[50, 57:60, 0] == (30, 255, 30)).all() and (drawn[92:89:-1, 100, 0] == (30, 255, 30)).all()

    def test_the_line_is_around_the_input_where_the_map_is_smaller(self) -> None:
        inner = TRANSFORM | {"input_size": [20, 20], "offset": [30.0, 80.0]}
        drawn = overlay(np.ones((1, 2, 2)), fields={"transform": inner, "crop": TRANSFORM}, alpha=1.0)
        assert (drawn[30:70, 80:120] == 128).all() and (drawn[20:30, 70:80] == 100).all()
        assert (drawn[50, 57:60, 0] == (30, 255, 30)).all()

    @pytest.mark.parametrize("view", ["overlay", "picture", "tiles"])
    def test_without_a_title_nothing_but_the_picture_is_left(self, view: str) -> None:
        page = draw(np.ones((1, 5, 9)), GREY, {"views": (view,)}, view=view, scale=2.0)
        bare = draw(np.ones((1, 5, 9)), GREY, {"views": (view,)}, view=view, scale=2.0, title="none")
        assert bare.pixels.shape == ((200, 400, 3) if view == "overlay" else (10, 18, 3))
        assert page.pixels.shape[0] > bare.pixels.shape[0] + 20
        assert bare.scale == page.scale, "the text chunk still says the scale"

    @pytest.mark.parametrize(("y", "x"), [(0, 0), (1, 2), (3, 3)])
    def test_one_hot_cell_lands_on_its_box(self, y: int, x: int) -> None:
        # Each of 4 × 4 cells covers 20 × 20 pixels of the upload.
        one_hot = np.zeros((1, 4, 4))
        one_hot[0, y, x] = 1
        level = overlay(one_hot, alpha=1.0)[..., 0].astype(int)
        level[:10] = level[90:] = level[:, :60] = level[:, 140:] = 0
        rows, columns = np.nonzero(level >= 240)
        top, left = 10 + 20 * y, 60 + 20 * x
        # The peak is the cell's centre, or runs on to the border at the edge of the map.
        assert top <= rows.min() <= top + 10 <= rows.max() + 1
        assert rows.max() < top + 20
        assert left <= columns.min() <= left + 10 <= columns.max() + 1
        assert columns.max() < left + 20
        far = level[10:90, 60:140].reshape(4, 20, 4, 20).max((1, 3))
        away = np.maximum(*np.abs(np.indices((4, 4)) - np.array([y, x])[:, None, None]))
        assert (far[away >= 2] == 0).all()

    def test_mass_is_centred_on_the_cell(self) -> None:
        one_hot = np.zeros((1, 8, 8))
        one_hot[0, 2, 5] = 1
        level = overlay(one_hot, alpha=1.0)[10:90, 60:140, 0].astype(float)
        rows, columns = np.indices(level.shape) + 0.5
        assert abs((rows * level).sum() / level.sum() - 25) < 0.05
        assert abs((columns * level).sum() / level.sum() - 55) < 0.05

    def test_input_reaching_over_the_upload_is_cut(self) -> None:
        letterbox = TRANSFORM | {"offset": [-20.0, -10.0], "scale": [4.0, 6.0]}
        drawn = overlay(np.ones((1, 2, 2)), fields={"transform": letterbox}, alpha=1.0)
        assert (drawn == 128).all()

    def test_without_a_transform_the_map_covers_the_upload(self) -> None:
        assert (overlay(np.ones((1, 2, 2)), fields={"transform": None}, alpha=1.0) == 128).all()

    def test_scale_is_pixels_per_pixel_of_the_upload(self) -> None:
        small = draw(np.ones((1, 2, 2)), GREY, {"transform": TRANSFORM, "heading": ""}, view="overlay", scale=0.5)
        large = draw(np.ones((1, 2, 2)), GREY, {"transform": TRANSFORM, "heading": ""}, view="overlay", scale=3)
        assert large.pixels.shape[1] == 24 + 600
        assert large.pixels.shape[0] - small.pixels.shape[0] == 300 - 50

    def test_positions_along_an_axis(self) -> None:
        seen, places = seen_axis(4, 4, 4, 1.0, 0.0, 2)
        assert seen.all()
        assert places.tolist() == [0.0, 0.25, 0.75, 1.0]

    def test_interpolation_is_bilinear(self) -> None:
        values = np.array([[0.0, 4.0], [8.0, 12.0]])
        at = interpolate(values, np.array([0.0, 0.5, 1.0]), np.array([0.25, 1.0]))
        assert at.tolist() == [[1.0, 4.0], [5.0, 8.0], [9.0, 12.0]]


class TestOpacity:
    def test_alpha_mixes_photograph_and_map(self) -> None:
        # 100 + 0.25 · (128 − 100)
        assert (overlay(np.ones((1, 2, 2)), alpha=0.25)[10:90, 60:140] == 107).all()
        assert (overlay(np.ones((1, 2, 2)), alpha=0.0)[10:90, 60:140] == 100).all()

    @pytest.mark.parametrize("alpha", [0.5, 0.3])
    def test_the_mixture_is_scaled_to_white_as_show_cam_on_image_does(self, alpha: float) -> None:
        values = np.random.RandomState(2).rand(6, 6).astype(np.float32)
        photograph = np.random.RandomState(3).randint(0, 180, (6, 6, 3), np.uint8)
        levels = np.floor((values - values.min()) / np.ptp(values) * 255 + 0.5).astype(int)
        colours = table("jet", False)
        mixed = np.zeros((6, 6, 3))
        for y in range(6):
            for x in range(6):
                for plane in range(3):
                    heat = colours[levels[y, x], plane] / 255
                    mixed[y, x, plane] = alpha * heat + (1 - alpha) * photograph[y, x, plane] / 255
        wanted = 255 * mixed / mixed.max()
        how = {"upload_size": [6, 6], "input_size": [6, 6], "scale": [1.0, 1.0], "offset": [0.0, 0.0]}
        fields = {"transform": how, "image": 0, "heading": "", "views": ("overlay",)}
        options: dict[str, Any] = {"colormap": "jet", "alpha": alpha, "scale": 1.0, "title": "none"}
        page = draw(values[None], photograph, fields, blend="brightest", **options)
        assert page.scale["blend"] == "brightest"
        found = [
            page.pixels[top : top + 6, left : left + 6].astype(float)
            for top in range(page.pixels.shape[0] - 5)
            for left in range(page.pixels.shape[1] - 5)
        ]
        assert min(np.abs(one - wanted).max() for one in found) <= 0.51
        plain = draw(values[None], photograph, fields, **options)
        assert plain.scale["blend"] == "mix"
        assert plain.pixels.tobytes() != page.pixels.tobytes()

    def test_brightest_is_what_the_peer_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """pytorch-grad-cam's own function, given Matplotlib's `jet`: OpenCV's is up to 34 levels from it."""
        cv2, peer = pytest.importorskip("cv2"), pytest.importorskip("pytorch_grad_cam.utils.image")
        jet = table("jet", False)
        theirs = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_JET)[0, :, ::-1]
        assert np.abs(theirs.astype(int) - jet).max() == 34
        monkeypatch.setattr(cv2, "applyColorMap", lambda levels, _: np.ascontiguousarray(jet[levels][..., ::-1]))
        levels = np.random.RandomState(2).randint(1, 255, (6, 6))
        levels[0, :2] = 0, 255  # the map spans its scale, and each value is in the middle of a level for both
        photograph = np.random.RandomState(3).randint(0, 180, (6, 6, 3), np.uint8)
        wanted = peer.show_cam_on_image(
            photograph / np.float32(255), ((levels + 0.25) / 255).clip(0, 1), use_rgb=True, image_weight=0.6
        )
        how = {"upload_size": [6, 6], "input_size": [6, 6], "scale": [1.0, 1.0], "offset": [0.0, 0.0]}
        page = overlay(
            (levels / 255)[None], photograph, {"transform": how}, colormap="jet", alpha=0.4, blend="brightest"
        )
        assert np.abs(page.astype(int) - wanted.astype(int)).max() <= 1

    def test_zero_of_a_signed_map_is_transparent(self) -> None:
        cells = np.zeros((1, 4, 4))
        cells[0, 0, 0], cells[0, 3, 3] = 1, -1
        fields = {"signed": True, "normalize": "symmetric"}
        drawn = overlay(cells, fields=fields, alpha=0.5, colormap="RdBu_r")
        assert (drawn[10:30, 120:140] == 100).all()
        strongest, weakest = table("RdBu_r", True)[[255, 1]].astype(float)
        for pixel, colour in ((drawn[12, 62], strongest), (drawn[87, 137], weakest)):
            assert (np.abs(pixel - (100 + 0.875 * (colour - 100))) <= 1).all()

    def test_zero_of_magnitudes_is_transparent(self) -> None:
        cells = np.zeros((1, 3, 4, 4))
        cells[0, 2, 0, 0] = -1
        fields = {"signed": True, "normalize": "symmetric", "magnitude": True}
        drawn = overlay(cells, fields=fields, alpha=0.5, colormap="inferno")
        assert (drawn[50:90, 60:140] == 100).all()
        strongest = table("inferno", False)[255].astype(float)
        assert (np.abs(drawn[12, 62] - (100 + 0.875 * (strongest - 100))) <= 1).all()

    def test_nan_has_its_own_colour(self) -> None:
        cells = np.ones((1, 4, 4))
        cells[0, 1, 1] = np.nan
        drawn = overlay(cells, alpha=1.0)
        assert ((drawn == nan_colour("gray")[1]).all(2)[30:50, 80:100]).all()
        assert (drawn == nan_colour("gray")[1]).all(2).sum() == 400

    def test_a_missing_upload_is_said_to_be_gone(self) -> None:
        with pytest.raises(ProblemError) as caught:
            draw(np.ones((1, 2, 2)), None, view="overlay")
        assert caught.value.name == "gone"
        assert "view=tiles" in caught.value.detail
