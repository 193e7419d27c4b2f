"""Recipes for tests: a preset's numbers at a small size."""

from __future__ import annotations

from typing import Any

from convscope.protocol.operations.presets import FIELDS, OPTIMIZERS, PRESETS
from workers.methods.maximize.recipes import Recipe


def recipe(preset: str, size: tuple[int, int] = (16, 16), **changes: Any) -> Recipe:
    """The preset's recipe for a network with mean 0.5 and standard deviation 0.25."""
    numbers = {name: PRESETS[preset][name] for name in FIELDS if name != "steps"}
    numbers |= OPTIMIZERS[changes.get("optimizer", numbers["optimizer"])]
    numbers.pop("float_pictures")
    numbers |= {"input_size": size, "mean": (0.5,) * 3, "std": (0.25,) * 3, "planes": 3}
    return Recipe(**(numbers | {"size": size} | changes))
