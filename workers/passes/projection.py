"""Projections of single units to pixels, and the windows of the input that they see.

One forward under a rule, then a pass back from each unit: what `deconv` draws, and what stands beside the strongest
images of a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.contract import Layer, MethodError, Network
from workers.geometry import Box
from workers.passes.planes import as_colours
from workers.passes.rules import PathReport

if TYPE_CHECKING:
    from convscope.protocol.requests import Preprocess

OUTSIDE = 128
"""Level of a patch where its receptive field reaches beyond the image."""


@dataclass(frozen=True)
class Seed:
    """What one projection starts from: a unit; a channel where y and x are None, the layer where channel is, too."""

    channel: int | None
    y: int | None
    x: int | None


def check_path(layer: Layer, report: PathReport, rule: str) -> None:
    """Refuse to call a plain gradient a deconvnet."""
    if rule == "gradient":
        return
    if report.nonstandard:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.nonstandard.items()))
        raise MethodError(
            "not-applicable",
            f"the {rule} rule is not defined for the {kinds} between the image and {layer.name}; "
            "nonstandard_gate=true treats them as ReLUs on the way back, rule=gradient always works",
        )
    if report.escaped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.escaped.items()))
        raise MethodError("not-applicable", f"{kinds} before {layer.name} cannot be given the {rule} rule")
    if not report.rectifications and not report.linear:
        raise MethodError(
            "not-applicable",
            f"no rectification was found between the image and {layer.name}, so the {rule} rule would be the plain "
            "gradient; rule=gradient gives that",
        )


def as_maps(activation: Tensor) -> Tensor:
    """One image's activation as C×H×W; a dense layer's units are 1×1 maps."""
    one = activation[0]
    return one if one.dim() == 3 else one.reshape(-1, 1, 1)


def project_unit(activation: Tensor, inputs: Tensor, seed: Seed) -> Tensor:
    """One pass from a unit, all other activations of its layer zero, to pixels: 1×C×H×W float32."""
    maps = as_maps(activation.detach())
    signal = torch.zeros_like(maps)
    where = tuple(slice(None) if place is None else place for place in (seed.channel, seed.y, seed.x))
    signal[where] = maps[where].clamp(min=0)
    (pixels,) = torch.autograd.grad(activation, inputs, signal.view_as(activation), retain_graph=True)
    return pixels.float()


def window_of(box: Box | None, seed: Seed, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The unit's receptive field (top, left, bottom, right), where it is smaller than the input, not clipped to it.

    All units of a layer have windows of one size; along a side that the field covers, the window is the whole input.
    """
    if box is None or seed.y is None or seed.x is None:
        return 0, 0, *size
    corner, extent = [], []
    for axis, position in ((0, seed.y), (1, seed.x)):
        covers = box.size[axis] >= size[axis]
        corner.append(0 if covers else round(box.start[axis] + position * box.jump[axis]))
        extent.append(size[axis] if covers else box.size[axis])
    return corner[0], corner[1], corner[0] + extent[0], corner[1] + extent[1]


def cut(picture: Tensor, window: tuple[int, int, int, int], outside: int) -> Tensor:
    """A window of a 3×H×W picture, with `outside` where it reaches beyond."""
    top, left, bottom, right = window
    cut = picture.new_full((picture.shape[0], bottom - top, right - left), outside)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(bottom, picture.shape[1]), min(right, picture.shape[2])
    if y1 > y0 and x1 > x0:
        cut[:, y0 - top : y1 - top, x0 - left : x1 - left] = picture[:, y0:y1, x0:x1]
    return cut


def pixels_of(normalized: Tensor, network: Network, preprocess: Preprocess | None = None) -> Tensor:
    """A network's input (C×H×W, normalised as `preprocess` says) as a picture, 3×H×W uint8."""
    pixels = network.normalization(preprocess).undo(normalized[None])[0]
    levels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return as_colours(levels).cpu()


def caution_of(rule: str) -> str | None:
    """What must be said with every picture of the kind."""
    if rule == "gradient":
        return None
    return (
        "Deconvnet and guided projections partly recover the image whatever the unit stands for (Nie 2018; Adebayo "
        "2018): compare units before reading one as an explanation."
    )
