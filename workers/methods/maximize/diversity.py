"""Rows of one job pushed apart: what each of them compares itself with.

Every row looks at the others as they were one step before its own present one. Which rows share a tile, and in what
order they are stepped, therefore changes nothing, as long as no row steps ahead of another, which `is_ahead` tells.

Source: Lucid, `diversity` (Olah et al. 2017); there the rows of a batch see each other's present step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

KEPT_STEPS = 2
"""Another row may have made the step already that this one is about to make."""


class Stepped(Protocol):
    """Of a row, what others want to know.

    Attributes:
        step: how many it has made.
        grams: Gram matrices by step, the last ones.
        stopped_by: why it goes no further; None where it does.
    """

    step: int
    grams: dict[int, Tensor]
    stopped_by: str | None


def gram(activation: Tensor) -> Tensor:
    """The normalised Gram matrix of one row's channels over positions, flat (C²)."""
    maps = activation.float().flatten(1) if activation.dim() > 1 else activation.float()[:, None]
    product = (maps @ maps.T).flatten()
    return product / product.square().sum().clamp_min(1e-20).sqrt()


def likeness(own: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Mean inner product of a row's Gram matrix with those of other rows, which stand still: 0 to 1."""
    return torch.stack([(own * other).sum() for other in others]).mean()


def earlier_grams(row: Stepped, others: Sequence[Stepped]) -> list[Tensor]:
    """Each other row's Gram matrix of the step before this row's present one, or of its last; none before the first."""
    known = [[step for step in other.grams if step < row.step] for other in others]
    return [other.grams[max(steps)] for other, steps in zip(others, known, strict=True) if steps]


def kept_grams(row: Stepped, present: Tensor) -> dict[int, Tensor]:
    """A row's Gram matrices with that of the step it has just made."""
    last = {step: matrix for step, matrix in row.grams.items() if step > row.step - KEPT_STEPS}
    return {**last, row.step: present}


def is_ahead(row: Stepped, family: Sequence[Stepped]) -> bool:
    """Whether another row, still on its way, has made fewer steps: this one would look at what is not there yet."""
    return any(other.step < row.step and other.stopped_by is None for other in family)


def save_grams(grams: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Gram matrices as CPU tensors: `gram_steps` (n) and `grams` (n×C²), n up to KEPT_STEPS."""
    steps = sorted(grams)
    matrices = torch.stack([grams[step].cpu() for step in steps]) if steps else torch.zeros(0, 0)
    return {"gram_steps": torch.tensor(steps, dtype=torch.int64), "grams": matrices}


def load_grams(saved: Mapping[str, Tensor], device: torch.device) -> dict[int, Tensor]:
    """What `save_grams` was given."""
    pairs = zip(saved["gram_steps"].tolist(), saved["grams"], strict=True)
    return {step: matrix.to(device) for step, matrix in pairs if step >= 0}  # older ones filled up with −1
