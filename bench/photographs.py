"""Crops of the photographs that ship with scikit-image and scikit-learn.

About eight independent colour photographs come with Python; crops of them stand in for an image set.
"""

from __future__ import annotations

import numpy as np
import skimage.data
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry")


def photographs() -> list[Tensor]:
    """The photographs, uint8 H×W×3 RGB."""
    found = [np.asarray(getattr(skimage.data, name)()) for name in NAMES]
    found += [np.asarray(picture) for picture in load_sample_images().images]
    return [torch.from_numpy(picture[..., :3].copy()) for picture in found]


def crops(count: int, seed: int = 0) -> list[Tensor]:
    """Square crops, each photograph as often as the others, of sides between a third and all of the shorter side."""
    generator = torch.Generator().manual_seed(seed)
    wholes, found = photographs(), []
    for turn in range(count):
        whole = wholes[turn % len(wholes)]
        height, width = whole.shape[:2]
        shorter = min(height, width)
        share, down, across = torch.rand(3, generator=generator).tolist()
        side = round(shorter * (1 / 3 + share * 2 / 3))
        top, left = round(down * (height - side)), round(across * (width - side))
        found.append(whole[top : top + side, left : left + side].contiguous())
    return found
