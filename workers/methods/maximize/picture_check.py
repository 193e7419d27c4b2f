"""The check of finished pictures: what the network says to their 8-bit pixels, and how photographs compare."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.contract import Grant, Network, Progress, Row, params
from workers.methods.maximize.ascent import Ascent
from workers.passes.pace import Pace
from workers.passes.scores import OUTPUT, activations

if TYPE_CHECKING:
    from convscope.protocol.operations.maximize import MaximizeRequest
    from convscope.protocol.requests import Preprocess

MOST_TOGETHER = 32
"""Photographs in one forward."""


@dataclass
class Check:
    """What was seen of one picture.

    Attributes:
        means: mean activation of every channel of the target's layer, C, on the CPU.
        value: of the objective.
        rank: of the target channel among all by mean, 1 for the strongest; None where the objective is no channel.
        percentile: share of the photographs, in percent, whose value is lower; None without photographs.
        reference_max: largest value among the photographs.
        probability: of the target class; None where the objective is no class, or the network gives values.
    """

    means: Tensor
    value: float
    rank: int | None
    percentile: float | None = None
    reference_max: float | None = None
    probability: float | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "value": self.value if math.isfinite(self.value) else None,
            "rank": self.rank,
            "channels": len(self.means),
            "percentile": self.percentile,
            "reference_max": self.reference_max,
            "probability": self.probability,
        }


def check_pictures(
    network: Network,
    states: Sequence[Ascent],
    pictures: Sequence[Tensor],
    row: Row[MaximizeRequest],
    grant: Grant,
    first: int = 0,
) -> Generator[Progress, None, list[Check]]:
    """Each picture through the float32 network, alone, whatever precision made it; then photographs.

    Args:
        pictures: uint8 H×W×C on the CPU, one for each state.
        row: its images from `first` on are the photographs; a few at a time are in memory.
        grant: how long a slice may take.
        first: where in the row's images the photographs begin.
    """
    checks: list[Check] = []
    for number, (state, pixels) in enumerate(zip(states, pictures, strict=True)):
        size = state.recipe.input_size
        unit = pixels.to(network.device).permute(2, 0, 1)[None].float() / 255.0
        if unit.shape[2:] != size:
            unit = F.interpolate(unit, size, mode="bilinear", antialias=True, align_corners=False)
        seen = _look(network, state.recipe.normalization.apply(unit), state.objective.layers)
        checks.append(_checked(network, state, {name: maps[0] for name, maps in seen.items()}))
        yield Progress(state.steps, state.steps, f"checking picture {number + 1} of {len(states)}")
    if len(row.images) > first:
        values = yield from _reference_values(network, states, row, grant, first)
        for check, own in zip(checks, values, strict=True):
            check.percentile = 100.0 * sum(value < check.value for value in own) / len(own)
            check.reference_max = max(own)
    return checks


def _checked(network: Network, state: Ascent, activations: Mapping[str, Tensor]) -> Check:
    target = state.objective.target
    activation = activations[target.layer].float()
    means = activation.mean((1, 2)) if activation.dim() == 3 else activation
    rank = None if target.channel is None else 1 + int((means > means[target.channel]).sum())
    check = Check(means.cpu(), float(state.objective.value(activations)), rank)
    if target.layer == OUTPUT:
        check.probability = target.class_target(activations[OUTPUT]).probability(network.outputs, activations[OUTPUT])
    return check


def _reference_values(
    network: Network, states: Sequence[Ascent], row: Row[MaximizeRequest], grant: Grant, first: int
) -> Generator[Progress, None, list[list[float]]]:
    """The objectives' values on photographs, prepared for the pictures' input size."""
    wish = row.request.preprocess
    told = vars(wish) if wish is not None else {}
    how = cast("Preprocess", params({**told, "size": states[0].recipe.input_size}))
    layers = tuple(sorted({layer for state in states for layer in state.objective.layers}))
    values: list[list[float]] = [[] for _ in states]
    start, pace = first, Pace.by_time(network, grant, first=1, most=MOST_TOGETHER)
    while start < len(row.images):
        chunk = row.images[start : start + pace.rows()]
        seen = _look(network, network.prepare(chunk, how)[0], layers)
        for number, state in enumerate(states):
            for place in range(len(chunk)):
                value = state.objective.value({name: seen[name][place] for name in state.objective.layers})
                values[number].append(float(value))
        start += len(chunk)
        pace.ran(len(chunk))
        done, count = start - first, len(row.images) - first
        yield Progress(states[0].steps, states[0].steps, f"photograph {done} of {count}")
    return values


def _look(network: Network, inputs: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Activations of a batch by layer, the output under OUTPUT."""
    with torch.no_grad():
        return activations(network.module, inputs, layers, network.outputs, network.most_images)


def covered(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest centred part of an upload with the proportions of `size`, resized: C×h×w in [0, 1].

    The upload is uint8 H×W×3, or float32 H×W×C in [0, 1].
    """
    height, width = int(image.shape[0]), int(image.shape[1])
    share = min(height / size[0], width / size[1])
    tall, wide = max(1, round(size[0] * share)), max(1, round(size[1] * share))
    top, left = (height - tall) // 2, (width - wide) // 2
    part = image[top : top + tall, left : left + wide].permute(2, 0, 1)[None].float()
    part = part / 255.0 if image.dtype == torch.uint8 else part
    if part.shape[2:] == size:
        return part[0].clamp(0.0, 1.0)
    resized = F.interpolate(part, size, mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(0.0, 1.0)
