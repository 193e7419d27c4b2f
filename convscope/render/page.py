"""What every page has around its body: a heading, notes on how it is drawn, a colour bar. Imports numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.protocol.operations.base import Normalize
from convscope.render.colors import FRAME, SOFT_INK, Palette
from convscope.render.scaling import Scale
from convscope.render.sheet import HEADING, LABEL, SMALL, Sheet, elide, line_height, text_width, wrap

Bytes = NDArray[np.uint8]

MARGIN = 12
GAP = 8
BAR_WIDTH, BAR_HEIGHT = 240, 12
MOST_TEXT_WIDTH = 520
"""A page is made wider than its body for its heading and notes, but not wider than this."""
MINUS = "−"


def number(value: float) -> str:
    """A number as people read it: three digits, powers of ten only where they are needed, a true minus sign."""
    text = f"{value:.3g}"
    if "e" in text and 1e3 <= abs(value) < 1e5:
        text = f"{float(text):.0f}"
    return text.replace("-", MINUS)


def clean(text: str) -> str:
    """The text on one line, with a replacement sign for what cannot be drawn."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)


@dataclass(frozen=True)
class Bar:
    """A colour bar: where on it (0 to 1) which text stands, and what it measures."""

    ticks: tuple[tuple[float, str], ...]
    name: str
    levels: Bytes


def colour_bar(scale: Scale, normalize: Normalize, name: str, own_moments: bool) -> Bar:
    """The bar of a scale that all maps share.

    Args:
        own_moments: with `standard`, that each map has its own mean and deviation, so that the bar counts deviations.
    """
    if normalize == "standard":
        deviations = (f"{MINUS}2 std", "mean", "+2 std")
        if not own_moments and scale.mean is not None and scale.std is not None:
            deviations = (number(scale.vmin), number(scale.mean), number(scale.vmax))
        texts = deviations
    elif scale.vmin == scale.vmax:
        # One value only: it is the mid-tone.
        return Bar(((0.5, number(scale.vmin)),), clean(name), np.full(BAR_WIDTH, 128, np.uint8))
    else:
        low, high = number(scale.vmin), number(scale.vmax)
        if scale.clipped:
            low, high = f"≤ {low}", f"≥ {high}"
        texts = (low, number(scale.vmin / 2 + scale.vmax / 2), high)
    first = 1 if normalize == "symmetric" else 0
    levels = np.linspace(first, 255, BAR_WIDTH).round().astype(np.uint8)
    return Bar(((0.0, texts[0]), (0.5, texts[1]), (1.0, texts[2])), clean(name), levels)


@dataclass
class Page:
    """The measures of a page around a body of H×W pixels; `draw` makes the sheet with all but the body on it."""

    body_height: int
    body_width: int
    heading: str
    notes: Sequence[str] = ()
    bar: Bar | None = None
    height: int = field(init=False)
    width: int = field(init=False)
    top: int = field(init=False)
    left: int = field(init=False, default=MARGIN)

    def __post_init__(self) -> None:
        self.heading = clean(self.heading)
        wanted = max([text_width(self.heading, HEADING), *(text_width(note, SMALL) for note in self.notes)])
        bar = 0 if self.bar is None else BAR_WIDTH + GAP + text_width(self.bar.name, LABEL)
        inner = max(self.body_width, min(max(wanted, bar), MOST_TEXT_WIDTH), BAR_WIDTH if self.bar else 0)
        self.width = inner + 2 * MARGIN
        self._heading = elide(self.heading, HEADING, inner)
        self._lines = wrap(self.notes, SMALL, inner)
        self.top = MARGIN + (line_height(HEADING) + 2 if self._heading else 0) + line_height(SMALL) * len(self._lines)
        self.top += GAP if self.top > MARGIN else 0
        self._bar_top = self.top + self.body_height + GAP + 2
        bar_height = GAP + 2 + BAR_HEIGHT + 3 + line_height(SMALL) if self.bar else 0
        self.height = self.top + self.body_height + bar_height + MARGIN

    def draw(self, palette: Palette | None, colours: Bytes, what: str) -> Sheet:
        """The page with its heading, notes and bar.

        Args:
            palette: None for an RGB page.
            colours: of the 256 levels of the bar.
            what: the page's name.

        Raises:
            ProblemError: `too-expensive`.
        """
        sheet = Sheet(self.height, self.width, palette, what)
        top = MARGIN
        if self._heading:
            sheet.text(top, self.left, self._heading, HEADING)
            top += line_height(HEADING) + 2
        for line in self._lines:
            sheet.text(top, self.left, line, SMALL, ink=SOFT_INK)
            top += line_height(SMALL)
        if self.bar is not None:
            self._draw_bar(sheet, self.bar, palette, colours)
        return sheet

    def _draw_bar(self, sheet: Sheet, bar: Bar, palette: Palette | None, colours: Bytes) -> None:
        top = self._bar_top
        strip: Any = colours[bar.levels] if palette is None else palette.levels[bar.levels]
        sheet.put(top, self.left, np.repeat(strip[None], BAR_HEIGHT, 0))
        sheet.frame(top, self.left, BAR_HEIGHT, BAR_WIDTH, FRAME)
        room = self.width - MARGIN - self.left - BAR_WIDTH - GAP
        name = elide(bar.name, LABEL, room)
        sheet.text(top - 1, self.left + BAR_WIDTH + GAP, name, LABEL, ink=SOFT_INK)
        for place, text in bar.ticks:
            width = text_width(text, SMALL)
            left = self.left + round(place * BAR_WIDTH - place * width)
            sheet.text(top + BAR_HEIGHT + 2, left, text, SMALL, ink=SOFT_INK)


def notes_on_scale(normalize: Normalize, maps: int, groups: int, outliers: float = 0.0) -> list[str]:
    """How levels were made of numbers, in words; nothing where the colour bar says it all."""
    if normalize == "map":
        return ["each map by its own minimum and maximum"] if maps > 1 else []
    if normalize == "standard":
        return ["each map by its own mean and standard deviation" if maps > 1 else "by its mean and standard deviation"]
    kind = "about zero, by the largest magnitude" if normalize == "symmetric" else "by the minimum and maximum"
    if normalize == "symmetric" and outliers > 0:
        kind = f"about zero, by the magnitude of {100 * (1 - outliers):g} % of the values"
    if groups > 1:
        return [f"{kind} of each of {groups} groups"]
    return [f"{kind} of all" if maps > 1 else kind] if normalize == "layer" or maps > 1 or outliers else ["about zero"]
