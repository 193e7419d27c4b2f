"""Loops over the pixels of max-pooling and of a first convolution's gradient, compiled: once through memory each.

torch keeps the place of each maximum in eight bytes, fills the gradient with zeros before it scatters into it, and has
no quick way for the gradient of a convolution that reads three channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.compiled.jit import as_float, as_stored, compiled
from workers.compiled.windows import largest_of, place_of


@compiled
def keep_largest(page: Any, begin: int, end: int, kept: Any, places: Any) -> None:
    """The largest of each 2×2 pixels, channel by channel, and where it was.

    Args:
        page: H×W×C, float32 or bfloat16 as uint16.
        begin, end: which rows of `kept`.
        kept: h×w×C of the page's type, to be filled.
        places: h×w×C, uint8, to be filled: 0 to 3, row by row, the first of equal ones, or of those that are no number
            (torch: the last of these).
    """
    channels = page.shape[2]
    for y in range(begin, end):
        for x in range(kept.shape[1]):
            a, b = page[2 * y, 2 * x], page[2 * y, 2 * x + 1]
            c, d = page[2 * y + 1, 2 * x], page[2 * y + 1, 2 * x + 1]
            largest, place = kept[y, x], places[y, x]
            for channel in range(channels):
                first, second, third = as_float(a[channel]), as_float(b[channel]), as_float(c[channel])
                largest[channel] = as_stored(largest_of(first, second, third, as_float(d[channel])), a[channel])
            for channel in range(channels):  # on its own, so that few arrays are in play and the loop is vectorized
                found = as_float(largest[channel])
                place[channel] = place_of(as_float(a[channel]), as_float(b[channel]), as_float(c[channel]), found)


@compiled
def give_back(slopes: Any, places: Any, begin: int, end: int, page: Any) -> None:
    """The gradient of `keep_largest`: each slope goes to where the largest was, zeros to the other three.

    Args:
        slopes: h×w×C, float32 or bfloat16 as uint16.
        places: h×w×C, uint8.
        begin, end: which rows of `slopes`.
        page: H×W×C of the slopes' type; the 2×2 pixels of those rows are filled.
    """
    channels = page.shape[2]
    nothing = page.dtype.type(0)
    for y in range(begin, end):
        for x in range(slopes.shape[1]):
            slope, place = slopes[y, x], places[y, x]
            for pixel in range(4):
                target = page[2 * y + pixel // 2, 2 * x + pixel % 2]
                for channel in range(channels):
                    target[channel] = slope[channel] if place[channel] == pixel else nothing


@compiled
def find_alive(slopes: Any, gate: Any, every: int, few: int, alive: Any) -> None:
    """Which channels have any slope that is not zero, where the gate is above zero.

    Args:
        slopes: P×C, float32 or bfloat16 as uint16.
        gate: P×C of the slopes' type, or uint8; or empty.
        every: pixels from one that is looked at to the next in a first look, which ends with more than `few` channels.
        few: how many interest the caller exactly.
        alive: C booleans, set where there is one; of more than `few`, perhaps not of all.
    """
    pixels, channels = slopes.shape
    for step in (every, 1):
        for pixel in range(0, pixels, step):
            for channel in range(channels):
                shut = gate.size > 0 and as_float(gate[pixel, channel]) <= 0
                alive[channel] |= as_float(slopes[pixel, channel]) != 0 and not shut  # what is no number counts
            if alive.sum() > few:
                return


@compiled
def let_through(slopes: Any, gate: Any, found: Any) -> None:
    """Slopes where the gate is above zero, zeros elsewhere.

    Args:
        slopes, gate, found: P×C, float32 or bfloat16 as uint16; `found` is filled.
    """
    for pixel in range(slopes.shape[0]):
        for channel in range(slopes.shape[1]):
            shut = as_float(gate[pixel, channel]) <= 0
            found[pixel, channel] = found.dtype.type(0) if shut else slopes[pixel, channel]


@compiled
def fold(products: Any, first: int, begin: int, end: int, padding: int, stride: int, page: Any) -> None:
    """The gradient of a convolution's inputs, summed from each output's part in it.

    Args:
        products: taps×taps×C×h×w, what the outputs of some rows give to each tap, float32 or bfloat16 as uint16.
        first: which row of outputs theirs begin with.
        begin, end: which rows of the page; `products` have every output that they take part in.
        padding, stride: of the convolution, pixels.
        page: C×H×W of the products' type; those rows are filled.
    """
    taps, _, channels, rows, wide = products.shape
    width = page.shape[2]
    sums = np.empty(width, np.float32)
    for channel in range(channels):
        for y in range(begin, end):
            sums[:] = 0
            for tap in range(taps * taps):
                down, across = tap // taps, tap % taps
                row = (y + padding - down) // stride - first
                if (y + padding - down) % stride or not 0 <= row < rows:
                    continue
                # From the first output that reaches into the page to the last.
                low = max(0, (padding - across + stride - 1) // stride)
                high = min(wide, (width - 1 + padding - across) // stride + 1)
                line = products[down, across, channel, row, low:high]
                target = sums[stride * low - padding + across :]
                if stride == 1:
                    for x in range(high - low):
                        target[x] += as_float(line[x])
                else:
                    for x in range(high - low):
                        target[stride * x] += as_float(line[x])
            line = page[channel, y]
            for x in range(width):
                line[x] = as_stored(sums[x], line[x])


def compile_all() -> None:
    """Compile for both types of numbers, or read what an earlier process compiled."""
    for kind in (np.float32, np.uint16):
        page, kept, places = np.zeros((2, 2, 4), kind), np.zeros((1, 1, 4), kind), np.zeros((1, 1, 4), np.uint8)
        keep_largest(page, 0, 1, kept, places)
        give_back(kept, places, 0, 1, page)
        let_through(page[0], page[1], page[0])
        for gate in (page[0], places[0]):
            find_alive(page[0], gate, 1, 0, np.zeros(4, np.bool_))
        fold(np.zeros((3, 3, 3, 2, 2), kind), 0, 0, 2, 1, 1, np.zeros((3, 2, 2), kind))
