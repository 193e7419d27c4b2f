"""What objectives are read from: outputs of a network's layers, and its class scores, by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from workers.passes.calls import capture


def activations(module: nn.Module, inputs: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
    """Outputs of the layers for a batch, the class scores under OUTPUT; the forward stops after the last one wanted.

    Raises:
        KeyError: a layer's call never happened.
    """
    named = [name for name in layers if name != OUTPUT]
    seen, output = capture(module, inputs, named, to_output=OUTPUT in layers)
    return dict(seen) if output is None else {**seen, OUTPUT: logits_of(output)}


def logits_of(output: Any) -> Tensor:
    """A network's class scores, N×classes."""
    scores: Tensor = output if isinstance(output, Tensor) else output[0]
    return scores.flatten(1)


OUTPUT = ""
"""Stands for the network's output among layer names."""
