"""Colour maps as plain tables, and palettes that hold a whole page."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from cmap import Catalog, Colormap
from numpy.typing import NDArray

from convscope.protocol.problems import invalid_field

Bytes = NDArray[np.uint8]

GREYS: Bytes = np.linspace(255, 30, 12).round().astype(np.uint8)
"""Every grey a page is drawn with: white paper first, the darkest ink last."""
WHITE, FRAME, HATCH, SOFT_INK, INK = 0, 2, 4, 8, 11
"""Places in GREYS."""
GREY_OF_VALUE: Bytes = np.abs(np.arange(256)[:, None] - GREYS.astype(int)).argmin(1).astype(np.uint8)
"""For each of 256 values of grey, the place of the nearest one in GREYS."""

# Clear against most colour maps; the first that is far from every colour of the map in use is taken.
_NAN_CANDIDATES = (
    ("magenta", (255, 0, 255)),
    ("lime", (0, 255, 0)),
    ("cyan", (0, 255, 255)),
    ("orange", (255, 128, 0)),
    ("grey", (128, 128, 128)),
    ("black", (0, 0, 0)),
)
# Names that mean something else, or two things, in the catalogue.
_PREFERRED = {"grey": "matlab:gray", "rdbu": "colorbrewer:RdBu", "coolwarm": "matplotlib:coolwarm"}
_COMMON = ("viridis", "magma", "inferno", "cividis", "gray", "turbo", "RdBu_r", "coolwarm", "seismic", "vik")


@cache
def _catalogue() -> Catalog:
    return Catalog()


def _candidates() -> dict[str, str]:
    """Every short name by its lower-case form."""
    return {name.lower(): name for name in _catalogue().short_keys()}


@lru_cache(maxsize=256)
def _qualified(name: str) -> str:
    """The catalogue's unambiguous name of a colour map, with `_r` where the name asks for the reverse.

    Raises:
        ProblemError: `invalid-request`, with near names.
    """
    base, reverse = (name[:-2], "_r") if name.lower().endswith("_r") else (name, "")
    key = base.lower().replace("-", "_").replace(" ", "_")
    if key in _PREFERRED:
        return _PREFERRED[key] + reverse
    try:
        return _catalogue().resolve(base) + reverse
    except (ValueError, KeyError):
        names = _candidates()
        near = [names[match] for match in difflib.get_close_matches(key, sorted(names), 5)]
        possible = near or list(_COMMON)
        detail = f"There is no colour map {name!r}; {'near' if near else 'common'} names: {', '.join(possible)}."
        raise invalid_field("/query/colormap", detail, possible=possible) from None


def check_colormap(name: str) -> None:
    """Refuse a name that no colour map has.

    Raises:
        ProblemError: `invalid-request`, with near names.
    """
    _qualified(name)


def is_diverging(name: str) -> bool:
    """Whether the middle of the colour map is its neutral colour."""
    return bool(Colormap(_qualified(name)).category == "diverging")


@lru_cache(maxsize=64)
def table(name: str, symmetric: bool) -> Bytes:
    """A colour for each of 256 levels (256×3).

    With `symmetric` the colours lie on levels 1 to 255, so that level 128, which stands for zero, has exactly the
    colour in the middle; level 0 repeats level 1.
    """
    places = np.linspace(0.0, 1.0, 255) if symmetric else np.linspace(0.0, 1.0, 256)
    shares = np.asarray(Colormap(_qualified(name))(places))[:, :3]
    colours: Bytes = np.clip(np.rint(shares * 255.0), 0, 255).astype(np.uint8)
    colours = np.concatenate([colours[:1], colours]) if symmetric else colours
    colours.setflags(write=False)
    return colours


@lru_cache(maxsize=64)
def nan_colour(name: str) -> tuple[str, tuple[int, int, int]]:
    """Name and value of the colour for NaN: one that is far from every colour of the map."""
    colours = table(name, False).astype(int)
    distances = [np.abs(colours - np.array(colour)).sum(1).min() for _, colour in _NAN_CANDIDATES]
    for candidate, distance in zip(_NAN_CANDIDATES, distances, strict=True):
        if distance >= 120:
            return candidate
    return _NAN_CANDIDATES[int(np.argmax(distances))]


@dataclass(frozen=True)
class Palette:
    """At most 256 colours that hold a page: its greys, a colour for NaN, and a colour map.

    Attributes:
        colours: n×3.
        greys: place of each of GREYS.
        nan: place of the colour for NaN; that of white where none was asked for.
        levels: place of each of the 256 levels of the colour map.
    """

    colours: Bytes
    greys: Bytes
    nan: int
    levels: Bytes


def fit_palette(colours: Bytes, nan: tuple[int, int, int] | None, used: NDArray[np.bool_]) -> Palette:
    """One palette for a page and a colour map.

    The two may need more than 256 colours. Then as many levels as necessary, about a dozen, share the colour of the
    level below: first those that no map uses, then those that differ least. Pages that use few levels are exact.

    Args:
        colours: of the levels, 256×3.
        nan: the colour for NaN, None where there is none.
        used: which levels occur in the picture, 256.
    """
    wanted = np.concatenate([np.repeat(GREYS[:, None], 3, 1), np.array([nan or (255, 255, 255)], np.uint8)])
    known = {tuple(colour): level for level, colour in reversed(list(enumerate(colours.tolist())))}
    fresh = [colour for colour in map(tuple, wanted.tolist()) if colour not in known]
    steps = np.abs(np.diff(colours.astype(int), axis=0, prepend=colours[:1].astype(int))).sum(1)
    keep = np.ones(256, bool)
    # A level that a page colour stands on, and the ends and the middle of the map, are never given up.
    guarded = [known[tuple(colour)] for colour in wanted.tolist() if tuple(colour) in known]
    cost = steps + np.where(used, 1000, 0)
    cost[[0, 1, 128, 255, *guarded]] = 1_000_000
    keep[np.argsort(cost, kind="stable")[: len(fresh)]] = False
    kept = np.flatnonzero(keep)
    levels = (np.searchsorted(kept, np.arange(256), side="right") - 1).astype(np.uint8)
    all_colours = np.concatenate([colours[kept], np.array(fresh, np.uint8).reshape(-1, 3)])
    place = {tuple(colour): index for index, colour in reversed(list(enumerate(all_colours.tolist())))}
    places = np.array([place[tuple(colour)] for colour in wanted.tolist()], np.uint8)
    return Palette(all_colours, places[:-1], int(places[-1]), levels)
