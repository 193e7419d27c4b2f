"""The points at which saliency differentiates: the image, noisy copies of it, or places on a line from a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from workers.geometry import Transform
from workers.methods.saliency.targets import Target
from workers.passes.rules import PathReport

if TYPE_CHECKING:
    from convscope.protocol.operations.saliency import SaliencyRequest

_NOISY = frozenset({"smoothgrad", "vargrad"})
"""Methods whose points are noisy copies of the image."""


@dataclass
class Item:
    """One image of one row on its way: its input, target, and sums over the points seen so far."""

    row: int
    request: SaliencyRequest
    index: int
    x: Tensor  # 1×C×H×W
    transform: Transform
    target: Target
    baseline: Tensor | None = None
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    value: float = 0.0
    probability: float | None = None
    baseline_value: float = 0.0
    steps: int = 0
    report: PathReport | None = None


@dataclass(frozen=True)
class Point:
    """One input to differentiate at, and its weight in the item's sum."""

    item: Item
    position: float  # on the path from the baseline, or the number of the noise sample
    weight: float


def at_image(item: Item) -> bool:
    """Whether the item's one point is the image itself."""
    return item.baseline is None and item.request.method not in _NOISY


def count_points(item: Item) -> int:
    """How many points the item has."""
    if item.baseline is not None:
        return item.steps
    return int(item.request.samples) if item.request.method in _NOISY else 1


def points_of(items: Sequence[Item]) -> Iterator[Point]:
    """Every point of every item."""
    for item in items:
        count = count_points(item)
        if item.baseline is not None:
            for position, weight in zip(*gauss_legendre(count), strict=True):
                yield Point(item, position, weight)
        else:
            for number in range(count):
                yield Point(item, float(number), 1.0 / count)


def input_at(point: Point) -> Tensor:
    """The input of a point, 1×C×H×W."""
    item = point.item
    if item.baseline is not None:
        return item.baseline + point.position * (item.x - item.baseline)
    if at_image(item):
        return item.x
    # A generator of its own for each sample: a sample never depends on how many others there are.
    seed = (int(item.request.seed) * 1_000_003 + item.index) * 1_000_003 + int(point.position)
    generator = torch.Generator().manual_seed(seed % 2**63)
    noise = torch.randn(item.x.shape, generator=generator).to(item.x)
    deviation = float(item.request.noise) * (item.x.max() - item.x.min())
    return item.x + deviation * noise


def gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Points and weights on [0, 1] that integrate polynomials up to degree 2·steps − 1 exactly."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return [float(point) for point in (points + 1) / 2], [float(weight) for weight in weights / 2]
