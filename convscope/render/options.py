"""How a caller wants a result drawn: the options of the query, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

from convscope.protocol.pictures import Blend, Normalize, Picture, Title, View
from convscope.protocol.problems import invalid_field
from convscope.render.colors import check_colormap, is_diverging

MAX_SCALE = 256
MAX_COLUMNS = 4096
DIVERGING = "RdBu_r"
SEQUENTIAL = "viridis"


def refuse(option: str, detail: str, possible: Sequence[str] | None = None) -> NoReturn:
    """Refuse one option, saying what would be possible."""
    extra: dict[str, Any] = {} if possible is None else {"possible": list(possible)}
    raise invalid_field(f"/query/{option}", detail, **extra)


@dataclass(frozen=True)
class RenderOptions:
    """What a caller may choose about a drawing; None leaves the picture's own default.

    Args:
        view: one of the picture's views.
        colormap: a name of the cmap catalogue, with `_r` for its reverse.
        normalize: `map`, `layer`, `standard` or `symmetric`.
        columns: tiles in a row, of all pictures, or `NAME:8,NAME:16` of those with these names, layers as a rule.
        scale: pixels for each cell of a map or matrix, a whole number; for an overlay, pixels for each pixel of the
            upload, which may be a fraction.
        title: which text stands above a tile.
        alpha: opacity of an overlay's colours, 0 to 1.
        blend: of an overlay: `mix` photograph and colours, or scale the mixture so that its `brightest` value is white.

    Raises:
        ProblemError: `invalid-request`, with what would be possible.
    """

    view: View | None = None
    colormap: str | None = None
    normalize: Normalize | None = None
    columns: int | str | None = None
    scale: float | None = None
    title: Title | None = None
    alpha: float | None = None
    blend: Blend | None = None

    def __post_init__(self) -> None:
        for option, choices in (
            ("view", get_args(View)),
            ("normalize", get_args(Normalize)),
            ("title", get_args(Title)),
            ("blend", get_args(Blend)),
        ):
            value = getattr(self, option)
            if value is not None and value not in choices:
                refuse(option, f"{option}={value} is not known; possible are {', '.join(choices)}.", list(choices))
        if self.colormap is not None:
            check_colormap(self.colormap)
        for number in read_columns(self.columns).values():
            if not 1 <= number <= MAX_COLUMNS:
                refuse("columns", f"columns={self.columns} is out of range; possible are 1 to {MAX_COLUMNS}.")
        if self.scale is not None and not 0 < self.scale <= MAX_SCALE:
            refuse("scale", f"scale={self.scale:g} is out of range; possible is above 0, up to {MAX_SCALE}.")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            refuse("alpha", f"alpha={self.alpha:g} is out of range; possible is 0 (the photograph) to 1 (the map).")


ALL = ""
"""The name in `read_columns` of a number that holds for every picture."""


def read_columns(value: int | str | None) -> dict[str, int]:
    """Tiles in a row by the pictures' names.

    Raises:
        ProblemError: `invalid-request`: neither a number nor names with numbers.
    """
    if value is None:
        return {}
    if isinstance(value, int) or value.strip().isdecimal():
        return {ALL: int(value)}
    found = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, _, number = part.rpartition(":")
        if not number.strip().isdecimal():
            refuse("columns", f"columns={value[:100]} is neither a number nor a list of LAYER:NUMBER.")
        found[name.strip()] = int(number)
    return found


def columns_of(picture: Picture, value: int | str | None) -> int | None:
    """Tiles in a row that were asked for of one picture: by its name, or by its layer's where it is one of several."""
    asked = read_columns(value)
    names = [name for full in (picture.name, *picture.also) for name in (full, full.partition("/")[0])]
    return next((asked[name] for name in [*names, ALL] if name in asked), None)


@dataclass(frozen=True)
class Plan:
    """A picture's defaults with a caller's options over them: nothing left open."""

    view: View
    colormap: str
    normalize: Normalize
    columns: int | None
    scale: float | None
    title: Title
    alpha: float
    value_range: tuple[float, float] | None
    outliers: float
    signed: bool = False
    magnitude: bool = False
    blend: Blend = "mix"
    centre: float | None = None
    bare: bool = False
    """Nothing but the picture: no heading, scale or margin."""
    among: int = 0
    """Panels of one page that this is one of."""
    most_pixels: float = math.inf


def plan(picture: Picture, options: RenderOptions, most_pixels: float = math.inf, among: int = 0) -> Plan:
    """Settle how to draw a picture, alone or as one of so many panels.

    `most_pixels` is what its page may have where nobody asked for a scale; a smaller one is chosen, so that it fits.

    A signed picture, and one whose normalisation the caller changes, gets a colour map that suits unless the caller
    names one: diverging about zero for `symmetric`, sequential else, since a neutral middle that is not zero misleads.
    Numbers that are names have neither scale nor colour map, so that both options pass such a picture by.

    Raises:
        ProblemError: `invalid-request`: the picture has no such view or title, or the view no such scale.
    """
    view = options.view or picture.views[0]
    if view not in picture.views:
        refuse("view", f"{picture.name} has no view {view}; possible are {', '.join(picture.views)}.", picture.views)
    title = options.title or picture.title
    titles = sorted({name for tile in picture.tiles for name in tile.titles})
    if options.title not in (None, "none") and picture.tiles and title not in titles:
        possible = ["none", *titles]
        refuse("title", f"{picture.name} has no title {title}; possible are {', '.join(possible)}.", possible)
    if options.scale is not None and view != "overlay" and options.scale != int(options.scale):
        refuse("scale", f"scale={options.scale:g}: {view} needs a whole number of pixels for each cell.")
    named = picture.categories is not None
    magnitude = picture.magnitude and view in ("picture", "overlay") and options.normalize != "symmetric"
    own: Normalize = "layer" if magnitude else picture.normalize
    normalize = (None if named else options.normalize) or own
    changed = normalize != own
    of_magnitudes = "gray" if view == "picture" else "inferno"
    colormap = (None if named else options.colormap) or (of_magnitudes if magnitude else picture.colormap)
    signed = picture.signed and not magnitude
    if (changed or signed) and options.colormap is None and is_diverging(colormap) != (normalize == "symmetric"):
        colormap = DIVERGING if normalize == "symmetric" else SEQUENTIAL
    return Plan(
        view=view,
        colormap=colormap,
        normalize=normalize,
        columns=columns_of(picture, options.columns) or picture.columns,
        scale=options.scale,
        title=title,
        alpha=0.5 if options.alpha is None else options.alpha,
        # A fixed range belongs to the picture's own normalisation; another one asks to see all values.
        value_range=None if changed else (0.0, math.inf) if magnitude else picture.value_range,
        outliers=0.0 if changed else picture.outliers,
        signed=signed,
        magnitude=magnitude,
        blend=options.blend or "mix",
        centre=picture.centre if normalize == "symmetric" else None,
        bare=among > 0
        or (options.title == "none" and (view == "pca" or (view != "matrix" and len(picture.tiles) == 1))),
        among=among,
        most_pixels=most_pixels if options.scale is None else math.inf,
    )
