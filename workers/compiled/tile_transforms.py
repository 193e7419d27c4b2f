"""The transforms of minimal filtering, compiled: pages of channels to tiles, products of tiles to pages.

By torch's operations they cost as much as the matrix products between them: a transform is a few additions a number,
and each operation of torch passes through memory. numba compiles them for the processor at hand, once a machine.

A tile's 36 numbers of 64 channels stay in the first-level cache, in float32; channels lie innermost and are what a
vector register holds. Where a ReLU and a 2×2 max-pooling follow, a tile's 4×4 outputs become four there, and the maps
between are never written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from workers.compiled.jit import compiled, inlined
from workers.compiled.windows import largest_of, place_of

OUTPUTS, SIDE, POOLED = 4, 6, 2
LANES = 64
"""Channels that are transformed at once."""

SHUT = 0
"""The place of a window's largest where its ReLU lets nothing through; the others are 1 to 4, row by row."""

_EIGHTH, _QUARTER, _HALF, _ONE_AND_HALF = np.float32(0.125), np.float32(0.25), np.float32(0.5), np.float32(1.5)
_DOUBLE, _TWO_AND_HALF, _FOUR, _EIGHT = np.float32(2), np.float32(2.5), np.float32(4), np.float32(8)


def _read(source: Any, buffer: Any, place: int) -> None:
    """Channels of one pixel into one place of the buffer."""
    raise TypeError("compiled code only")


def _read_open(source: Any, gate: Any, buffer: Any, place: int) -> None:
    """As `_read`, zeros where the gate is not above zero."""
    raise TypeError("compiled code only")


def _write(buffer: Any, place: int, target: Any) -> None:
    """One place of the buffer into the channels of one pixel."""
    raise TypeError("compiled code only")


def _read_place(slopes: Any, places: Any, which: int, buffer: Any, place: int) -> None:
    """Channels of one pooled pixel, zeros where its largest was not in that place of the window."""
    raise TypeError("compiled code only")


def _round(buffer: Any, place: int, like: Any) -> None:
    """One place of the buffer as it reads once it was written as `like`."""
    raise TypeError("compiled code only")


@inlined
def _add(bias: Any, floor: Any, buffer: Any, place: int) -> None:
    for lane in range(LANES):
        output = buffer[place, lane] + bias[lane]
        buffer[place, lane] = floor if output < floor else output  # what is no number stays none


@overload(_read, inline="always")
def _read_of(source: Any, buffer: Any, place: Any) -> Callable[..., None]:
    def widened(source: Any, buffer: Any, place: Any) -> None:
        bits = buffer[place].view(np.uint32)
        for lane in range(LANES):
            bits[lane] = np.uint32(source[lane]) << 16

    def copied(source: Any, buffer: Any, place: Any) -> None:
        for lane in range(source.size):
            buffer[place, lane] = source[lane]

    return widened if source.dtype is types.uint16 else copied


@overload(_read_open, inline="always")
def _read_open_of(source: Any, gate: Any, buffer: Any, place: Any) -> Callable[..., None]:
    def widened(source: Any, gate: Any, buffer: Any, place: Any) -> None:
        bits = buffer[place].view(np.uint32)
        for lane in range(LANES):  # the sign is the highest bit
            bits[lane] = np.uint32(source[lane]) << 16 if 0 < gate[lane] < 0x8000 else np.uint32(0)

    def copied(source: Any, gate: Any, buffer: Any, place: Any) -> None:
        for lane in range(source.size):
            buffer[place, lane] = np.float32(0) if gate[lane] <= 0 else source[lane]

    return widened if source.dtype is types.uint16 else copied


