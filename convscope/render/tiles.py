"""The views `tiles` and `picture`: a grid of maps, colour arrays and photographs, each with its title and captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.protocol.pictures import Picture, Slice
from convscope.render.categories import colour_maps
from convscope.render.colors import FRAME, SOFT_INK, Palette, fit_palette, nan_colour
from convscope.render.grid import Grid, lay_grid
from convscope.render.options import Plan
from convscope.render.page import Bar, Page, centred_bar, clean, colour_bar, notes_on_scale, number
from convscope.render.scaling import Scale, Scaled
from convscope.render.sheet import LABEL, SMALL, Sheet, check_size, elide, line_height, text_width
from convscope.render.stopping import go_on

Arrays = Callable[[str], NDArray[Any]]
Bytes = NDArray[np.uint8]

PART_GAP = 2


@dataclass(frozen=True)
class Drawn:
    """A finished page and what its text chunk says about it."""

    sheet: Sheet
    facts: dict[str, Any]
    repeated: bool


@dataclass(frozen=True)
class Part:
    """One array of a tile: a photograph (uint8, H×W×3) or numbers (a map H×W or a colour array 3×H×W)."""

    tile: int
    array: NDArray[Any]
    photograph: bool
    flattened: bool = False
    planes: int = 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in cells."""
        height, width = self.array.shape[:2] if self.photograph else self.array.shape[-2:]
        return int(height), int(width)


def read_part(tile: int, source: Slice, arrays: Arrays, signed: bool, flatten: bool) -> Part:
    """One slice as something to draw.

    A vector becomes one row and a number one cell. With `flatten`, for the views of one map each, a colour array
    becomes a map: the sum over its channels where it is signed, the largest magnitude else.

    Raises:
        ValueError: an array that is none of the kinds a Slice may name.
    """
    array = np.asarray(arrays(source.array)[source.index])
    if array.size == 0:
        array = np.full((1, 1), np.nan, np.float32)
    if array.ndim < 2:
        array = array.reshape(1, -1)
    if array.ndim == 4 and array.shape[2:] == (1, 1):  # kernels of one pixel
        array = array[:, :, 0, 0]
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.dtype == np.uint8:
        photograph = array if array.shape[2] == 3 else array.transpose(1, 2, 0)
        if photograph.shape[2] == 3:
            return Part(tile, photograph, True)
    if (
        array.ndim == 3 and array.shape[0] != 3 and array.shape[2] == 3 and not signed
    ):  # what is signed has planes first
        array = array.transpose(2, 0, 1)
    if array.ndim == 3 and array.dtype != np.uint8:
        if flatten or array.shape[0] != 3:  # other planes than three have no colours of their own
            wide = array.astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                array = wide.sum(0) if signed else np.abs(wide).max(0)
            return Part(tile, array, False, flattened=True, planes=len(wide))
        return Part(tile, array, False)
    if array.ndim == 2:
        return Part(tile, array, False)
    raise ValueError(f"{source.array}{list(source.index)} has shape {array.shape}; it is neither a map nor a picture")


def read_parts(picture: Picture, arrays: Arrays, plan: Plan, flatten: bool) -> list[Part]:
    """Every part of every tile that the plan's view shows; each named array is asked for once."""
    loaded: dict[str, NDArray[Any]] = {}

    def load(name: str) -> NDArray[Any]:
        if name not in loaded:
            loaded[name] = arrays(name)
        return loaded[name]

    parts = [
        read_part(index, source, load, plan.signed, flatten)
        for index, tile in enumerate(picture.tiles)
        for source in tile.shown(plan.view)
    ]
    if plan.magnitude:
        parts = [replace(part, array=np.abs(part.array)) if part.array.ndim == 2 else part for part in parts]
    return parts


def shared_scale(scaled: Scaled, plan: Plan) -> Scale | None:
    """The one scale that all maps were drawn by, if there is one."""
    scales = scaled.scales
    if scales and (plan.normalize == "standard" or all(scale == scales[0] for scale in scales)):
        return scales[0]
    return None


