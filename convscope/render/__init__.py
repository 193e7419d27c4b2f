"""Arrays → pictures, when somebody reads them.

May import convscope.protocol, NumPy, Pillow and cmap; no queue, no store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope import __version__
from convscope.protocol.pictures import Picture, View
from convscope.protocol.problems import ProblemError
from convscope.render.colors import nan_colour
from convscope.render.components import draw_components
from convscope.render.lines import draw_lines
from convscope.render.matrix import draw_matrix
from convscope.render.options import Plan, RenderOptions, plan
from convscope.render.overlay import draw_overlay
from convscope.render.panels import MOST_PANELS, draw_panels, in_panels
from convscope.render.sheet import (
    LABEL,
    MAX_MEGAPIXELS,
    SMALL,
    Format,
    Sheet,
    check_size,
    encode,
    join,
    line_height,
    text_width,
)
from convscope.render.stopping import go_on
from convscope.render.tiles import Arrays, Drawn, draw_tiles
from convscope.render.vector import matrix_svg

__all__ = ["Arrays", "Format", "RenderOptions", "Upload", "on_one_page", "render", "stack", "vector"]

MOST_STACKED = 16
"""Pictures that are drawn under each other at once."""

FITTING = 0.9e6 * MAX_MEGAPIXELS
"""Pixels of the tiles of a page for which a scale is chosen; the rest is for margins and headings."""
_SHARES = (1.0, 0.99, 0.5, 0.2)
"""First each picture may have the whole page; where together they are too large, such shares of an equal part."""

Upload = NDArray[np.uint8]

_VIEWS: Mapping[View, Callable[[Picture, Arrays, Plan], Drawn]] = {
    "tiles": draw_tiles,
    "picture": draw_tiles,
    "matrix": draw_matrix,
    "pca": draw_components,
    "lines": draw_lines,
}
"""What draws each view; an overlay needs the upload as well."""


def render(picture: Picture, arrays: Arrays, upload: Upload | None, options: RenderOptions) -> bytes:
    """One picture as PNG.

    Args:
        picture: what the operation declares.
        arrays: gives a named result array.
        upload: the image an overlay is drawn on, uint8 H×W×3 RGB; None where there is none.
        options: what the caller chose.

    Returns:
        PNG bytes, equal for equal arguments. The text chunk `convscope:scale` is a JSON list with one object for each
        picture: picture, view, normalize, colormap, vmin, vmax (null where nothing was finite, lists where each map has
        its own), value, clipped, nan (the colour for it).

    Raises:
        ProblemError: `invalid-request`: not among the picture's views or titles; `too-expensive`: too many pixels;
            `gone`: an overlay without its upload.
    """
    return _finish([picture], [_draw(picture, arrays, upload, plan(picture, options, FITTING))], 0)


def stack(
    pictures: Sequence[Picture],
    arrays: Arrays,
    uploads: Callable[[int], Upload | None],
    options: RenderOptions,
    file_format: Format = "PNG",
) -> bytes:
    """Several pictures of a result as one file: those with a cell as a grid of panels, the others under each other.

    The first 128 panels, or 16 pictures, are drawn where there are more, which the page then says.

    Args:
        uploads: gives the image with that number (`Picture.image`); asked for overlays only.
        file_format: of the file; see `encode`.

    Raises:
        ProblemError: as `render`.
    """
    shown = on_one_page(pictures, options)
    left_out = len(pictures) - len(shown)

    def draw(picture: Picture, settled: Plan) -> Drawn:
        overlaid = settled.view == "overlay" and picture.image is not None
        upload = uploads(picture.image) if overlaid and picture.image is not None else None
        return _draw(picture, arrays, upload, settled)

    grid, below = _parted(shown)
    drawn: list[Drawn] = []
    if in_panels(grid, options):
        drawn = [draw_panels(grid, draw, options), *(draw(one, plan(one, options, FITTING)) for one in below)]
        return _finish(shown, drawn, left_out, file_format)
    for share in _SHARES if options.scale is None else (1.0,):
        most = FITTING if share == 1.0 else FITTING * share / len(shown)
        try:
            drawn = _draw_all([(picture, plan(picture, options, most)) for picture in shown], draw)
            break
        except ProblemError as problem:
            if problem.name != "too-expensive" or share == _SHARES[-1] or options.scale is not None:
                raise
    return _finish(shown, drawn, left_out, file_format)


def vector(pictures: Sequence[Picture], arrays: Arrays, options: RenderOptions) -> bytes:
    """The one picture as SVG.

    Raises:
        ProblemError: `not-acceptable`: several, or one that is no matrix.
    """
    if len(pictures) != 1 or plan(pictures[0], options).view != "matrix":
        raise ProblemError(
            "not-acceptable",
            "SVG can be made of one matrix; choose it with pick. Maps and photographs are pixels: ask for PNG.",
            possible=["image/png", "image/webp", "image/jpeg"],
        )
    return matrix_svg(pictures[0], arrays, plan(pictures[0], options))


def on_one_page(pictures: Sequence[Picture], options: RenderOptions) -> Sequence[Picture]:
    """As many of a result's pictures as are drawn together."""
    grid, below = _parted(pictures)
    first = grid[:MOST_PANELS]
    return [*first, *below[:MOST_STACKED]] if in_panels(first, options) else pictures[:MOST_STACKED]


def _parted(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Those with a place in a grid, and the others."""
    return [one for one in pictures if one.cell is not None], [one for one in pictures if one.cell is None]


def _draw_all(planned: Sequence[tuple[Picture, Plan]], draw: Callable[[Picture, Plan], Drawn]) -> list[Drawn]:
    """Every picture by its plan.

    Raises:
        ProblemError: `too-expensive`: together they are too large.
    """
    drawn: list[Drawn] = []
    for picture, settled in planned:
        drawn.append(draw(picture, settled))
        # Checked as the page grows, so that no more than twice the limit is ever held.
        sheets = [each.sheet for each in drawn]
        check_size(sum(sheet.height for sheet in sheets), max(sheet.width for sheet in sheets), "The pictures together")
    return drawn


def _draw(picture: Picture, arrays: Arrays, upload: Upload | None, settled: Plan) -> Drawn:
    go_on()
    if settled.view == "overlay":
        drawn = draw_overlay(picture, arrays, upload, settled)
    else:
        drawn = _VIEWS[settled.view](picture, arrays, settled)
    nan = "#{:02x}{:02x}{:02x}".format(*nan_colour(settled.colormap)[1])
    drawn.facts.setdefault("nan", "hatched" if settled.view == "matrix" else nan)
    return drawn


def _finish(pictures: Sequence[Picture], drawn: Sequence[Drawn], left_out: int, file_format: Format = "PNG") -> bytes:
    sheets = [each.sheet for each in drawn]
    if left_out:
        sheets.append(_remark(f"{left_out} more pictures; choose one of them with pick"))
    facts: list[dict[str, Any]] = [one for each in drawn for one in each.facts.get("pictures", [each.facts])]
    texts = [
        ("Title", " | ".join(picture.heading or picture.name for picture in pictures)),
        ("Software", f"Convscope {__version__}"),
        ("convscope:scale", json.dumps(facts, allow_nan=False)),
    ]
    go_on()
    return encode(join(sheets), texts, repeated=any(each.repeated for each in drawn), file_format=file_format)


def _remark(text: str) -> Sheet:
    """A line of text as a page of its own."""
    sheet = Sheet(line_height(LABEL) + 12, text_width(text, SMALL) + 24, None)
    sheet.text(0, 12, text, SMALL)
    return sheet
