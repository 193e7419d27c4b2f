"""Runs `evaluate` in tests as the engine does, with the methods that it grants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convscope.protocol.operations.evaluate import EvaluateFacts
from tests.workers.fakes import FakeNetwork
from tests.workers.methods.ascents import at_once
from workers.contract import Grant, Outcome, Outputs, Row, params
from workers.methods.cam import METHOD as CAM
from workers.methods.evaluate import METHOD
from workers.methods.saliency import METHOD as SALIENCY

METHODS = {"cam": CAM, "saliency": SALIENCY}
GRANT = Grant(methods=METHODS)


def request(**changes: Any) -> dict[str, Any]:
    """A resolved request as JSON."""
    filled: dict[str, Any] = {
        "methods": ["gradient"], "layer": None, "target": 0, "metrics": ["deletion"], "steps": 4, "samples": 3,
        "deletion_fill": "mean", "insertion_fill": "mean", "radius": 0.02, "depths": 2, "boxes": None, "mask": None,
        "nonstandard_gate": False, "preprocess": None, "precision": "exact", "seed": 0,
    }  # fmt: skip
    return filled | changes


def tried(network: Any, images: Sequence[Tensor], interrupted: bool = False, **changes: Any) -> Outcome:
    """A whole job; `interrupted`, it is saved and loaded in the middle of every image, and between images."""
    row = Row(params(request(**changes)), images)
    states = at_once(METHOD.start(network, row, GRANT))
    grant = Grant(slice_s=0.0, methods=METHODS) if interrupted else GRANT
    slices = {0: 0}  # of each image since it was begun
    while not METHOD.done(states[0]):
        (error,) = METHOD.step(network, states, grant)
        if error is not None:
            raise error
        slices[states[0].place] = slices.get(states[0].place, -1) + 1
        if interrupted and slices[states[0].place] in (0, 3):
            states = METHOD.load(network, row, METHOD.save(states), GRANT)
    outcome = at_once(METHOD.finish(network, row, states, GRANT))
    assert isinstance(outcome, Outcome)
    EvaluateFacts.model_validate(outcome.facts)
    return outcome


class Weighed(nn.Module):
    """One number: the sum of the first colour's pixels, each with its weight."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W → N×1."""
        return (x[:, 0] * self.weights).sum(dim=(1, 2))[:, None]


def weighed(weights: Tensor) -> FakeNetwork:
    """A network of values whose mean colour is black."""
    size = (int(weights.shape[0]), int(weights.shape[1]))
    return FakeNetwork(Weighed(weights), size, outputs=Outputs(count=1, link="value"))


def flat(size: tuple[int, int], level: int = 255) -> Tensor:
    """An upload of one grey."""
    return torch.full((*size, 3), level, dtype=torch.uint8)
