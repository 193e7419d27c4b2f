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
from convscope.render.lines import draw_lines
from convscope.render.matrix import draw_matrix
from convscope.render.options import Plan, RenderOptions, plan
from convscope.render.overlay import draw_overlay
from convscope.render.sheet import (
    LABEL,
    MAX_MEGAPIXELS,
    SMALL,
    Sheet,
    check_size,
    encode,
    join,
    line_height,
    text_width,
)
from convscope.render.stopping import go_on
from convscope.render.tiles import Arrays, Drawn, draw_tiles

__all__ = ["MOST_STACKED", "RenderOptions", "render", "stack"]

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
    return _finish([picture], [_draw(picture, arrays, upload, options, FITTING)], 0)


def stack(
    pictures: Sequence[Picture],
    arrays: Arrays,
    uploads: Callable[[int], Upload | None],
    options: RenderOptions,
) -> bytes:
    """Several pictures under each other as one PNG, the first 16 where there are more, which the page then says.

    Args:
        uploads: gives the image with that number (`Picture.image`); asked for overlays only.

    Raises:
        ProblemError: as `render`.
    """
    shown = pictures[:MOST_STACKED]
    drawn: list[Drawn] = []
    for share in _SHARES if options.scale is None else (1.0,):
        most = FITTING if share == 1.0 else FITTING * share / len(shown)
        try:
            drawn = _draw_all(shown, arrays, uploads, options, most)
            break
        except ProblemError as problem:
            if problem.name != "too-expensive" or share == _SHARES[-1] or options.scale is not None:
                raise
    return _finish(shown, drawn, len(pictures) - len(shown))


def _draw_all(
    pictures: Sequence[Picture],
    arrays: Arrays,
    uploads: Callable[[int], Upload | None],
    options: RenderOptions,
    most: float,
) -> list[Drawn]:
    """Every picture with as many pixels as it may have.

    Raises:
        ProblemError: `too-expensive`: together they are too large.
    """
    drawn: list[Drawn] = []
    for picture in pictures:
        overlaid = plan(picture, options).view == "overlay" and picture.image is not None
        upload = uploads(picture.image) if overlaid and picture.image is not None else None
        drawn.append(_draw(picture, arrays, upload, options, most))
        # Checked as the page grows, so that no more than twice the limit is ever held.
        sheets = [each.sheet for each in drawn]
        check_size(sum(sheet.height for sheet in sheets), max(sheet.width for sheet in sheets), "The pictures together")
    return drawn


def _draw(picture: Picture, arrays: Arrays, upload: Upload | None, options: RenderOptions, most: float) -> Drawn:
    go_on()
    settled = plan(picture, options, most)
    if settled.view == "overlay":
        drawn = draw_overlay(picture, arrays, upload, settled)
    else:
        drawn = _VIEWS[settled.view](picture, arrays, settled)
    nan = "#{:02x}{:02x}{:02x}".format(*nan_colour(settled.colormap)[1])
    drawn.facts.setdefault("nan", "hatched" if settled.view == "matrix" else nan)
    return drawn


def _finish(pictures: Sequence[Picture], drawn: Sequence[Drawn], left_out: int) -> bytes:
    sheets = [each.sheet for each in drawn]
    if left_out:
        sheets.append(_remark(f"{left_out} more pictures; choose one of them with pick"))
    facts: list[dict[str, Any]] = [each.facts for each in drawn]
    texts = [
        ("Title", " | ".join(picture.heading or picture.name for picture in pictures)),
        ("Software", f"Convscope {__version__}"),
        ("convscope:scale", json.dumps(facts, allow_nan=False)),
    ]
    go_on()
    return encode(join(sheets), texts, repeated=any(each.repeated for each in drawn))


def _remark(text: str) -> Sheet:
    """A line of text as a page of its own."""
    sheet = Sheet(line_height(LABEL) + 12, text_width(text, SMALL) + 24, None)
    sheet.text(0, 12, text, SMALL)
    return sheet
