"""What an ascent climbs: a channel, unit, layer, direction or class, and weighted sums of these.

An objective is read from one row's activations, C×H×W or C, and is a number that is to become large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.contract import MethodError
from workers.passes.class_targets import OTHER_SIDE, ClassTarget, RegionOfPictures
from workers.passes.scores import OUTPUT

LEAST_COSINE = 0.1
"""Lucid, `objectives.py`: a direction's cosine is floored, so that there is a slope where the two disagree."""
_EPSILON = 1e-4


@dataclass(frozen=True)
class Term:
    """One simple objective.

    Attributes:
        kind: class, channel, unit, layer or direction.
        layer: canonical name; OUTPUT for a class.
        channel: the class, or the channel.
        reduce: mean, max or center, of a channel's map.
        place: (y, x) of a unit.
        direction: a vector with one number for each channel.
        cosine_power: p in dot · max(0.1, cos)^p.
        other: of a class, whether its other side is meant.
        over: of a class of a network that answers in maps, where it counts; None is everywhere.
    """

    kind: str
    layer: str
    channel: int | None = None
    reduce: str = "mean"
    place: tuple[int, int] | None = None
    direction: tuple[float, ...] = ()
    cosine_power: float = 0.0
    other: bool = False
    over: RegionOfPictures | None = None

    def value(self, activation: Tensor) -> Tensor:
        """Its value, 0-d, float32 at least.

        Args:
            activation: of one row at `layer`, C×H×W or C (then each channel is a map of one position).

        Raises:
            MethodError: the layer has no such channel, position or dimension at this input size.
        """
        maps = activation if activation.dim() == 3 else activation.view(-1, 1, 1)
        if self.kind == "layer":
            return widened(maps).square().mean()
        if self.kind == "direction":
            return self._along(widened(maps))
        assert self.channel is not None
        if self.channel >= maps.shape[0]:
            raise MethodError("channel-out-of-range", f"{self.layer or 'the output'} has {maps.shape[0]} channels")
        if self.kind == "class":
            return self.class_target(activation).value(widened(activation))
        plane = widened(maps[self.channel])
        if self.place is not None:
            return self._at(plane, *self.place)
        if self.reduce == "max":
            return plane.max()
        if self.reduce == "center":
            return plane[plane.shape[0] // 2, plane.shape[1] // 2]
        return plane.mean()

    def class_target(self, logits: Tensor) -> ClassTarget:
        """The class as it counts in one picture's logits, classes or classes×h×w."""
        assert self.channel is not None
        if logits.dim() == 1 or self.over is None:
            return ClassTarget(self.channel, self.other)
        return self.over.target(self.channel, self.other, logits)

    def _at(self, plane: Tensor, y: int, x: int) -> Tensor:
        height, width = plane.shape
        if y >= height or x >= width:
            raise MethodError(
                "invalid-request",
                f"At this size the map of {self.layer} is {height}×{width}; there is no position ({y}, {x}).",
            )
        return plane[y, x]

    def _along(self, maps: Tensor) -> Tensor:
        """Lucid's `direction`: mean over positions of dot · max(0.1, cosine)^p."""
        vector = torch.tensor(self.direction, device=maps.device, dtype=maps.dtype)
        if len(vector) != maps.shape[0]:
            raise MethodError(
                "invalid-request",
                f"{self.layer} has {maps.shape[0]} channels and the direction {len(vector)} numbers.",
            )
        dot: Tensor = (maps * vector.view(-1, 1, 1)).sum(0)
        if self.cosine_power == 0:
            return dot.mean()
        length = maps.square().sum(0).clamp_min(_EPSILON**2).sqrt()
        cosine = dot / ((_EPSILON + length) * (_EPSILON + vector.norm()))
        weight: Tensor = cosine.clamp_min(LEAST_COSINE) ** self.cosine_power
        return (dot * weight).mean()


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms; a negative weight minimizes."""

    terms: tuple[tuple[float, Term], ...]
    layers: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(sorted({term.layer for _, term in self.terms})))

    def value(self, activations: Mapping[str, Tensor]) -> Tensor:
        """Its value, 0-d, float32 at least, from one row's activations by layer."""
        total: Tensor | None = None
        for weight, term in self.terms:
            share = term.value(activations[term.layer])
            share = share if weight == 1.0 else weight * share
            total = share if total is None else total + share
        assert total is not None
        return total

    @property
    def channels(self) -> frozenset[int] | None:
        """The channels that it reads of its one layer, None where it reads all, or several layers."""
        read: set[int | None] = {None} if len(self.layers) > 1 else set()
        read |= {term.channel if term.kind in ("channel", "unit") else None for _, term in self.terms}
        return None if None in read else frozenset(channel for channel in read if channel is not None)

    @property
    def target(self) -> Term:
        """The term that the picture is checked by: the first with a channel, else the first."""
        return next((term for _, term in self.terms if term.channel is not None), self.terms[0][1])


def read_channels(objectives: Sequence[Objective]) -> set[int]:
    """The channels that anybody reads, where all read the same layer and nobody all of it; else none."""
    if len({objective.layers for objective in objectives}) > 1:
        return set()
    apart = [objective.channels for objective in objectives]
    return set() if None in apart else {channel for own in apart for channel in own or ()}


def widened(values: Tensor) -> Tensor:
    """float32 for narrower types; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


Regions = Callable[[Any], RegionOfPictures | None]
"""A class objective's region, as in a request → where it counts in pictures."""


def read_objective(objective: Any, regions: Regions = lambda region: None) -> Objective:
    """The objective of a resolved request, in the words of the HTTP contract."""
    terms = getattr(objective, "sum", None)
    if terms is not None:
        return Objective(tuple((float(term.weight), _read_term(term.of, regions)) for term in terms))
    return Objective(((1.0, _read_term(objective, regions)),))


def _read_term(term: Any, regions: Regions) -> Term:
    class_index = getattr(term, "class", None)
    if class_index is not None:
        other = str(class_index).startswith(OTHER_SIDE)
        over = regions(getattr(term, "region", None))
        return Term("class", OUTPUT, abs(int(class_index)), other=other, over=over)
    unit = getattr(term, "unit", None)
    if unit is not None:
        place = None if unit.y is None else (int(unit.y), int(unit.x))
        return Term("unit", unit.layer, int(unit.channel), place=place)
    direction = getattr(term, "direction", None)
    if direction is not None:
        return Term(
            "direction", term.layer, direction=tuple(map(float, direction)), cosine_power=float(term.cosine_power)
        )
    if getattr(term, "channel", None) is not None:
        return Term("channel", term.layer, int(term.channel), reduce=term.reduce)
    return Term("layer", term.layer)