def bar_of(picture: Picture, plan: Plan, scale: Scale, maps: int) -> Bar:
    """The colour bar of a scale that so many maps share."""
    if scale.centre is not None:
        return centred_bar(scale, picture.value_name, picture.centre_name)
    return colour_bar(scale, plan.normalize, picture.value_name, maps > 1)


def scale_facts(picture: Picture, plan: Plan, scaled: Scaled, groups: int) -> dict[str, Any]:
    """What the text chunk says of a picture: one vmin and vmax where a scale is shared, else a list for the maps."""
    scales = scaled.scales
    one = shared_scale(scaled, plan) if plan.normalize != "standard" else (scales[0] if len(scales) == 1 else None)

    def values(name: str) -> float | list[float | None] | None:
        numbers = [getattr(scale, name) for scale in ([one] if one else scales)]
        known = [float(value) if value is not None and math.isfinite(value) else None for value in numbers]
        return known[0] if one else known

    facts: dict[str, Any] = {
        "picture": picture.name,
        "view": plan.view,
        "normalize": plan.normalize,
        "colormap": plan.colormap,
        "vmin": values("vmin"),
        "vmax": values("vmax"),
        "value": picture.value_name,
        "clipped": any(scale.clipped for scale in scales),
    }
    if plan.centre is not None:
        facts["centre"] = plan.centre
    if plan.normalize == "standard":
        facts |= {"mean": values("mean"), "std": values("std")}
    if groups > 1:
        facts["groups"] = groups
    return facts


def common_notes(picture: Picture, plan: Plan, parts: Sequence[Part], scaled: Scaled) -> list[str]:
    """The notes under the heading: how colours were made, and which colour is NaN."""
    numbers = [part for part in parts if not part.photograph]
    if not parts:
        return ["nothing to draw"]
    if not numbers:
        return []
    if picture.categories is not None:
        return ["a colour for each class, most frequent first below"]
    groups = len({picture.tiles[part.tile].group for part in numbers})
    notes = notes_on_scale(plan.normalize, len(numbers), groups, plan.outliers, plan.value_range)
    if plan.centre is not None:
        notes = [f"about the value of the {picture.centre_name}"]
    if any(part.flattened for part in numbers):
        what = "colour" if all(part.planes == 3 for part in numbers) else "planes"
        notes.insert(0, f"sum over {what}" if plan.signed else f"largest magnitude over {what}")
    if any(part.array.ndim == 3 for part in numbers):
        one = shared_scale(scaled, plan)
        said = plan.normalize == "standard" or (plan.normalize == "layer" and plan.value_range is not None)
        ends = f" {number(one.vmin)} to {number(one.vmax)}" if one is not None and not said else ""
        grey = ", zero is grey" if plan.normalize == "symmetric" else ""
        notes.append(f"red, green and blue jointly{ends}{grey}")
    if any(mask is not None for mask in scaled.nan):
        notes.append(f"{nan_colour(plan.colormap)[0]}: not a number")
    return notes


def _target(count: int, view: str) -> int:
    """About how many pixels a tile's longer side should have, by how many there are."""
    if view in ("picture", "pca"):
        return 512 if count == 1 else 320
    return next((side for most, side in ((1, 448), (4, 256), (12, 176), (36, 128)) if count <= most), 104)


