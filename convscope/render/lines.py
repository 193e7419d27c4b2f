"""The view `lines`: a diagram of means over images, with the middle half of the images as a band, and a legend.

Dashed lines, with which others are compared, have no band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convscope.protocol.pictures import Line, Picture
from convscope.render.colors import FRAME, INK, SOFT_INK, table
from convscope.render.options import Plan
from convscope.render.page import Page, clean, number
from convscope.render.sheet import LABEL, SMALL, check_size, elide, line_height, text_width
from convscope.render.stopping import go_on
from convscope.render.tiles import Arrays, Drawn

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

WIDTH, HEIGHT = 420, 260
"""Of the diagram, pixels, at the scale 1."""
MOST_SCALE = 8
_FINER = 3
"""Lines are drawn so many times larger and then shrunk, which smooths them."""
_COLOURS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207),
            (227, 119, 194), (140, 86, 75))  # fmt: skip
_GREYS = ((120, 120, 120), (170, 170, 170))
"""Of dashed lines."""
_BAND = 0.16
"""Opacity of a band."""
_TICKS = 5
_SAMPLE = 26
_LEGEND = 190
"""Width of a legend's entry at most."""
_GAP = 8


@dataclass(frozen=True)
class _Curve:
    line: Line
    colour: tuple[int, int, int]
    mean: Floats
    low: Floats
    high: Floats

    @property
    def text(self) -> str:
        """Its entry in the legend."""
        there = np.isfinite(self.mean)
        if not there.any():
            return f"{self.line.label}: no value"
        if self.line.figure == "area" and there.all():
            figure = float(np.trapezoid(self.mean, self.line.places))
        else:
            figure = float(self.mean[there].mean())
        return f"{self.line.label}: {self.line.figure} {number(figure)}"


def lines_extent(scale: float | None) -> int:
    """Pixels that are drawn of one diagram, those of its finer copy included."""
    return int(HEIGHT * WIDTH * min(scale or 1, MOST_SCALE) ** 2 * _FINER**2)