@overload(_read_place, inline="always")
def _read_place_of(slopes: Any, places: Any, which: Any, buffer: Any, place: Any) -> Callable[..., None]:
    def widened(slopes: Any, places: Any, which: Any, buffer: Any, place: Any) -> None:
        bits = buffer[place].view(np.uint32)
        for lane in range(LANES):
            bits[lane] = np.uint32(slopes[lane]) << 16 if places[lane] == which else np.uint32(0)

    def copied(slopes: Any, places: Any, which: Any, buffer: Any, place: Any) -> None:
        for lane in range(slopes.size):
            buffer[place, lane] = slopes[lane] if places[lane] == which else np.float32(0)

    return widened if slopes.dtype is types.uint16 else copied


@overload(_round, inline="always")
def _round_of(buffer: Any, place: Any, like: Any) -> Callable[..., None]:
    def rounded(buffer: Any, place: Any, like: Any) -> None:
        bits = buffer[place].view(np.uint32)
        for lane in range(LANES):  # as `_write` does
            bits[lane] = (bits[lane] + np.uint32(0x7FFF) + ((bits[lane] >> 16) & np.uint32(1))) & np.uint32(0xFFFF0000)

    def left(buffer: Any, place: Any, like: Any) -> None:
        pass

    return rounded if like.dtype is types.uint16 else left


@overload(_write, inline="always")
def _write_of(buffer: Any, place: Any, target: Any) -> Callable[..., None]:
    def rounded(buffer: Any, place: Any, target: Any) -> None:
        bits = buffer[place].view(np.uint32)
        for lane in range(LANES):  # to the nearest bfloat16, ties to even
            target[lane] = np.uint16((bits[lane] + np.uint32(0x7FFF) + ((bits[lane] >> 16) & np.uint32(1))) >> 16)

    def copied(buffer: Any, place: Any, target: Any) -> None:
        for lane in range(target.size):
            target[lane] = buffer[place, lane]

    return rounded if target.dtype is types.uint16 else copied


@inlined
def _to_products(buffer: Any, first: int, step: int) -> None:
    """Bᵀ of the six places first, first + step, …, in place."""
    for lane in range(LANES):
        a, b, c = buffer[first, lane], buffer[first + step, lane], buffer[first + 2 * step, lane]
        d, e, f = buffer[first + 3 * step, lane], buffer[first + 4 * step, lane], buffer[first + 5 * step, lane]
        buffer[first, lane] = a + _ONE_AND_HALF * (d - b) - _DOUBLE * c + e
        buffer[first + step, lane] = _TWO_AND_HALF * d - b + _HALF * c + e
        buffer[first + 2 * step, lane] = b - _TWO_AND_HALF * c + _HALF * d + e
        buffer[first + 3 * step, lane] = _DOUBLE * (d - b) + (e - c)
        buffer[first + 4 * step, lane] = _HALF * (b - d) + (e - c)
        buffer[first + 5 * step, lane] = b + _ONE_AND_HALF * (e - c) - _DOUBLE * d + f


@inlined
def _to_outputs(buffer: Any, first: int, step: int) -> None:
    """Aᵀ of the six places first, first + step, …: its four rows, in the first four places."""
    for lane in range(LANES):
        a, b, c = buffer[first, lane], buffer[first + step, lane], buffer[first + 2 * step, lane]
        d, e, f = buffer[first + 3 * step, lane], buffer[first + 4 * step, lane], buffer[first + 5 * step, lane]
        both, apart = b + c, b - c
        buffer[first, lane] = a + both + d + e
        buffer[first + step, lane] = apart + _HALF * d - _DOUBLE * e
        buffer[first + 2 * step, lane] = both + _QUARTER * d + _FOUR * e
        buffer[first + 3 * step, lane] = apart + _EIGHTH * d - _EIGHT * e + f


@inlined
def _spread(buffer: Any, taken: Any, at: int, start: int) -> None:
    """Bᵀ d B of the buffer's tile, into its place in `taken`."""
    for column in range(SIDE):
        _to_products(buffer, column, SIDE)
    for row in range(SIDE):
        _to_products(buffer, SIDE * row, 1)
    for product in range(SIDE * SIDE):
        _write(buffer, product, taken[product, at, start : start + LANES])


