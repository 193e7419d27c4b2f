"""The scalar that is differentiated or watched: a class's logit, or a unit of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workers.contract import Outputs
from workers.passes.calls import capture
from workers.passes.class_targets import ClassTarget
from workers.passes.scores import logits_of

if TYPE_CHECKING:
    from convscope.protocol.requests import UnitTarget


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


Target = ClassTarget | Unit


def read_target(target: int | str | UnitTarget) -> int | str | Unit:
    """A resolved request's target: a class as it is wished for, or a Unit."""
    if isinstance(target, int | str):
        return target
    return Unit(target.layer, target.channel, target.y, target.x)


def scores(module: nn.Module, inputs: Tensor, targets: Sequence[Target], outputs: Outputs) -> tuple[Tensor, Tensor]:
    """The target's value for each input of a batch; the forward stops where the target is a unit.

    Args:
        module: in evaluation mode.
        inputs: N×C×H×W.
        targets: one an input; all classes, or all units of one layer.
        outputs: how the network's output is read.

    Returns:
        N float32 values, and the tensor they were read from (where a backward pass starts): logits, or an activation.
    """
    first = targets[0]
    if isinstance(first, Unit):
        seen, _ = capture(module, inputs, [first.layer])
        source = seen[first.layer]
        picked = [one.value(source[i : i + 1]) for i, one in enumerate(targets) if isinstance(one, Unit)]
        return torch.cat(picked).float(), source
    source = logits_of(module, inputs, outputs)
    chosen = [one.value(source[i]) for i, one in enumerate(targets) if isinstance(one, ClassTarget)]
    return torch.stack(chosen), source
