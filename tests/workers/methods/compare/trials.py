"""Runs `compare` in tests as the engine does, with the second network and the method `cam` that it grants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from convscope.protocol.operations.compare import CompareFacts
from tests.workers.methods.ascents import at_once
from workers.contract import Grant, Outcome, Row, params
from workers.methods.cam import METHOD as CAM
from workers.methods.compare import METHOD


def request(**changes: Any) -> dict[str, Any]:
    """A resolved request as JSON, for networks of `ascents.tiny`."""
    filled: dict[str, Any] = {
        "other_model": "other", "layers": ["1", "3"], "other_layers": ["1", "3"], "features": "flatten",
        "batch_images": 16, "intervals": 50, "channel_layers": ["1", "3"], "method": "gradcam", "cam_layer": "3",
        "other_cam_layer": "3", "target": "predicted", "truth": None, "shown": 10, "preprocess": None,
        "precision": "exact", "seed": 0,
    }  # fmt: skip
    return filled | changes


def compared(network: Any, other: Any, images: Sequence[Tensor], interrupted: bool = False, **changes: Any) -> Outcome:
    """A whole job; `interrupted`, it is saved and loaded in the middle of every batch, and between batches."""
    row = Row(params(request(**changes)), images)
    grant = Grant(slice_s=0.0 if interrupted else 0.25, networks={"other": other}, methods={"cam": CAM})
    states = at_once(METHOD.start(network, row, grant))
    slices = {0: 0}  # of each batch since it was begun
    while not METHOD.done(states[0]):
        (error,) = METHOD.step(network, states, grant)
        if error is not None:
            raise error
        batch = states[0].batch
        slices[batch] = slices.get(batch, -1) + 1
        if interrupted and slices[batch] in (0, 3):
            states = METHOD.load(network, row, METHOD.save(states), grant)
    outcome = at_once(METHOD.finish(network, row, states, grant))
    assert isinstance(outcome, Outcome)
    CompareFacts.model_validate(outcome.facts)
    return outcome
