"""What must hold on any device, on one that is pretended: a tensor left on the CPU fails here, without a GPU.

`tests/gpu` runs the same checks on a real one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.workers import device_checks
from tests.workers.device_checks import Closeness
from tests.workers.pretended_device import DEVICE, PretendedDevice
from tests.workers.replaying import StaticBuffers
from workers.passes import replay


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    """Pretended, on one thread: the tensors are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with PretendedDevice():
        yield DEVICE
    torch.set_num_threads(before)


@pytest.fixture
def closeness() -> Closeness:
    """The arithmetic is the CPU's."""
    return Closeness(once=1e-4, climbed=1e-4, flips=0.0)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Steps are recorded into buffers that each replay overwrites."""
    buffers = StaticBuffers()
    monkeypatch.setitem(replay.MAKERS, DEVICE.type, buffers.maker())
    return buffers.shapes


class TestMethods(device_checks.Methods):
    pass


class TestExact(device_checks.Exact):
    pass


class TestReplayed(device_checks.Replayed):
    pass


class TestOnTheEngine(device_checks.OnTheEngine):
    pass
