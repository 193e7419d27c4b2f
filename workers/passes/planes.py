"""Inputs of other than three planes, and the pictures that stand for them."""

from __future__ import annotations

from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), those that Pillow uses."""


def as_colours(planes: Tensor) -> Tensor:
    """What is shown of an input's planes: one or two as the grey of the first, more as the first three in colour.

    Args:
        planes: …×C×H×W.

    Returns:
        …×3×H×W.
    """
    count = planes.shape[-3]
    if count >= 3:
        return planes[..., :3, :, :]
    return planes[..., :1, :, :].expand(*planes.shape[:-3], 3, *planes.shape[-2:])


def as_grey(colours: Tensor) -> Tensor:
    """Red, green and blue, …×3×H×W, as one plane of grey, …×1×H×W; differentiable."""
    weights = colours.new_tensor(LUMA).view(3, 1, 1)
    return (colours * weights).sum(dim=-3, keepdim=True)
