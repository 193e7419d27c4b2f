"""The view `overlay`: maps laid over the upload, only where the network saw it, which a line marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convscope.protocol.pictures import Blend, Picture
from convscope.protocol.problems import ProblemError
from convscope.render.categories import colour_maps
from convscope.render.grid import lay_grid
from convscope.render.options import Plan
from convscope.render.page import Page, number, own_range_bar
from convscope.render.scaling import MIDDLE, Scale
from convscope.render.sheet import check_size
from convscope.render.stopping import go_on
from convscope.render.tiles import (
    PART_GAP,
    Arrays,
    Drawn,
    bar_of,
    common_notes,
    draw_dead_at_bottom,
    read_parts,
    scale_facts,
    shared_scale,
    tile_texts,
    write_texts,
)

Bytes = NDArray[np.uint8]

_LINE, _EDGE = (255, 255, 255), (30, 30, 30)
"""Of what marks the part of the upload that the network saw: a white line with a dark one on either side."""


def default_factor(height: int, width: int, count: int) -> float:
    """Pixels for each pixel of the upload: shrunk to a size that fits a page, enlarged by whole numbers."""
    target = next((side for most, side in ((1, 768), (4, 448), (12, 320), (36, 224)) if count <= most), 160)
    longest = max(height, width)
    return target / longest if longest > target else float(target // longest)


def _resized(upload: Bytes, height: int, width: int) -> Bytes:
    if upload.shape[:2] == (height, width):
        return upload
    enlarged = height > upload.shape[0]
    image = Image.fromarray(np.ascontiguousarray(upload))
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    return np.asarray(image.resize((width, height), method))


def seen_axis(
    pixels: int, upload_size: int, input_size: float, scale: float, offset: float, cells: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which pixels of one axis of the drawing the network saw, and where on the map each lies.

    Args:
        pixels: of the drawing, which shows `upload_size` pixels of the upload.
        input_size, scale, offset: input pixel p lies at p·scale + offset of the upload; `input_size` of them.
        cells: of the map, which covers the input from edge to edge.

    Returns:
        A mask, and positions counted in cells, 0 at the centre of the first.
    """
    centres = (np.arange(pixels) + 0.5) * (upload_size / pixels)
    at_input = (centres - offset) / scale
    seen = (at_input >= 0) & (at_input < input_size)
    places = np.clip(at_input * (cells / input_size) - 0.5, 0, cells - 1)
    return seen, places


