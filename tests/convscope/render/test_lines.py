"""The diagram: where its lines run, its legend, bands and missing values."""

from __future__ import annotations

import numpy as np
import pytest

from convscope.protocol.pictures import Line, Picture, Slice
from convscope.render import RenderOptions, render
from convscope.render.lines import _ticks
from tests.convscope.render.helpers import Png

BLUE, RED = (31, 119, 180), (214, 39, 40)


def diagram(rows: dict[str, np.ndarray], dashed: frozenset[str] = frozenset(), **options: object) -> Png:
    lines = tuple(
        Line(name, Slice(name), tuple(np.linspace(0, 1, array.shape[1])), name in dashed, "area")
        for name, array in rows.items()
    )
    picture = Picture("curve", "a curve", ("lines",), lines=lines, value_name="share", title="none")
    return Png.of(render(picture, rows.__getitem__, None, RenderOptions(**options)))  # type: ignore[arg-type]


def near(page: Png, colour: tuple[int, int, int]) -> np.ndarray:
    """Where the page has about that colour, (y, x)."""
    return np.argwhere(np.abs(page.pixels.astype(int) - colour).max(axis=2) < 24)


def test_a_falling_line_falls_and_a_rising_one_rises() -> None:
    page = diagram({"down": np.array([[1.0, 0.0]]), "up": np.array([[0.0, 1.0]])})
    for colour, sign in ((BLUE, 1), (RED, -1)):
        places = near(page, colour)
        places = places[places[:, 1] < 440]  # without the legend
        assert sign * np.corrcoef(places[:, 0], places[:, 1])[0, 1] > 0.95
    assert page.scale["vmin"] == 0.0 and page.scale["vmax"] == 1.0


def test_the_band_holds_the_middle_half_and_is_not_there_for_one_row() -> None:
    spread = np.array([[value] * 3 for value in (0.0, 0.2, 0.4, 0.6, 0.8)])
    several, one = diagram({"a": spread}), diagram({"a": spread[:1] + np.array([0.0, 0.5, 1.0])})
    pale = tuple(round(255 - 0.16 * (255 - channel)) for channel in BLUE)
    band = np.abs(several.pixels.astype(int) - pale).max(axis=2) < 4
    assert band.sum() > 20_000
    assert (np.abs(one.pixels.astype(int) - pale).max(axis=2) < 4).sum() < 500


def test_missing_values_are_no_line_and_a_single_place_is_a_dot() -> None:
    nothing = diagram({"a": np.full((2, 3), np.nan), "b": np.array([[0.0, 0.5, 1.0]])})
    blue = near(nothing, BLUE)
    assert (blue[:, 1] > 440).all()  # in the legend alone
    assert len(near(diagram({"a": np.array([[0.5]])}), BLUE)) > 40


def test_a_dashed_line_has_gaps() -> None:
    values = {"a": np.array([[0.5, 0.5]])}
    whole, dashed = diagram(values), diagram(values, frozenset({"a"}))
    solid = near(whole, BLUE)
    grey = near(dashed, (120, 120, 120))
    grey = grey[(grey[:, 1] < 440) & (grey[:, 1] > 60)]
    columns = len(set(solid[solid[:, 1] < 440][:, 1]))
    assert 0.35 * columns < len(set(grey[:, 1])) < 0.75 * columns


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.3, 0.31), (1e-7, 9e-7), (12.0, 40.0)])
def test_ticks_are_round_and_lie_within(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_a_larger_scale_is_a_larger_diagram() -> None:
    values = {"a": np.array([[0.0, 1.0]])}
    assert diagram(values, scale=2).pixels.shape[0] > diagram(values).pixels.shape[0] + 200
