"""The quicker layers of workers/networks/lean.py against torch's own, at the sizes of VGG16 and other first layers.

Run: python -m bench.convolutions
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

FIRST = ((64, 3, 1, 1), (64, 7, 2, 3), (64, 11, 4, 2))
"""First layers of VGG16, ResNet-50 and AlexNet: channels out, taps, stride, padding; of images of 224×224."""

POOLED = ((64, 224), (128, 112), (256, 56), (512, 28))
"""Channels, pixels a side."""


def layers() -> Iterator[tuple[str, list[nn.Module], tuple[int, ...]]]:
    """Each with what it is called and the shape of its inputs, C×H×W; what runs in one pass counts as one."""
    for channels, outputs, side in SIZES:
        convolution = nn.Conv2d(channels, outputs, 3, padding=1)
        yield f"{channels} to {outputs} channels, {side}×{side}", [convolution], (channels, side, side)
    for outputs, taps, stride, padding in FIRST:
        first = nn.Conv2d(3, outputs, taps, stride, padding)
        yield f"3 to {outputs} channels by {taps}×{taps}, stride {stride}", [first], (3, 224, 224)
    for channels, side in POOLED:
        yield f"2×2 pooling of {channels} channels, {side}×{side}", [nn.MaxPool2d(2)], (channels, side, side)
        block = [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        yield f"{channels} to {channels} channels, rectified and pooled, {side}×{side}", block, (channels, side, side)


def shapes(network: nn.Module, inputs: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """C×H×W of the output of each layer."""
    found = {}
    for name, layer in network.named_children():
        inputs = layer(inputs)
        found[name] = tuple(inputs.shape[1:])
    return found


def both_ways(layer: nn.Module, inputs: torch.Tensor) -> Callable[[], object]:
    """A forward and the gradient with respect to the inputs."""
    x = inputs.clone(memory_format=torch.channels_last).requires_grad_()
    return lambda: torch.autograd.grad(layer(x).sum(), x)


def main() -> None:
    """Measure and report."""
    rows: list[dict[str, Any]] = []
    for name, modules, shape in layers():
        for dtype in (torch.float32, torch.bfloat16):
            own = nn.Sequential(*modules).to(dtype).eval().requires_grad_(False)
            inputs = torch.randn(2, *shape).to(dtype).contiguous(memory_format=torch.channels_last)
            lean = make_lean(own, shapes(own, inputs))
            assert lean is not own, name
            with torch.no_grad():
                found, usual = lean(inputs).double(), own(inputs).double()
                exact = own.double()(inputs.double())
            own.to(dtype)
            works = {"lean": both_ways(lean, inputs), "own": both_ways(own, inputs)}
            took = alternating_s(works, repeats=15, warmup=3)
            rows.append(
                {
                    "work": f"{name}, {str(dtype).removeprefix('torch.')}",
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
