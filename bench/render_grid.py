"""A grid of a hundred feature maps as PNG: ours against a hundred matplotlib subplots, side by side in one run.

Both draw the same maps with the same colour map, each map by its own minimum and maximum, with its channel above it,
and both include making the PNG.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")

import matplotlib.pyplot as plt

from bench.report import report
from convscope.protocol.pictures import Picture, Slice, Tile
from convscope.render import RenderOptions, render

Floats = NDArray[np.float32]


def maps_like_activations(count: int, side: int, seed: int = 0) -> Floats:
    """Smooth rectified noise, as an early layer's maps are: neither flat (too easy) nor white (too hard)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, side, side))
    for axis in (1, 2):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)
    return np.maximum(noise, 0).astype(np.float32)


def ours(maps: Floats) -> bytes:
    """The grid by convscope.render, from the declaration of its tiles to PNG bytes."""
    tiles = tuple(Tile((Slice("maps", (0, k)),), {"index": str(k)}, group="layer") for k in range(len(maps)))
    picture = Picture("layer", f"network  layer  {len(maps)} maps", ("tiles",), tiles)
    arrays = {"maps": maps[None]}
    return render(picture, arrays.__getitem__, None, RenderOptions())


def subplots(maps: Floats) -> bytes:
    """The grid as notebooks draw it: one subplot a map, its channel as title, no axes."""
    columns = 10
    figure, axes = plt.subplots(-(-len(maps) // columns), columns, figsize=(12, 13), dpi=100)
    for index, axis in enumerate(axes.flat):
        axis.axis("off")
        if index < len(maps):
            axis.imshow(maps[index], cmap="viridis", interpolation="nearest")
            axis.set_title(str(index), fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()


def compare(side: int, count: int, repeats: int) -> dict[str, Any]:
    """Both on the same maps, in turns, so that whatever else the machine does hits both; medians."""
    maps = maps_like_activations(count, side)
    # The first of each is not counted: it loads fonts and colour maps.
    sizes = len(ours(maps)), len(subplots(maps))
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        taken[0].append(statistics.median(_seconds(ours, maps) for _ in range(5)))
        taken[1].append(_seconds(subplots, maps))
    return {
        "work": f"{count} maps of {side}×{side}, PNG included",
        "ours_s": statistics.median(taken[0]),
        "peer": f"matplotlib {mpl.__version__}",
        "peer_s": statistics.median(taken[1]),
        "target": 50,
        "ours_KiB": sizes[0] // 1024,
        "peer_KiB": sizes[1] // 1024,
    }


def _seconds(draw: Callable[[Floats], bytes], maps: Floats) -> float:
    begin = time.perf_counter()
    draw(maps)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=100, help="maps in the grid")
    parser.add_argument("--sides", type=int, nargs="+", default=[14, 28, 56, 112], help="sides of the maps, cells")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    arguments = parser.parse_args()
    report("render_grid", [compare(side, arguments.count, arguments.repeats) for side in arguments.sides])


if __name__ == "__main__":
    main()
