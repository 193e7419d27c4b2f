"""Throw-away networks for tests of the engine: a small multilayer perceptron under any of a few names."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from workers.contract import Layer, MethodError

CODE = "c0de"


def code_digest() -> str:
    return CODE


def libraries() -> dict[str, str]:
    return {"nothing": "1.0"}


class Small:
    """Sixteen numbers in, sixteen out."""

    def __init__(self, model: str) -> None:
        torch.manual_seed(3)
        self.id = model
        self.module = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 16)).eval().requires_grad_(False)
        self.layers = {"0": Layer("0", "Linear", 0, (64,)), "2": Layer("2", "Linear", 2, (16,))}
        self.input_size = (4, 4)
        self.weights_sha256 = "5ha256"
        self.random = False

    def notes(self, precision: str, *, answered: bool = False) -> list[str]:
        """Nothing to say."""
        return []


class Networks:
    """`small` and `other` load at once, `slow` in a second, `missing` never."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = SimpleNamespace(**arguments)
        self._held: dict[str, Small] = {}
        self._lock = threading.Lock()

    def catalogue(self) -> list[dict[str, Any]]:
        return [
            {"id": name, "title": name, "source": "test", "weights": "random", "default": name == "small"}
            for name in ("small", "other", "slow", "missing")
        ]

    def card(self, model: str) -> dict[str, Any]:
        if model == "missing":
            raise MethodError("weights-unavailable", "There is no such network.")
        size = (4, 4)
        return {
            "id": model, "title": model, "source": "test", "weights": "random", "entry_digest": "d", "parameters": 1,
            "preprocess": {
                "size": size, "resize": size, "mean": (0, 0, 0), "std": (1, 1, 1), "resizable": False,
            },
        }  # fmt: skip

    def held(self, model: str) -> Small | None:
        return self._held.get(model)

    def get(self, model: str) -> Small:
        if model == "missing":
            raise MethodError("weights-unavailable", "There is no such network.")
        with self._lock:
            if model == "slow" and model not in self._held:
                time.sleep(1.0)
            return self._held.setdefault(model, Small(model))

    def environment(self) -> str:
        return "test environment"