def _fitting_factors(
    parts: Sequence[Part], plan: Plan, titles: Sequence[str], captions: Sequence[Sequence[str]]
) -> tuple[list[int], bool]:
    """Whole pixels for each cell of each part, and whether they are fewer than a small page would have had.

    A page of more pixels than the plan allows is shrunk a step at a time, to one pixel for each cell at the least.
    """
    count = len(titles)
    factors = [pixels_per_cell(part.size, plan, count) for part in parts]
    shrunk = False
    while max(factors, default=1) > 1:
        grid = lay_grid(titles, captions, _tile_sizes(parts, factors, count), plan.columns)
        if grid.width * grid.height <= plan.most_pixels:
            break
        # A page's side goes with a cell's, but for its texts: so much at once, and again until it fits.
        share = min(0.9, math.sqrt(plan.most_pixels / (grid.width * grid.height)))
        factors = [max(1, int(factor * share)) for factor in factors]
        shrunk = True
    return factors, shrunk


def pixels_per_cell(size: tuple[int, int], plan: Plan, count: int) -> int:
    """Whole pixels for each cell of a map; never less than one, so that no cell is lost."""
    if plan.scale is not None:
        return int(plan.scale)
    target = _target(plan.among, "tiles") if plan.among else _target(count, plan.view)
    return max(1, round(target / max(size)))


def tile_texts(picture: Picture, plan: Plan) -> tuple[list[str], list[list[str]]]:
    """The title and the caption lines of every tile."""
    titles = ["" if plan.title == "none" else clean(tile.titles.get(plan.title, "")) for tile in picture.tiles]
    return titles, [[clean(line) for line in tile.caption] for tile in picture.tiles]


def write_texts(sheet: Sheet, page: Page, grid: Grid, titles: Sequence[str], captions: Sequence[Sequence[str]]) -> None:
    """Titles and captions, each cut to its column."""
    for tile, (title, lines) in enumerate(zip(titles, captions, strict=True)):
        go_on()
        top, left = grid.corner(tile)
        top, left = top + page.top, left + page.left
        sheet.text(top, left, elide(title, LABEL, grid.cell_width), LABEL)
        top += grid.title_height + grid.tile_height + 2
        for line in lines:
            sheet.text(top, left, elide(line, SMALL, grid.cell_width), SMALL, ink=SOFT_INK)
            top += line_height(SMALL)


def draw_dead_at_bottom(picture: Picture, plan: Plan, numbers: Sequence[Part], scaled: Scaled) -> None:
    """Maps that are nothing but rounding, and have a scale of their own, have its bottom everywhere."""
    if plan.normalize not in ("map", "standard"):
        return
    for place, part in enumerate(numbers):
        if picture.tiles[part.tile].dead:
            scaled.levels[place] = np.zeros_like(scaled.levels[place])


def palette_of(colours: Bytes, nan: tuple[int, int, int], scaled: Scaled) -> Palette:
    """A palette for maps drawn with these colours of levels."""
    used = np.zeros(256, bool)
    for levels in scaled.levels:
        used[levels] = True
        if used.all():
            break
    missing = any(mask is not None for mask in scaled.nan)
    return fit_palette(colours, nan if missing else None, used)


def _block(part: Part, levels: Bytes | None, missing: Any, palette: Palette | None, colours: Bytes, nan: Any) -> Bytes:
    """A part's pixels, one for each cell, as the page holds them."""
    if levels is None:
        return part.array
    if part.array.ndim == 3:
        block: Bytes = levels.transpose(1, 2, 0).copy()
        if missing is not None:
            block[missing.any(0)] = nan
        return block
    block = palette.levels[levels] if palette is not None else colours[levels]
    if missing is not None:
        block[missing] = palette.nan if palette is not None else nan
    return block


