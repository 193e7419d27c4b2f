"""Pictures of a result as their operation declares them: which part of which array, how titled, how scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OUTLIERS = 0.005
"""Share of the values of a projection or an attribution that are drawn as the ends of its scale: the largest are five
and fifteen times the 99.5th percentile, and would leave the rest of the picture blank."""


View = Literal["tiles", "picture", "overlay", "matrix", "pca", "lines"]


Blend = Literal["mix", "brightest"]


Normalize = Literal["map", "layer", "standard", "symmetric"]


Title = Literal["none", "index", "mean", "max", "loss", "loss_last"]


@dataclass(frozen=True)
class ArrayInfo:
    """Shape and dtype (NumPy's name) of a named result array."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Slice:
    """A part of a named array: `array[index]`, a map (H×W), a signed or uint8 picture (3×H×W or H×W×3), or a matrix."""

    array: str
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tile:
    """One tile of a picture.

    `titles` holds a text for each title a caller may ask for (`index`, `mean`, `max`, `loss`, `loss_last`); `caption`
    lines always stand under the tile. `parts` are drawn side by side (a patch beside its projection). `group` is
    shared by tiles that `normalize=layer` scales together. `whole`, where there is any, stands in the view `picture` in
    place of `parts`. A `dead` map is nothing but rounding: on a scale of its own it is drawn at the bottom.
    """

    parts: tuple[Slice, ...]
    titles: Mapping[str, str] = field(default_factory=dict)
    caption: tuple[str, ...] = ()
    group: str = ""
    whole: tuple[Slice, ...] = ()
    dead: bool = False

    def shown(self, view: View) -> tuple[Slice, ...]:
        """What of the tile stands in a view."""
        return self.whole if view == "picture" and self.whole else self.parts


@dataclass(frozen=True)
class Cell:
    """A picture's place among the others of its result: the headers of its row and its column.

    `heading` stands above all of them; `caption` under the picture.
    """

    row: str
    column: str
    heading: str
    caption: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a diagram: the mean over the rows of an array, and between which values half of its rows lie.

    Attributes:
        label: its name in the legend.
        rows: N×K, a row an image.
        places: K places along the horizontal axis, ascending.
        dashed: for what others are compared with.
        figure: what the legend says of it: its `area` under the mean, or the `mean` of that.
    """

    label: str
    rows: Slice
    places: tuple[float, ...]
    dashed: bool = False
    figure: Literal["area", "mean"] = "mean"


@dataclass(frozen=True)
class Picture:
    """One picture of a result, declared by its operation and drawn when somebody reads it.

    Args:
        name: what `pick` chooses.
        also: further names of it, which `pick` and `columns` know too.
        heading: one line above the picture (network, layer, …).
        views: the views that make sense, the default first.
        tiles: for `tiles`, `picture` and `overlay`; overlays are drawn on upload number `image`.
        matrix: for `matrix`, with a label for each row and column.
        lines: for `lines`; `value_name` then says what the horizontal axis counts.
        normalize, colormap, title, columns: defaults, each overridable in the query.
        signed: arrays are signed about zero.
        image: which of the request's images the picture is about.
        transform: facts of `workers.contract.Transform` for overlays: where the network's input lies in the upload.
        crop: the same of the whole input, where the maps of `transform` do not reach its edges; a line marks it.
        value_name: what the colour bar measures.
        outliers: with `symmetric`, and on scales that begin at zero, which share of a group's values other than zero
            may lie beyond the ends of its scale: a gradient has a few values so large that against them all others
            would be grey.
        image_id: of an uploaded-like image that the picture equals, if it does.
        magnitude: views of one map for all colours (`picture`, `overlay`) show the largest magnitude over the colours,
            on a scale from zero; asked for `symmetric`, their signed sum.
        whole_colours: the view `picture` keeps red, green and blue, where it else makes one map of them.
        categories: for arrays whose numbers are names (class indices): each number's name. Such maps are drawn with a
            colour for each number that occurs and a legend, and never interpolated.
        centre, centre_name: the value that `symmetric` is about where that is not zero, and what it is; the colour bar
            marks it.
        cell: where the picture stands when all of a result are drawn together; without it they stand in reading order.
    """

    name: str
    heading: str
    views: tuple[View, ...]
    tiles: tuple[Tile, ...] = ()
    matrix: Slice | None = None
    lines: tuple[Line, ...] = ()
    row_labels: tuple[str, ...] = ()
    column_labels: tuple[str, ...] = ()
    normalize: Normalize = "map"
    colormap: str = "viridis"
    title: Title = "index"
    columns: int | None = None
    signed: bool = False
    image: int | None = None
    transform: Mapping[str, Any] | None = None
    crop: Mapping[str, Any] | None = None
    value_name: str = ""
    value_range: tuple[float, float] | None = None
    outliers: float = 0.0
    image_id: str | None = None
    also: tuple[str, ...] = ()
    magnitude: bool = False
    whole_colours: bool = False
    categories: Mapping[int, str] | None = None
    centre: float | None = None
    centre_name: str = ""
    cell: Cell | None = None
