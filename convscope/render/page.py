"""What every page has around its body: a heading, notes on how it is drawn, a colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.protocol.pictures import Normalize
from convscope.render.colors import FRAME, INK, SOFT_INK, Palette
from convscope.render.scaling import MIDDLE, Scale
from convscope.render.sheet import HEADING, LABEL, SMALL, Sheet, elide, line_height, text_width, wrap, wrap_words

Bytes = NDArray[np.uint8]

MARGIN = 12
GAP = 8
BAR_WIDTH, BAR_HEIGHT = 240, 12
MOST_TEXT_WIDTH = 520
"""A page is made wider than its body for its heading and notes, but not wider than this."""
MINUS = "−"
MOST_HEADING_LINES = 3
MOST_LEGEND_LINES = 6
SWATCH = 10
"""Side of a legend's samples of colour, pixels."""
_SAMPLE, _ENTRY_GAP = SWATCH + 4, 14


def number(value: float, digits: int = 3) -> str:
    """A number as people read it: few digits, powers of ten only where they are needed, a true minus sign."""
    text = f"{value:.{digits}g}"
    if "e" in text and 1e3 <= abs(value) < 1e5:
        text = f"{float(text):.0f}"
    elif digits < 3 and 0 < abs(value) < 1e-2:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", MINUS)


def clean(text: str) -> str:
    """The text on one line, with a replacement sign for what cannot be drawn."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)


@dataclass(frozen=True)
class Bar:
    """A colour bar: where on it (0 to 1) which text stands, what it measures, and where a line marks its centre."""

    ticks: tuple[tuple[float, str], ...]
    name: str
    levels: Bytes
    mark: float | None = None


def own_range_bar(name: str) -> Bar:
    """The bar of maps that have each a range of their own."""
    levels = np.linspace(0, 255, BAR_WIDTH).round().astype(np.uint8)
    return Bar(((0.0, "minimum"), (1.0, "maximum")), clean(f"{name} of each map" if name else "each map"), levels)


def centred_bar(scale: Scale, name: str, centre_name: str) -> Bar:
    """The bar of a scale about a centre: from the smallest value to the largest, a line at the centre."""
    assert scale.centre is not None and scale.reach is not None
    low, high = min(scale.low, scale.centre), max(scale.high, scale.centre)
    # One piece, which no line is broken in.
    said = f"{clean(name)}  " + f"| {clean(centre_name)} {number(scale.centre)}".replace(" ", "\u00a0")
    if scale.reach <= 0 or high <= low:
        return Bar(((0.5, number(scale.centre)),), said, np.full(BAR_WIDTH, MIDDLE, np.uint8))
    values = np.linspace(low, high, BAR_WIDTH)
    levels = np.clip(np.rint(MIDDLE + (values - scale.centre) / scale.reach * (255 - MIDDLE)), 1, 255)
    ends = ((0.0, number(low)), (1.0, number(high)))
    return Bar(ends, said, levels.astype(np.uint8), mark=(scale.centre - low) / (high - low))


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
        low, high = f"≤ {low}" if scale.below else low, f"≥ {high}" if scale.above else high
        texts = (low, number(scale.vmin / 2 + scale.vmax / 2), high)
    first = 1 if normalize == "symmetric" else 0
    levels = np.linspace(first, 255, BAR_WIDTH).round().astype(np.uint8)
    return Bar(((0.0, texts[0]), (0.5, texts[1]), (1.0, texts[2])), clean(name), levels)


@dataclass(frozen=True)
class LegendEntry:
    """A name that a colour stands for.

    Attributes:
        level: whose colour it is, 0 to 255.
        share: of the cells that have it, 0 to 1.
    """

    name: str
    level: int
    share: float


@dataclass(frozen=True)
class _Placed:
    """A text of the legend on its line, with its colour's level before it unless it is None."""

    line: int
    left: int
    text: str
    level: int | None


def lay_legend(entries: Sequence[LegendEntry], width: int) -> list[_Placed]:
    """As many entries as fit into `MOST_LEGEND_LINES` lines of this width; then how many more there are."""
    placed: list[_Placed] = []
    line = left = 0
    for entry in entries:
        percent = 100 * entry.share
        share = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
        text = elide(f"{entry.name} {share} %", SMALL, width - _SAMPLE)
        if left and left + _SAMPLE + text_width(text, SMALL) > width:
            line, left = line + 1, 0
        if line == MOST_LEGEND_LINES:
            break
        placed.append(_Placed(line, left, text, entry.level))
        left += _SAMPLE + text_width(text, SMALL) + _ENTRY_GAP
    while len(placed) < len(entries):
        more = f"{len(entries) - len(placed)} more"
        before = placed[-1]
        left = before.left + _SAMPLE + text_width(before.text, SMALL) + _ENTRY_GAP
        if left + text_width(more, SMALL) <= width or len(placed) == 1:
            return [*placed, _Placed(before.line, left, more, None)]
        placed.pop()
    return placed


