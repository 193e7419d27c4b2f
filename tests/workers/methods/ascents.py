"""Runs `maximize` in tests as the engine does: states stepped in tiles, padded for `exact`, saved and loaded."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from convscope.protocol.operations.presets import FIELDS, OPTIMIZERS, PRESETS
from tests.workers.fakes import FakeNetwork
from workers.contract import Grant, MethodError, Outcome, Row, params
from workers.methods.maximize import METHOD

T = TypeVar("T")

GRANT = Grant()


def tiny(seed: int = 0, size: tuple[int, int] = (32, 32)) -> FakeNetwork:
    """Two convolutions with ReLU and ReLU6, a mean over positions and ten classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU6(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        )  # fmt: skip
        with torch.no_grad():  # livelier than torch's start, so that every channel is alive
            module[0].weight.mul_(3.0)
            module[2].weight.mul_(2.0)
            module[2].bias.add_(1.0)
            module[6].weight.mul_(3.0)
    return FakeNetwork(module, size, mean=(0.5,) * 3, std=(0.25,) * 3)


def request(preset: str = "lucid", **changes: Any) -> dict[str, Any]:
    """A resolved request as JSON: a preset at 32 px and 4 steps, one channel."""
    filled = {name: PRESETS[preset][name] for name in FIELDS}
    filled |= {"steps": 4, "size": [32, 32], "seed": 0, "stop_at": None, "start": "noise", "precision": "exact"}
    filled |= {"preprocess": None, "layer": None, "channels": None, "objective": [channel(0)]}
    return filled | OPTIMIZERS[changes.get("optimizer", filled["optimizer"])] | changes


def channel(index: int, layer: str = "3", reduce: str = "mean") -> dict[str, Any]:
    """The objective of a channel."""
    return {"layer": layer, "channel": index, "reduce": reduce}


def started(network: Any, asked: dict[str, Any], images: Sequence[Tensor] = ()) -> tuple[Row, list[Any]]:
    """A job's row and its states."""
    row = Row(params(asked), images)
    return row, list(at_once(METHOD.start(network, row, GRANT)))


def step(network: Any, states: Sequence[Any]) -> list[MethodError | None]:
    """One step of one tile."""
    return METHOD.step(network, states, GRANT)


def climb(network: Any, states: Sequence[Any], rows: int = 1) -> None:
    """Step all states to their end in tiles of at most `rows`."""
    while todo := [state for state in states if not METHOD.done(state)]:
        for first in range(0, len(todo), rows):
            assert not any(step(network, todo[first : first + rows]))


def finished(network: Any, row: Row, states: Sequence[Any]) -> Outcome:
    """A job's outcome."""
    made = at_once(METHOD.finish(network, row, states, GRANT))
    assert isinstance(made, Outcome)
    return made


def at_once(made: Generator[Any, None, T]) -> T:
    """What is made, with all its slices behind each other."""
    while True:
        try:
            next(made)
        except StopIteration as stop:
            value: T = stop.value
            return value


def outcome(network: Any, asked: dict[str, Any], images: Sequence[Tensor] = (), rows: int = 1) -> Outcome:
    """A whole job."""
    row, states = started(network, asked, images)
    climb(network, states, rows)
    return finished(network, row, states)