def draw_tiles(picture: Picture, arrays: Arrays, plan: Plan) -> Drawn:
    """The views `tiles` and `picture`.

    Raises:
        ProblemError: `too-expensive`.
    """
    flatten = plan.view == "picture" and not picture.whole_colours
    parts = read_parts(picture, arrays, plan, flatten)
    numbers = [part for part in parts if not part.photograph]
    groups = [picture.tiles[part.tile].group for part in numbers]
    count = len(picture.tiles)
    titles, captions = tile_texts(picture, plan)
    factors, shrunk = _fitting_factors(parts, plan, titles, captions)
    sizes = _tile_sizes(parts, factors, count)
    grid = lay_grid(titles, captions, sizes, plan.columns)
    check_size(grid.height, grid.width, picture.name)

    arrays_of = [part.array for part in numbers]
    colouring = colour_maps(picture, plan, arrays_of, groups)
    scaled, colours, nan = colouring.scaled, colouring.colours, colouring.nan
    draw_dead_at_bottom(picture, plan, numbers, scaled)
    if plan.bare:
        titles, captions = [""] * count, [[] for _ in range(count)]
        grid = lay_grid(titles, captions, sizes, plan.columns)
    if not plan.bare and (ranges := _own_ranges(parts, scaled, sizes)) and not any(captions):
        captions = ranges
        grid = lay_grid(titles, captions, sizes, plan.columns)
        check_size(grid.height, grid.width, picture.name)
    indexed = all(part.array.ndim == 2 and not part.photograph for part in parts)
    palette = palette_of(colours, nan, scaled) if indexed else None
    notes = common_notes(picture, plan, parts, scaled)
    if shrunk:
        notes.append(f"{max(factors)} px for each cell, so that the page fits")
    one = shared_scale(scaled, plan) if any(part.array.ndim == 2 for part in numbers) else None
    bar = bar_of(picture, plan, one, len(numbers)) if one else None
    page = Page(grid.height, grid.width, picture.heading, notes, bar, colouring.legend, bare=plan.bare)
    sheet = page.draw(palette, colours, picture.name)

    corners = [grid.corner(tile) for tile in range(count)]
    lefts = [left + page.left for _, left in corners]
    number_of_part = iter(range(len(numbers)))
    for part, factor in zip(parts, factors, strict=True):
        go_on()
        index = None if part.photograph else next(number_of_part)
        levels, missing = (None, None) if index is None else (scaled.levels[index], scaled.nan[index])
        block = _block(part, levels, missing, palette, colours, nan)
        height, width = part.size[0] * factor, part.size[1] * factor
        top = corners[part.tile][0] + page.top + grid.title_height
        left = lefts[part.tile]
        sheet.put(top, left, block if factor == 1 else block.repeat(factor, 0).repeat(factor, 1))
        if min(height, width) >= 3 and not plan.bare:
            sheet.frame(top, left, height, width, FRAME)
        lefts[part.tile] += width + PART_GAP
    write_texts(sheet, page, grid, titles, captions)
    facts = scale_facts(picture, plan, scaled, len(set(groups))) | colouring.facts()
    if shrunk:
        facts["fitted_scale"] = max(factors)
    return Drawn(sheet, facts, repeated=max(factors, default=1) > 1)


def _own_ranges(parts: Sequence[Part], scaled: Scaled, sizes: Sequence[tuple[int, int]]) -> list[list[str]]:
    """The ends of each tile's scale, where every tile is one map with a scale of its own and is as wide as they are."""
    scales = scaled.scales
    alone = len(parts) == len(scales) == len(sizes) and all(part.array.ndim == 2 for part in parts)
    if not alone or len(scales) < 2 or all(scale == scales[0] for scale in scales):
        return []
    for digits in (3, 2):
        texts = [f"{number(scale.vmin, digits)} to {number(scale.vmax, digits)}" for scale in scales]
        if all(text_width(text, SMALL) <= width for text, (_, width) in zip(texts, sizes, strict=True)):
            return [[text] for text in texts]
    return []


def _tile_sizes(parts: Sequence[Part], factors: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Height and width of each tile, pixels: its parts side by side."""
    heights, widths = [1] * count, [-PART_GAP] * count
    for part, factor in zip(parts, factors, strict=True):
        heights[part.tile] = max(heights[part.tile], part.size[0] * factor)
        widths[part.tile] += part.size[1] * factor + PART_GAP
    return [(height, max(width, 1)) for height, width in zip(heights, widths, strict=True)]
