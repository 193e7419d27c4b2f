"""Several pictures as one, for previews.

Import rule: torch only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def montage(pictures: Sequence[Tensor], side: int) -> Tensor:
    """Pictures of one size (uint8 H×W×3) in a nearly square grid, scaled down to fit into `side` pixels."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    height, width = pictures[0].shape[:2]
    shrink = min(1.0, side / (rows * height), side / (columns * width))
    stack = torch.stack(list(pictures)).permute(0, 3, 1, 2).float()
    if shrink < 1.0:
        height, width = max(1, int(height * shrink)), max(1, int(width * shrink))
        stack = F.interpolate(stack, (height, width), mode="bilinear", antialias=True, align_corners=False)
    grid = torch.zeros(rows * columns, 3, height, width)
    grid[: len(stack)] = stack
    whole = grid.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, -1, 3)
    return whole.clamp(0, 255).round().to(torch.uint8)