@dataclass
class Page:
    """The measures of a page around a body of H×W pixels; `draw` makes the sheet with all but the body on it."""

    body_height: int
    body_width: int
    heading: str
    notes: Sequence[str] = ()
    bar: Bar | None = None
    legend: Sequence[LegendEntry] = ()
    bare: bool = False
    """Nothing but the body, to its edge."""
    height: int = field(init=False)
    width: int = field(init=False)
    top: int = field(init=False)
    left: int = field(init=False, default=MARGIN)

    def __post_init__(self) -> None:
        if self.bare:
            self.heading, self.notes, self.bar, self.legend = "", (), None, ()
        margin = 0 if self.bare else MARGIN
        self.left = margin
        self.heading = clean(self.heading)
        wanted = max([text_width(self.heading, HEADING), *(text_width(note, SMALL) for note in self.notes)])
        bar = 0 if self.bar is None else BAR_WIDTH + GAP + text_width(self.bar.name, LABEL)
        inner = max(self.body_width, min(max(wanted, bar), MOST_TEXT_WIDTH), BAR_WIDTH if self.bar else 0)
        self.width = inner + 2 * margin
        self._heading = wrap_words(self.heading, HEADING, inner, MOST_HEADING_LINES)
        self._lines = wrap(self.notes, SMALL, inner)
        self.top = margin + line_height(SMALL) * len(self._lines)
        self.top += line_height(HEADING) * len(self._heading) + 2 if self._heading else 0
        self.top += GAP if self.top > margin else 0
        self._bar_top = self.top + self.body_height + GAP + 2
        bar_height = GAP + 2 + BAR_HEIGHT + 3 + line_height(SMALL) if self.bar else 0
        self._legend = lay_legend(self.legend, inner)
        legend_height = GAP + line_height(SMALL) * (self._legend[-1].line + 1) if self._legend else 0
        self.height = self.top + self.body_height + bar_height + legend_height + margin

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
        for line in self._heading:
            sheet.text(top, self.left, line, HEADING)
            top += line_height(HEADING)
        top += 2 if self._heading else 0
        for line in self._lines:
            sheet.text(top, self.left, line, SMALL, ink=SOFT_INK)
            top += line_height(SMALL)
        if self.bar is not None:
            self._draw_bar(sheet, self.bar, palette, colours)
        for entry in self._legend:
            self._draw_entry(sheet, entry, palette, colours)
        return sheet

    def _draw_entry(self, sheet: Sheet, entry: _Placed, palette: Palette | None, colours: Bytes) -> None:
        line = line_height(SMALL)
        lines = self._legend[-1].line + 1
        top = self.height - MARGIN - line * (lines - entry.line)
        left = self.left + entry.left
        if entry.level is not None:
            colour: Any = colours[entry.level] if palette is None else palette.levels[entry.level]
            sheet.pixels[top + 1 : top + 1 + SWATCH, left : left + SWATCH] = colour
            sheet.frame(top + 1, left, SWATCH, SWATCH, FRAME)
            left += _SAMPLE
        sheet.text(top, left, entry.text, SMALL, ink=SOFT_INK)

    def _draw_bar(self, sheet: Sheet, bar: Bar, palette: Palette | None, colours: Bytes) -> None:
        top = self._bar_top
        strip: Any = colours[bar.levels] if palette is None else palette.levels[bar.levels]
        sheet.put(top, self.left, np.repeat(strip[None], BAR_HEIGHT, 0))
        sheet.frame(top, self.left, BAR_HEIGHT, BAR_WIDTH, FRAME)
        if bar.mark is not None:
            sheet.fill(top - 3, self.left + round(bar.mark * (BAR_WIDTH - 2)), BAR_HEIGHT + 6, 2, INK)
        room = self.width - MARGIN - self.left - BAR_WIDTH - GAP
        # The bar with its numbers is two lines high.
        for line, text in enumerate(wrap_words(bar.name, LABEL, room, 2)):
            sheet.text(top - 1 + line * line_height(LABEL), self.left + BAR_WIDTH + GAP, text, LABEL, ink=SOFT_INK)
        for place, text in bar.ticks:
            width = text_width(text, SMALL)
            left = self.left + round(place * BAR_WIDTH - place * width)
            sheet.text(top + BAR_HEIGHT + 2, left, text, SMALL, ink=SOFT_INK)


def _fixed(value_range: tuple[float, float]) -> str:
    """The ends of a scale that its operation fixes, in words; an infinite end is the data's own."""
    low = number(value_range[0]) if np.isfinite(value_range[0]) else "the minimum"
    high = number(value_range[1]) if np.isfinite(value_range[1]) else "the maximum"
    return f"from {low} to {high}"


def notes_on_scale(
    normalize: Normalize,
    maps: int,
    groups: int,
    outliers: float = 0.0,
    value_range: tuple[float, float] | None = None,
) -> list[str]:
    """How levels were made of numbers, in words; nothing where the colour bar says it all."""
    if normalize == "map":
        return ["each map by its own minimum and maximum"] if maps > 1 else []
    if normalize == "standard":
        return ["each map by its own mean and standard deviation" if maps > 1 else "by its mean and standard deviation"]
    kind = "about zero, by the largest magnitude" if normalize == "symmetric" else "by the minimum and maximum"
    if value_range is not None and normalize == "layer":
        kind = _fixed(value_range)
        if value_range[0] == 0 and outliers > 0:
            kind = f"from zero to the value of {100 * (1 - outliers):g} % of those above it"
    if normalize == "symmetric" and outliers > 0:
        kind = f"about zero, by the magnitude of {100 * (1 - outliers):g} % of the values"
    if groups > 1:
        return [f"{kind} of each of {groups} groups"]
    return [f"{kind} of all" if maps > 1 else kind] if normalize == "layer" or maps > 1 or outliers else ["about zero"]