def draw_lines(picture: Picture, arrays: Arrays, plan: Plan) -> Drawn:
    """The view `lines`.

    Raises:
        ProblemError: `too-expensive`.
        ValueError: the picture declares no line.
    """
    if not picture.lines:
        raise ValueError(f"{picture.name} has the view lines but declares none")
    scale = int(min(plan.scale or 1, MOST_SCALE))
    height, width = HEIGHT * scale, WIDTH * scale
    curves = _read(picture.lines, arrays)
    across, up = _range([place for one in picture.lines for place in one.places]), _range(_drawn_values(curves))
    ticks = _ticks(*up)
    line = line_height(SMALL)
    indent = max(text_width(number(tick), SMALL) for tick in ticks) + 8
    legend = min(_LEGEND, max(text_width(one.text, SMALL) for one in curves)) + _SAMPLE + _GAP
    body_height = max(height + 2 * line + 14, len(curves) * (line + 2))
    body_width = indent + width + 2 * _GAP + legend
    check_size(body_height, body_width, picture.name)
    several = max(len(np.atleast_1d(arrays(one.rows.array))) for one in picture.lines) > 1
    notes = ["mean over the images; bands: half of them"] if several else []
    page = Page(body_height, body_width, picture.heading, notes)
    sheet = page.draw(None, table(plan.colormap, False), picture.name)
    top, left = page.top + line // 2, page.left + indent
    sheet.put(top, left, _plot(curves, across, up, ticks, (height, width)))
    sheet.frame(top, left, height, width, FRAME)
    for tick in ticks:
        y = top + round((height - 1) * (1 - (tick - up[0]) / (up[1] - up[0])))
        text = number(tick)
        sheet.text(y - line // 2, left - 6 - text_width(text, SMALL), text, SMALL, ink=SOFT_INK)
    for tick in _ticks(*across):
        x = left + round((width - 1) * (tick - across[0]) / (across[1] - across[0]))
        text = number(tick)
        sheet.text(top + height + 3, x - text_width(text, SMALL) // 2, text, SMALL, ink=SOFT_INK)
    name = clean(picture.value_name)
    sheet.text(top + height + 5 + line, left + (width - text_width(name, LABEL)) // 2, name, LABEL, ink=INK)
    for place, one in enumerate(curves):
        y, x = top + place * (line + 2), left + width + 2 * _GAP
        sheet.put(y, x, _sample(one, line))
        sheet.text(y, x + _SAMPLE, elide(clean(one.text), SMALL, _LEGEND), SMALL)
    facts = {"picture": picture.name, "view": plan.view, "normalize": plan.normalize, "colormap": plan.colormap,
             "vmin": up[0], "vmax": up[1], "value": picture.value_name}  # fmt: skip
    return Drawn(sheet, facts, repeated=False)


def _read(lines: Sequence[Line], arrays: Arrays) -> list[_Curve]:
    """Means and quartiles of each line's rows; dashed lines are grey."""
    found: list[_Curve] = []
    solid = dashed = 0
    for line in lines:
        go_on()
        rows = np.asarray(arrays(line.rows.array)[line.rows.index], np.float64).reshape(-1, len(line.places))
        if line.dashed:
            colour, dashed = _GREYS[dashed % len(_GREYS)], dashed + 1
        else:
            colour, solid = _COLOURS[solid % len(_COLOURS)], solid + 1
        kept = rows[np.isfinite(rows).any(axis=1)]
        if not len(kept):
            kept = np.full((1, len(line.places)), np.nan)
        masked = np.ma.masked_invalid(kept)
        mean = masked.mean(axis=0).filled(np.nan)
        low, high = (np.array([_quantile(column, share) for column in kept.T]) for share in (0.25, 0.75))
        found.append(_Curve(line, colour, mean, low, high))
    return found


def _quantile(values: Floats, share: float) -> float:
    there = values[np.isfinite(values)]
    return float(np.quantile(there, share)) if len(there) else math.nan


def _drawn_values(curves: Sequence[_Curve]) -> list[float]:
    values = np.concatenate([part for one in curves for part in (one.mean, one.low, one.high)])
    return [float(value) for value in values[np.isfinite(values)]]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The least and largest value, some way apart; from zero where that is near."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if 0 < low < 0.5 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, about five."""
    raw = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _plot(
    curves: Sequence[_Curve],
    across: tuple[float, float],
    up: tuple[float, float],
    ticks: Sequence[float],
    size: tuple[int, int],
) -> Bytes:
    """The diagram's inside, RGB."""
    height, width = size[0] * _FINER, size[1] * _FINER

    def point(place: float, value: float) -> tuple[float, float]:
        x = (place - across[0]) / (across[1] - across[0]) * (width - 1)
        return x, (1 - (value - up[0]) / (up[1] - up[0])) * (height - 1)

    image = Image.new("RGB", (width, height), (255, 255, 255))
    grid = ImageDraw.Draw(image)
    for tick in ticks:
        grid.line([point(across[0], tick), point(across[1], tick)], fill=(236, 236, 236), width=_FINER)
    for one in curves:
        band = [point(*pair) for pair in zip(one.line.places, one.high, strict=True)]
        band += [point(*pair) for pair in zip(reversed(one.line.places), one.low[::-1], strict=True)]
        if not one.line.dashed and len(band) > 2 and np.isfinite(band).all():
            layer = Image.new("L", (width, height), 0)
            ImageDraw.Draw(layer).polygon(band, fill=round(255 * _BAND))
            image.paste(Image.new("RGB", (width, height), one.colour), mask=layer)
    pen = ImageDraw.Draw(image)
    for one in curves:
        points = [point(*pair) for pair in zip(one.line.places, one.mean, strict=True)]
        _stroke(pen, [each for each in points if math.isfinite(each[1])], one)
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX))


def _stroke(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], curve: _Curve) -> None:
    """A line through points, dashed or not; a single one is a dot."""
    thick = 2 * _FINER
    if not points:
        return
    if len(points) == 1:
        (x, y), reach = points[0], 2 * thick
        pen.ellipse([x - reach, y - reach, x + reach, y + reach], fill=curve.colour)
        return
    if not curve.line.dashed:
        pen.line(list(points), fill=curve.colour, width=thick, joint="curve")
        return
    dash, gone = 6 * _FINER, 0.0
    for (x, y), (to_x, to_y) in pairwise(points):
        length = math.hypot(to_x - x, to_y - y)
        at = 0.0
        while at < length:
            until = min(length, at + dash - gone % dash)
            if (gone // dash) % 2 == 0:
                ends = [(x + (to_x - x) * part / length, y + (to_y - y) * part / length) for part in (at, until)]
                pen.line(ends, fill=curve.colour, width=thick)
            gone += until - at
            at = until


def _sample(curve: _Curve, height: int) -> Bytes:
    """A piece of the line for the legend, RGB."""
    image = Image.new("RGB", ((_SAMPLE - 6) * _FINER, height * _FINER), (255, 255, 255))
    middle = height * _FINER / 2
    _stroke(ImageDraw.Draw(image), [(0, middle), (image.width - 1, middle)], curve)
    return np.asarray(image.resize((_SAMPLE - 6, height), Image.Resampling.BOX))
