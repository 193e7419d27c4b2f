"""What a sweep keeps of each channel: its strongest units and how its values are spread, in memory of one size.

Strongest units are merged to the same bits in whatever order parts of the set come; spreads are added image by image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NOBODY = -1
"""Place of an image where a channel has fewer than k units."""

_MANTISSA_BITS, _LEAST_EXPONENT, _MOST_EXPONENT = 4, -16, 16
_PER_SIGN = (_MOST_EXPONENT - _LEAST_EXPONENT) << _MANTISSA_BITS
BINS = 2 * _PER_SIGN + 1
"""Bins of a spread: so many for negative numbers, one for zero and what is nearly zero, so many for positive ones."""


@dataclass
class Strongest:
    """The k strongest units of each of C channels, strongest first; ties by image, then by position.

    Attributes:
        values: C×k float32, −inf where there are fewer.
        images: C×k int64, places in the set, NOBODY where there are fewer.
        positions: C×k int64, row-major in the map.
    """

    values: Tensor
    images: Tensor
    positions: Tensor

    @classmethod
    def none(cls, channels: int, k: int) -> Strongest:
        """Before the first image."""
        nobody = torch.full((channels, k), NOBODY, dtype=torch.int64)
        return cls(torch.full((channels, k), -torch.inf), nobody, nobody.clone())

    @classmethod
    def of_image(cls, maps: Tensor, image: int, most: int) -> Strongest:
        """The `most` strongest units of each channel of one image.

        Args:
            maps: C×P, a row a channel, float32.
            image: its place in the set.
        """
        most = min(most, maps.shape[1])
        if most == 1:
            values, positions = maps.max(dim=1, keepdim=True)  # of equal values the first
        else:
            values, positions = maps.sort(dim=1, descending=True, stable=True)
            values, positions = values[:, :most], positions[:, :most]
        return cls(values.cpu(), torch.full(values.shape, image, dtype=torch.int64), positions.cpu())

    def merge(self, other: Strongest) -> None:
        """Take in what another part found; k stays."""
        k = self.values.shape[1]
        news = (other.values[:, 0] >= self.values[:, -1]).nonzero()[:, 0]  # the others' best is below all that is kept
        if not len(news):
            return
        parts = [
            torch.cat([mine[news], theirs[news]], dim=1)
            for mine, theirs in (
                (self.positions, other.positions),
                (self.images, other.images),
                (self.values, other.values),
            )
        ]
        positions, images, values = parts
        # Sorted by the last key first: every sort is stable.
        for key, descending in ((positions, False), (images, False), (values, True)):
            order = key.sort(dim=1, descending=descending, stable=True).indices
            for each in (positions, images, values):
                each.copy_(each.gather(1, order))
        self.positions[news], self.images[news], self.values[news] = positions[:, :k], images[:, :k], values[:, :k]


@dataclass
class Spread:
    """How the values of each of C channels are spread over the images.

    Attributes:
        counts: C×BINS int32. A bin is a power of two cut into sixteen parts.
        sums: C float64.
        active: C int64, images with a value above zero.
        most: C float32, the largest value.
        images: how many there were.
    """

    counts: Tensor
    sums: Tensor
    active: Tensor
    most: Tensor
    images: int

    @classmethod
    def none(cls, channels: int) -> Spread:
        """Before the first image."""
        return cls(
            torch.zeros(channels, BINS, dtype=torch.int32),
            torch.zeros(channels, dtype=torch.float64),
            torch.zeros(channels, dtype=torch.int64),
            torch.full((channels,), -torch.inf),
            0,
        )

    def add(self, values: Tensor) -> None:
        """Take in one value of each channel: C float32, finite, on the CPU."""
        self.counts.scatter_add_(1, bin_of(values)[:, None], torch.ones(len(values), 1, dtype=torch.int32))
        self.sums += values.double()
        self.active += values > 0
        self.most = torch.maximum(self.most, values)
        self.images += 1

    def quantiles(self, shares: Mapping[str, float]) -> list[dict[str, float]]:
        """For each channel the value below which that share of the images lies, to a part in sixteen, by name."""
        below = self.counts.cumsum(dim=1)
        found: list[dict[str, float]] = [{} for _ in range(len(below))]
        for name, share in shares.items():
            wanted = max(1, round(share * self.images))
            bins = (below < wanted).sum(dim=1)
            for channel, number in enumerate(bins.tolist()):
                value = float(self.most[channel]) if share >= 1 else min(middle_of(number), float(self.most[channel]))
                found[channel][name] = value
        return found


def bin_of(values: Tensor) -> Tensor:
    """The bin of each float32: its sign, exponent and first four bits of the mantissa; int64."""
    bits = values.contiguous().view(torch.int32).to(torch.int64)
    magnitude = ((bits & 0x7FFFFFFF) >> (23 - _MANTISSA_BITS)) - ((127 + _LEAST_EXPONENT) << _MANTISSA_BITS)
    magnitude = magnitude.clamp(-1, _PER_SIGN - 1) + 1  # 0: too small to tell from zero
    return torch.where(bits < 0, _PER_SIGN - magnitude, _PER_SIGN + magnitude)


def middle_of(number: int) -> float:
    """A number in the middle of a bin."""
    magnitude = abs(number - _PER_SIGN)
    if magnitude == 0:
        return 0.0
    exponent, part = divmod(magnitude - 1, 1 << _MANTISSA_BITS)
    size = (1 + (part + 0.5) / (1 << _MANTISSA_BITS)) * 2.0 ** (exponent + _LEAST_EXPONENT)
    return float(size if number > _PER_SIGN else -size)
