"""Which groups of images excite a channel: means by group, and how far one of them stands out.

Source of the selectivity: Morcos et al. 2018, "On the importance of single directions for generalization":
(μ_max − μ_rest) / (μ_max + μ_rest), with the mean of the group that excites a channel most and the mean over the images
of all other groups. It is 0 where all groups excite equally and 1 where one alone does; it means something only where
no mean is below zero, as behind a rectification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST_TOLD = 3


@dataclass
class GroupMeans:
    """Sums of a layer's channels by group, of the strongest unit (or the mean) in each image.

    Attributes:
        names: of the groups, in alphabetical order.
        of: the group of each image, by its place.
        sums: C×G float64, in the images' order, so that an interrupted sweep has the same bits.
        counts: G int64.
    """

    names: list[str]
    of: list[int]
    sums: Tensor
    counts: Tensor

    @classmethod
    def none(cls, channels: int, groups: Sequence[str]) -> GroupMeans:
        """Before the first image."""
        names = sorted(set(groups))
        number = {name: k for k, name in enumerate(names)}
        sums = torch.zeros(channels, len(names), dtype=torch.float64)
        return cls(names, [number[one] for one in groups], sums, torch.zeros(len(names), dtype=torch.int64))

    def add(self, place: int, values: Tensor) -> None:
        """Take in one value of each channel, C float32, of the image at that place."""
        self.sums[:, self.of[place]] += values.double()
        self.counts[self.of[place]] += 1

    def means(self) -> Tensor:
        """C×G float64; every group has an image once all were looked at."""
        return self.sums / self.counts

    def facts(self, channel: int) -> dict[str, Any]:
        """The groups that excite a channel most, and its selectivity; None where a mean is below zero, or all are 0."""
        means = self.means()[channel]
        order = means.sort(descending=True, stable=True).indices[:MOST_TOLD].tolist()
        told = [{"group": self.names[k], "mean": float(means[k])} for k in order]
        return {"groups": told, "selectivity": self._selectivity(channel, order[0])}

    def _selectivity(self, channel: int, first: int) -> float | None:
        means = self.means()[channel]
        others = int(self.counts.sum() - self.counts[first])
        if others == 0 or float(means.min()) < 0 or float(means[first]) == 0:
            return None
        rest = float(self.sums[channel].sum() - self.sums[channel, first]) / others
        return float((means[first] - rest) / (means[first] + rest))
