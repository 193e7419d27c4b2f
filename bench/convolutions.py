"""3×3 convolutions by minimal filtering (workers/networks/lean.py) against torch's own, at VGG16's sizes.

Run: python -m bench.convolutions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.report import alternating_s, report
from workers.networks.lean import make_lean

SIZES = (
    (64, 64, 224),
    (64, 128, 112),
    (128, 128, 112),
    (128, 256, 56),
    (256, 256, 56),
    (256, 512, 28),
    (512, 512, 28),
    (512, 512, 14),
)
"""Channels, channels out, pixels a side."""


def both_ways(layer: nn.Module, inputs: torch.Tensor) -> Callable[[], object]:
    """A forward and the gradient with respect to the inputs."""
    x = inputs.clone(memory_format=torch.channels_last).requires_grad_()
    return lambda: torch.autograd.grad(layer(x).sum(), x)


def main() -> None:
    """Measure and report."""
    rows: list[dict[str, Any]] = []
    for channels, outputs, side in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            own = nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1, dtype=dtype)).eval().requires_grad_(False)
            lean = make_lean(own, {"0": (outputs, side, side)})
            inputs = torch.randn(2, channels, side, side).to(dtype)
            with torch.no_grad():
                found, usual = lean(inputs).double(), own(inputs).double()
                exact = own.double()(inputs.double())
            own.to(dtype)
            works = {"lean": both_ways(lean, inputs), "own": both_ways(own, inputs)}
            took = alternating_s(works, repeats=15, warmup=3)
            rows.append(
                {
                    "work": f"{channels} to {outputs} channels, {side}×{side}, {str(dtype).removeprefix('torch.')}",
                    "ours_s": took["lean"],
                    "peer": "torch's own",
                    "peer_s": took["own"],
                    "target": None,
                    "relative_error": float((found - exact).norm() / exact.norm()),
                    "peer_relative_error": float((usual - exact).norm() / exact.norm()),
                }
            )
    report("convolutions", rows)


if __name__ == "__main__":
    main()