def interpolate(values: NDArray[Any], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear values of a finite map (h×w) at every pair of positions within it."""
    dense = values.astype(np.float64)
    top, left = rows.astype(int), columns.astype(int)
    bottom, right = np.minimum(top + 1, values.shape[0] - 1), np.minimum(left + 1, values.shape[1] - 1)
    down, across = (rows - top)[:, None], (columns - left)[None]
    # Along the columns of the small map first, so that the large product is made once.
    lines = dense[:, left] * (1 - across) + dense[:, right] * across
    result: NDArray[np.float64] = lines[top] * (1 - down) + lines[bottom] * down
    return result


def _transform(picture: Picture, upload: Bytes) -> Mapping[str, Any]:
    """The picture's transform; without one the input is the whole upload."""
    height, width = upload.shape[:2]
    whole = {"upload_size": [height, width], "input_size": [height, width], "scale": [1.0, 1.0], "offset": [0.0, 0.0]}
    return picture.transform or whole


@dataclass(frozen=True)
class _Layer:
    """What is laid over the photograph: levels of a map with its colours, or pixels of another photograph."""

    cells: Bytes
    missing: NDArray[np.bool_] | None
    colours: Bytes | None
    nan: tuple[int, int, int]
    signed: bool
    nearest: bool
    """Each place has the colour of the cell it lies in; between two names there is no third."""
    magnitude: bool = False

    def at(
        self, rows: NDArray[np.float64], columns: NDArray[np.float64], alpha: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | float]:
        """Colours at every pair of positions, and their opacity.

        On a scale about zero, and of magnitudes, the opacity is 1 − (1 − alpha)^(3·magnitude): zero leaves the
        photograph as it is, which a map's pale middle or dark end would only bleach or darken; what is strong covers.
        """
        nearest = np.ix_(np.rint(rows).astype(int), np.rint(columns).astype(int))
        if self.colours is None:
            return np.asarray(self.cells[nearest], np.float32), alpha
        if self.nearest:
            levels = self.cells[nearest]
        else:
            levels = np.floor(interpolate(self.cells, rows, columns) + 0.5).astype(np.uint8)
        above = np.asarray(self.colours[levels], np.float32)
        if self.missing is not None:
            above[self.missing[nearest]] = self.nan
        if not (self.signed or self.magnitude):
            return above, alpha
        zero = 0 if self.magnitude else MIDDLE
        magnitude = np.abs(levels.astype(np.float32) - zero) / (255 - zero)
        opacity = 1 - (1 - alpha) ** (3 * magnitude)
        if self.missing is not None:
            opacity[self.missing[nearest]] = alpha
        return above, np.asarray(opacity, np.float32)[..., None]


def lay_over(
    photograph: Bytes,
    layer: _Layer,
    transform: Mapping[str, Any],
    alpha: float,
    blend: Blend = "mix",
    crop: Mapping[str, Any] | None = None,
) -> Bytes:
    """One map over the photograph, coloured where the map lies, with a line around what the network saw of it.

    `brightest`: what was mixed is divided by its largest value, which becomes white, as pytorch-grad-cam's
    `show_cam_on_image` does.
    """
    axes = [_along(axis, photograph, transform, layer.cells.shape[axis]) for axis in (0, 1)]
    seen, places = [mask for mask, _ in axes], [at[mask] for mask, at in axes]
    result: Bytes = photograph.copy()
    if seen[0].any() and seen[1].any():
        window = np.ix_(*seen)
        below = photograph[window].astype(np.float32)
        above, opacity = layer.at(places[0], places[1], alpha)
        mixed = below + opacity * (above - below)
        if blend == "brightest":
            mixed *= 255 / max(float(mixed.max()), 1e-6)
        result[window] = np.rint(mixed).astype(np.uint8)
    whole = seen if crop is None else [_along(axis, photograph, crop, 1)[0] for axis in (0, 1)]
    if whole[0].any() and whole[1].any():
        _mark(result, whole)
    return result


def _along(
    axis: int, photograph: Bytes, transform: Mapping[str, Any], cells: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """`seen_axis` of a drawing of the whole upload."""
    upload, size, scale, offset = (transform[name][axis] for name in ("upload_size", "input_size", "scale", "offset"))
    return seen_axis(photograph.shape[axis], upload, size, scale, offset, cells)


def _mark(photograph: Bytes, seen: Sequence[NDArray[np.bool_]]) -> None:
    """Draw a line around what the network saw, outside of it; an edge at the photograph's own has none."""
    (top, bottom), (left, right) = ((int(mask.argmax()), len(mask) - int(mask[::-1].argmax())) for mask in seen)
    height, width = photograph.shape[:2]
    for away, colour in ((0, _EDGE), (1, _LINE), (2, _EDGE)):
        rows = slice(max(top - away - 1, 0), min(bottom + away + 1, height))
        columns = slice(max(left - away - 1, 0), min(right + away + 1, width))
        for row, there in ((top - away - 1, top > away), (bottom + away, bottom + away < height)):
            if there:
                photograph[row, columns] = colour
        for column, there in ((left - away - 1, left > away), (right + away, right + away < width)):
            if there:
                photograph[rows, column] = colour


def _with_ranges(titles: Sequence[str], tiles: Sequence[int], scales: Sequence[Scale]) -> list[str]:
    """Titles with the range of each tile's first map, where the maps have each their own."""
    ranges: dict[int, str] = {}
    for tile, scale in zip(tiles, scales, strict=True):
        ranges.setdefault(tile, f"{number(scale.vmin)} to {number(scale.vmax)}")
    return ["  ".join(filter(None, (title, ranges.get(tile, "")))) for tile, title in enumerate(titles)]


def _drawn_size(upload: Bytes, plan: Plan, parts: int) -> tuple[int, int]:
    """Height and width of each of so many drawings of the upload, pixels."""
    height, width = upload.shape[:2]
    factor = plan.scale or default_factor(height, width, max(parts, plan.among))
    if (pixels := height * width * factor**2 * parts) > plan.most_pixels:
        factor *= math.sqrt(plan.most_pixels / pixels)
    return max(1, round(height * factor)), max(1, round(width * factor))


def draw_overlay(picture: Picture, arrays: Arrays, upload: Bytes | None, plan: Plan) -> Drawn:
    """Each tile's first part over the upload; further parts beside it likewise.

    Raises:
        ProblemError: `gone`: the upload is no longer there; `too-expensive`.
    """
    if upload is None:
        other = [view for view in picture.views if view != "overlay"]
        advice = f"; view={other[0]} needs none" if other else ""
        raise ProblemError("gone", f"The image that {picture.name} is drawn on is no longer kept{advice}.")
    parts = read_parts(picture, arrays, plan, flatten=True)
    per_tile = [sum(part.tile == tile for part in parts) for tile in range(len(picture.tiles))]
    height, width = _drawn_size(upload, plan, len(parts))
    sizes = [(height, max(1, n * (width + PART_GAP) - PART_GAP)) for n in per_tile]
    titles, captions = tile_texts(picture, plan)
    check_size(height, width, picture.name)

    numbers = [part for part in parts if not part.photograph]
    groups = [picture.tiles[part.tile].group for part in numbers]
    arrays_of = [part.array for part in numbers]
    colouring = colour_maps(picture, plan, arrays_of, groups)
    scaled, colours, nan = colouring.scaled, colouring.colours, colouring.nan
    draw_dead_at_bottom(picture, plan, numbers, scaled)
    one = shared_scale(scaled, plan)
    bar = bar_of(picture, plan, one, len(numbers)) if one else None
    if one is None and plan.normalize == "map" and scaled.scales:
        bar = own_range_bar(picture.value_name)
        titles = _with_ranges(titles, [part.tile for part in numbers], scaled.scales)
    if plan.bare:
        titles, captions = [""] * len(titles), [[] for _ in captions]
    grid = lay_grid(titles, captions, sizes, plan.columns)
    check_size(grid.height, grid.width, picture.name)
    notes = common_notes(picture, plan, parts, scaled)
    signed = plan.normalize == "symmetric"
    if (signed or plan.magnitude) and numbers:
        notes.append("zero is transparent" if plan.centre is None else "where equal, transparent")
    page = Page(grid.height, grid.width, picture.heading, notes, bar, colouring.legend, bare=plan.bare)
    sheet = page.draw(None, colours, picture.name)

    photograph = _resized(upload, height, width)
    transform = _transform(picture, upload)
    drawn_in_tile = [0] * len(picture.tiles)
    number_of_part = iter(range(len(numbers)))
    for part in parts:
        go_on()
        if part.photograph:
            layer = _Layer(part.array, None, None, nan, False, nearest=True)
        else:
            index = next(number_of_part)
            layer = _Layer(
                scaled.levels[index],
                scaled.nan[index],
                colours,
                nan,
                signed,
                nearest=picture.categories is not None,
                magnitude=plan.magnitude,
            )
        top, left = grid.corner(part.tile)
        top += page.top + grid.title_height
        left += page.left + drawn_in_tile[part.tile] * (width + PART_GAP)
        drawn_in_tile[part.tile] += 1
        sheet.put(top, left, lay_over(photograph, layer, transform, plan.alpha, plan.blend, picture.crop))
    write_texts(sheet, page, grid, titles, captions)
    facts = scale_facts(picture, plan, scaled, len(set(groups))) | colouring.facts()
    return Drawn(sheet, facts | {"alpha": plan.alpha, "blend": plan.blend}, repeated=False)