@inlined
def _gather(products: Any, at: int, start: int, bias: Any, floor: Any, buffer: Any) -> None:
    """Aᵀ m A of a tile's products, with the bias: its outputs, in the first four places of the buffer's first rows."""
    for product in range(SIDE * SIDE):
        _read(products[product, at, start : start + LANES], buffer, product)
    for column in range(SIDE):
        _to_outputs(buffer, column, SIDE)
    for row in range(OUTPUTS):
        _to_outputs(buffer, SIDE * row, 1)
    for output in range(OUTPUTS * OUTPUTS):
        _add(bias[start : start + LANES], floor, buffer, SIDE * (output // OUTPUTS) + output % OUTPUTS)


@inlined
def _pool(buffer: Any, first: int, places: Any) -> None:
    """The largest of the 2×2 places at `first` into that place, and where it was."""
    for lane in range(LANES):
        a, b = buffer[first, lane], buffer[first + 1, lane]
        c, d = buffer[first + SIDE, lane], buffer[first + SIDE + 1, lane]
        largest = largest_of(a, b, c, d)
        buffer[first, lane] = largest
        places[lane] = np.uint8(SHUT) if largest <= 0 else np.uint8(1) + place_of(a, b, c, largest)


@compiled
def take_tiles(page: Any, gate: Any, begin: int, end: int, columns: int, padding: int, taken: Any, place: int) -> None:
    """Tiles of 6×6 pixels, each four further than the one before, transformed for the products.

    Args:
        page: H×W×C, float32 or bfloat16 as uint16; beyond it are zeros.
        gate: another page of its shape: what lies where this is not above zero counts as zero; none where it is empty.
        begin, end: which tiles, counted row by row.
        columns: tiles in a row.
        padding: pixels by which the first tile begins before the page.
        taken: 36×T×C of the page's type, to be filled.
        place: where the first tile goes in `taken`.
    """
    height, width, channels = page.shape
    buffer = np.empty((SIDE * SIDE, LANES), np.float32)
    for tile in range(begin, end):
        top, left = OUTPUTS * (tile // columns) - padding, OUTPUTS * (tile % columns) - padding
        for block in range(0, channels, LANES):
            start = min(block, channels - LANES)  # the last block may repeat some channels
            stop = start + LANES
            for pixel in range(SIDE * SIDE):
                y, x = top + pixel // SIDE, left + pixel % SIDE
                if 0 <= y < height and 0 <= x < width:
                    if gate.size:
                        _read_open(page[y, x, start:stop], gate[y, x, start:stop], buffer, pixel)
                    else:
                        _read(page[y, x, start:stop], buffer, pixel)
                else:
                    buffer[pixel] = 0
            _spread(buffer, taken, place + tile - begin, start)


@compiled
def take_pooled_tiles(
    slopes: Any, places: Any, begin: int, end: int, columns: int, padding: int, taken: Any, place: int
) -> None:
    """As `take_tiles`, of the page of slopes before a ReLU and a pooling, which is zero where neither let them through.

    Args:
        slopes: h×w×C, those of the pooling's outputs.
        places: h×w×C, uint8, as `lay_pooled_tiles` found them.
        begin, end, columns, padding, taken, place: as of `take_tiles`.
    """
    height, width, channels = slopes.shape
    buffer = np.empty((SIDE * SIDE, LANES), np.float32)
    for tile in range(begin, end):
        top, left = OUTPUTS * (tile // columns) - padding, OUTPUTS * (tile % columns) - padding
        for block in range(0, channels, LANES):
            start = min(block, channels - LANES)
            stop = start + LANES
            for pixel in range(SIDE * SIDE):
                y, x = top + pixel // SIDE, left + pixel % SIDE
                if 0 <= y < POOLED * height and 0 <= x < POOLED * width:
                    which = 1 + POOLED * (y % POOLED) + x % POOLED
                    y, x = y // POOLED, x // POOLED
                    _read_place(slopes[y, x, start:stop], places[y, x, start:stop], which, buffer, pixel)
                else:
                    buffer[pixel] = 0
            _spread(buffer, taken, place + tile - begin, start)


@compiled
def lay_tiles(
    products: Any, place: int, bias: Any, rectified: bool, begin: int, end: int, columns: int, page: Any
) -> None:
    """Tiles of 4×4 outputs, from their products, with the bias, onto a page.

    Args:
        products: 36×T×K, of the page's type.
        place: where the first tile is in `products`.
        bias: K numbers, float32.
        rectified: whether negative outputs become zero.
        begin, end: which tiles, counted row by row.
        columns: tiles in a row.
        page: H×W×K, float32 or bfloat16 as uint16; filled where the tiles lie, which may reach beyond it.
    """
    height, width, channels = page.shape
    buffer = np.empty((SIDE * SIDE, LANES), np.float32)
    floor = np.float32(0 if rectified else -np.inf)
    for tile in range(begin, end):
        top, left = OUTPUTS * (tile // columns), OUTPUTS * (tile % columns)
        for block in range(0, channels, LANES):
            start = min(block, channels - LANES)
            _gather(products, place + tile - begin, start, bias, floor, buffer)
            for row in range(min(OUTPUTS, height - top)):
                for column in range(min(OUTPUTS, width - left)):
                    _write(buffer, SIDE * row + column, page[top + row, left + column, start : start + LANES])


@compiled
def lay_pooled_tiles(
    products: Any, place: int, bias: Any, begin: int, end: int, columns: int, page: Any, places: Any
) -> None:
    """As `lay_tiles`, rectified, and then the largest of each 2×2 outputs onto a page of these, and where it was.

    Args:
        products, place, bias, begin, end, columns: as of `lay_tiles`.
        page: h×w×K, half as high and as wide as the outputs; an odd last row or column of these is left out.
        places: h×w×K, uint8, to be filled: SHUT, or 1 to 4, of equal outputs the first.
    """
    height, width, channels = page.shape
    buffer = np.empty((SIDE * SIDE, LANES), np.float32)
    floor = np.float32(0)
    for tile in range(begin, end):
        top, left = POOLED * (tile // columns), POOLED * (tile % columns)
        for block in range(0, channels, LANES):
            start = min(block, channels - LANES)
            stop = start + LANES
            _gather(products, place + tile - begin, start, bias, floor, buffer)
            for output in range(OUTPUTS * OUTPUTS):
                _round(buffer, SIDE * (output // OUTPUTS) + output % OUTPUTS, page)
            for row in range(min(POOLED, height - top)):
                for column in range(min(POOLED, width - left)):
                    first, y, x = POOLED * (SIDE * row + column), top + row, left + column
                    _pool(buffer, first, places[y, x, start:stop])
                    _write(buffer, first, page[y, x, start:stop])


def compile_all() -> None:
    """Compile for both types of numbers, or read what an earlier process compiled: seconds, else hundredths of one."""
    bias = np.zeros(LANES, np.float32)
    for kind in (np.float32, np.uint16):
        page, tile = np.zeros((OUTPUTS, OUTPUTS, LANES), kind), np.zeros((SIDE * SIDE, 1, LANES), kind)
        take_tiles(page, page[:0], 0, 1, 1, 1, tile, 0)
        lay_tiles(tile, 0, bias, False, 0, 1, 1, page)
        pooled, places = page[:POOLED, :POOLED].copy(), np.zeros((POOLED, POOLED, LANES), np.uint8)
        take_pooled_tiles(pooled, places, 0, 1, 1, 1, tile, 0)
        lay_pooled_tiles(tile, 0, bias, 0, 1, 1, pooled, places)
