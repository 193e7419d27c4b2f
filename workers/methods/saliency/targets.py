"""The scalar that is differentiated or watched: a class's logit, or a unit of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.passes.calls import capture


@dataclass(frozen=True)
class Unit:
    """A unit of a layer; without y and x the mean of the channel's map."""

    layer: str
    channel: int
    y: int | None = None
    x: int | None = None

    def value(self, activation: Tensor) -> Tensor:
        """Its value in a batch of the layer's activations (N×C×H×W or N×C): N numbers."""
        if activation.dim() == 2:
            return activation[:, self.channel]
        plane = activation[:, self.channel]
        return plane.mean((1, 2)) if self.y is None or self.x is None else plane[:, self.y, self.x]


Target = int | Unit


def logits(module: nn.Module, inputs: Tensor) -> Tensor:
    """Class scores of a batch, N×classes, before any softmax."""
    output: Any = module(inputs)
    scores = output if isinstance(output, Tensor) else output[0]
    return scores.flatten(1)


def read_target(target: Any) -> Target | None:
    """A resolved request's target: a class index or a Unit; None where it is `predicted`."""
    if isinstance(target, int):
        return target
    if isinstance(target, str):
        return None
    return Unit(target.layer, target.channel, target.y, target.x)


def scores(module: nn.Module, inputs: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """The target's value for each input of a batch; the forward stops where the target is a unit.

    Args:
        module: in evaluation mode.
        inputs: N×C×H×W.
        targets: one an input; all classes, or all units of one layer.

    Returns:
        N float32 values, and the tensor they were read from (where a backward pass starts).
    """
    first = targets[0]
    if isinstance(first, Unit):
        seen, _ = capture(module, inputs, [first.layer])
        source = seen[first.layer]
        picked = [one.value(source[i : i + 1]) for i, one in enumerate(targets) if isinstance(one, Unit)]
        return torch.cat(picked).float(), source
    source = logits(module, inputs)
    index = torch.tensor(targets, device=source.device)
    return source.gather(1, index[:, None])[:, 0].float(), source
