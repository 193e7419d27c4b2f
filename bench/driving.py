"""A method's generator driven to its end, as the engine does between its other work."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import torch

from workers.contract import Grant, MethodError, OneShotMethod, Outcome, Row

T = TypeVar("T")


def returned(work: Generator[Any, None, T]) -> T:
    """What a generator returns; what it yields on the way is dropped."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            value: T = stop.value
            return value


def outcome(method: OneShotMethod[Any], network: Any, row: Row[Any], grant: Grant | None = None) -> Outcome:
    """One row's outcome.

    Raises:
        MethodError: the row's own.
    """
    found = returned(method.run(network, [row], grant or Grant()))[0]
    if isinstance(found, MethodError):
        raise found
    return found


def noise_picture() -> torch.Tensor:
    """An upload whose content does not matter: uint8 224×224×3, the same each time."""
    return (torch.rand(224, 224, 3, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
