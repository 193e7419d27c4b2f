"""How pixels become the numbers that a network is fed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Pixels in [0, 1] → a network's input, plane by plane: (level · pixels − mean) / std.

    Attributes:
        mean, std: one for each plane, in the unit whose white is `level`.
        level: what white is before the mean is subtracted: 1, or 255 for networks that are fed bytes.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    level: float = 1.0

    def apply(self, images: Tensor) -> Tensor:
        """Images in [0, 1], N×C×h×w → input; differentiable."""
        mean, std = (self._planes(numbers, images) for numbers in (self.mean, self.std))
        return ((images if self.level == 1.0 else images * self.level) - mean) / std

    def undo(self, inputs: Tensor) -> Tensor:
        """Input, N×C×h×w → images in [0, 1]."""
        mean, std = (self._planes(numbers, inputs) for numbers in (self.mean, self.std))
        return (inputs * std + mean) / self.level

    def _planes(self, numbers: tuple[float, ...], like: Tensor) -> Tensor:
        table = torch.tensor(numbers[: like.shape[1]], dtype=like.dtype)
        return table.to(like.device, non_blocking=True).view(1, -1, 1, 1)
