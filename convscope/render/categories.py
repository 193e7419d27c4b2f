"""Pictures whose numbers are names (classes): a colour for each that occurs, and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.protocol.pictures import Picture
from convscope.render.colors import GREYS, HATCH, nan_colour, table
from convscope.render.options import Plan
from convscope.render.page import LegendEntry, clean
from convscope.render.scaling import Scaled, scale_maps

Bytes = NDArray[np.uint8]

MOST_CATEGORIES = 200
"""Categories with a colour of their own; rarer ones are grey together. A page's palette holds so many beside its own
colours."""

# Seen well on white, over a photograph, and by the colour-blind (after Okabe & Ito); then come glasbey's.
_FIRST = (
    (0, 114, 178), (230, 159, 0), (204, 51, 17), (0, 158, 115), (204, 121, 167), (86, 180, 233), (240, 228, 66),
    (117, 63, 20),
)  # fmt: skip


@dataclass(frozen=True)
class Colouring:
    """Levels of maps, the colour of each level (256×3), the colour for NaN, and the legend where levels are names."""

    scaled: Scaled
    colours: Bytes
    nan: tuple[int, int, int]
    legend: tuple[LegendEntry, ...] = ()
    values: tuple[int, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What the text chunk says where levels are names: every value with its name, colour and share."""
        if not self.legend:
            return {}
        told = [
            {"value": value, "name": entry.name, "color": "#{:02x}{:02x}{:02x}".format(*self.colours[entry.level]),
             "share": round(entry.share, 6)}
            for value, entry in zip(self.values, self.legend, strict=True)
        ]  # fmt: skip
        return {"normalize": "categories", "colormap": None, "vmin": None, "vmax": None, "categories": told}


def colour_maps(picture: Picture, plan: Plan, maps: Sequence[NDArray[Any]], groups: Sequence[str]) -> Colouring:
    """The maps on their scale, or, where a picture's numbers are names, by name."""
    nan = nan_colour(plan.colormap)[1]
    if picture.categories is not None and maps:
        return _categorised(maps, picture.categories, nan)
    scaled = scale_maps(maps, groups, plan.normalize, plan.value_range, plan.outliers, plan.centre)
    return Colouring(scaled, table(plan.colormap, plan.normalize == "symmetric"), nan)


def palette() -> Bytes:
    """A colour for each of 256 ranks of frequency, all those up to `MOST_CATEGORIES` different."""
    colours = np.full((256, 3), GREYS[HATCH], np.uint8)
    chosen = list(_FIRST)
    for colour in map(tuple, table("glasbey", False).tolist()):
        # Far from the colours before the list, from white paper and from grey text.
        far = all(sum(abs(a - b) for a, b in zip(colour, one, strict=True)) >= 60 for one in (*_FIRST, (255, 255, 255)))
        if far and max(colour) - min(colour) > 12 and colour not in chosen:
            chosen.append(colour)
    chosen = chosen[:MOST_CATEGORIES]
    colours[: len(chosen)] = chosen
    return colours


def _categorised(maps: Sequence[NDArray[Any]], names: Mapping[int, str], nan: tuple[int, int, int]) -> Colouring:
    """Levels by rank: 0 is the most frequent value over all maps, equal ones in their own order."""
    missing = [np.isnan(one) if one.dtype.kind == "f" else np.zeros(one.shape, bool) for one in maps]
    known = np.concatenate([one[~absent].ravel() for one, absent in zip(maps, missing, strict=True)]).astype(np.int64)
    values, counts = np.unique(known, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    colours = palette()
    most = min(MOST_CATEGORIES, int((colours != GREYS[HATCH]).any(1).sum()))
    level_of = np.empty(len(values), np.uint8)
    level_of[order] = np.minimum(np.arange(len(values)), most)
    levels = []
    for one, absent in zip(maps, missing, strict=True):
        filled = np.where(absent, values[0] if len(values) else 0, one).astype(np.int64)
        levels.append(level_of[np.searchsorted(values, filled)] if len(values) else np.zeros(one.shape, np.uint8))
    plain = [clean(names.get(int(value), str(value))) for value in values]
    legend = tuple(
        LegendEntry(
            plain[place] if plain.count(plain[place]) == 1 else f"{plain[place]} ({values[place]})",
            int(level_of[place]),
            float(counts[place] / counts.sum()),
        )
        for place in order
    )
    gaps = [absent if absent.any() else None for absent in missing]
    return Colouring(Scaled(levels, gaps, []), colours, nan, legend, tuple(int(values[place]) for place in order))
