"""What must hold on any device, on a GPU. Run: `python -m pytest tests/gpu -m gpu`."""

from __future__ import annotations

import pytest
import torch

from tests.workers import device_checks

if not torch.cuda.is_available():
    pytest.skip("no CUDA device: torch.cuda.is_available() is False", allow_module_level=True)

pytestmark = pytest.mark.gpu


class TestMethods(device_checks.Methods):
    pass


class TestExact(device_checks.Exact):
    pass


class TestReplayed(device_checks.Replayed):
    pass


class TestOnTheEngine(device_checks.OnTheEngine):
    pass
