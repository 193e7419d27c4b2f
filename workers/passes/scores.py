"""What objectives are read from: outputs of a network's layers, and its class scores, by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from workers.passes.calls import capture


def activations(
    module: nn.Module, inputs: Tensor, layers: Collection[str], most_images: int | None = None
) -> dict[str, Tensor]:
    """Outputs of the layers for a batch, the class scores under OUTPUT; the forward stops after the last one wanted.

    Args:
        module: in evaluation mode.
        inputs: N×C×H×W.
        layers: names of calls, and OUTPUT.
        most_images: images of one forward, where the network takes no more; outputs of several are joined.

    Raises:
        KeyError: a layer's call never happened.
    """
    if most_images is not None and len(inputs) > most_images:
        parts = [activations(module, part, layers) for part in torch.split(inputs, most_images)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    named = [name for name in layers if name != OUTPUT]
    seen, output = capture(module, inputs, named, to_output=OUTPUT in layers)
    return dict(seen) if output is None else {**seen, OUTPUT: logits_of(output)}


def logits_of(output: Any) -> Tensor:
    """A network's class scores, N×classes."""
    scores: Tensor = output if isinstance(output, Tensor) else output[0]
    return scores.flatten(1)


OUTPUT = ""
"""Stands for the network's output among layer names."""
