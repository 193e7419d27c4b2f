"""A grid of a hundred feature maps as PNG: ours against a hundred matplotlib subplots, side by side in one run.

Both draw the same maps with the same colour map, each map by its own minimum and maximum, with its channel above it,
and both include making the PNG. Prints a table; `--json FILE` keeps it with the machine and the commit.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")

import matplotlib.pyplot as plt

from convscope.protocol.operations.base import Picture, Slice, Tile
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


def milliseconds(work: Callable[[], bytes], repeats: int) -> tuple[float, float, int]:
    """Median and least time of some runs after one that is not counted, and the bytes it made."""
    size = len(work())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times), min(times), size


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "matplotlib": mpl.__version__,
        "commit": commit or None,
    }


def main() -> int:
    """Run every size, print the table, keep it where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=100, help="maps in the grid")
    parser.add_argument("--sides", type=int, nargs="+", default=[14, 28, 56, 112], help="sides of the maps, cells")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the peer; ours runs four times as often")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    rows = []
    print(f"{'map':>9} {'ours ms':>9} {'peer ms':>9} {'times':>7} {'ours KiB':>9} {'peer KiB':>9}")
    for side in arguments.sides:
        maps = maps_like_activations(arguments.count, side)
        median, least, size = milliseconds(lambda maps=maps: ours(maps), 4 * arguments.repeats)  # type: ignore[misc]
        peer, peer_least, peer_size = milliseconds(lambda maps=maps: subplots(maps), arguments.repeats)  # type: ignore[misc]
        row = {
            "maps": arguments.count,
            "side": side,
            "ours_ms": median,
            "ours_least_ms": least,
            "peer_ms": peer,
            "peer_least_ms": peer_least,
            "times": peer / median,
            "ours_bytes": size,
            "peer_bytes": peer_size,
        }
        rows.append(row)
        shape = f"{side}×{side}"
        print(f"{shape:>9} {median:9.1f} {peer:9.0f} {peer / median:6.0f}× {size / 1024:9.0f} {peer_size / 1024:9.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
