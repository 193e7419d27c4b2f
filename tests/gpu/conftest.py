"""A CUDA device for the checks that `tests/workers/test_devices.py` runs on a pretended one.

Needs torch, torchvision, timm, numpy, Pillow and pytest; no service, no queue, no compiler.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from tests.workers.device_checks import Closeness
from workers.engine.environment import prepare_process
from workers.engine.process import choose_arithmetic
from workers.passes import replay
from workers.passes.replay import Function


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU, set up as an engine sets it up."""
    prepare_process()
    choose_arithmetic()
    return torch.device("cuda")


@pytest.fixture
def closeness() -> Closeness:
    """float32 sums in another order; in an ascent Adam makes a whole step of a gradient's last bit."""
    return Closeness(once=2e-3, climbed=0.05, flips=0.1)


@pytest.fixture
def recorded(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of steps recorded as CUDA graphs, which are kept however long they take."""
    plain = replay.MAKERS["cuda"]
    shapes: list[tuple[int, ...]] = []

    def record(function: Function, inputs: Tensor) -> tuple[Function, int]:
        made = plain.record(function, inputs)
        shapes.append(tuple(inputs.shape))
        return made

    monkeypatch.setitem(replay.MAKERS, "cuda", dataclasses.replace(plain, record=record))
    monkeypatch.setattr(replay, "WORTH", float("inf"))
    monkeypatch.setattr(replay, "LONGEST_S", float("inf"))
    return shapes
