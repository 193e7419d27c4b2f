"""A 3×3 convolution by minimal filtering (workers/networks/lean.py) against torch's own, at VGG16's sizes.

Run: python -m bench.convolutions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.report import alternating_s, report
from workers.networks.lean import make_lean

SIZES = ((64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56))
"""Channels, channels out, pixels a side."""


def both_ways(layer: nn.Module, inputs: torch.Tensor) -> Callable[[], object]:
    """A forward and the gradient with respect to the inputs."""
    x = inputs.clone().requires_grad_()

    def run() -> object:
        return torch.autograd.grad(layer(x).sum(), x)

    return run


def main() -> None:
    """Measure and report."""
    rows: list[dict[str, Any]] = []
    for channels, outputs, side in SIZES:
        own = nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1)).eval().requires_grad_(False)
        lean = make_lean(own, {"0": (outputs, side, side)})
        if lean is own:
            raise SystemExit("this torch has no NNPACK for this processor")
        inputs = torch.randn(1, channels, side, side)
        with torch.no_grad():
            error = float((lean(inputs) - own.double()(inputs.double())).abs().max() / own(inputs.double()).abs().max())
        own.float()
        took = alternating_s({"lean": both_ways(lean, inputs), "own": both_ways(own, inputs)}, repeats=15, warmup=3)
        rows.append(
            {
                "work": f"{channels} to {outputs} channels, {side}×{side}, forward and backward",
                "ours_s": took["lean"],
                "peer": "torch's own",
                "peer_s": took["own"],
                "target": None,
                "relative_error": error,
            }
        )
    report("convolutions", rows)


if __name__ == "__main__":
    main()
