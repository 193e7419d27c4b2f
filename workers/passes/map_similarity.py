"""How alike two maps are: rank correlation and structural similarity, as Adebayo 2018 (section 3) measures it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW = 7
_K1, _K2 = 0.01, 0.03


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's: Pearson's correlation of the ranks, equal values sharing their mean rank; NaN for a constant map."""
    first, second = (_ranks(each.flatten()) for each in (one, other))
    first, second = first - first.mean(), second - second.mean()
    size = first.norm() * second.norm()
    return float((first @ second) / size) if size > 0 else float("nan")


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks from 0, float64."""
    groups: Tensor
    counts: Tensor
    _, groups, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    middles: Tensor = ends - (counts.double() + 1) / 2
    return middles[groups]


def ssim(one: Tensor, other: Tensor) -> float:
    """Structural similarity (Wang 2004, equation 13) of two maps H×W, each scaled to [0, 1]; 1 for equal ones.

    The window is a square of 7 pixels with equal weights, covariances are those of samples, and means are over the
    places where the window lies within the map, as scikit-image does by default. A constant map becomes zeros.
    """
    first, second = (_scaled(each.double())[None, None] for each in (one, other))
    window = min(_WINDOW, *one.shape)
    samples = window * window

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, stride=1)

    unbiased = samples / (samples - 1) if samples > 1 else 1.0
    low, high = mean(first), mean(second)
    spread = unbiased * (mean(first * first) - low * low)
    other_spread = unbiased * (mean(second * second) - high * high)
    shared = unbiased * (mean(first * second) - low * high)
    c1, c2 = _K1**2, _K2**2
    found = ((2 * low * high + c1) * (2 * shared + c2)) / ((low**2 + high**2 + c1) * (spread + other_spread + c2))
    return float(found.mean())


def _scaled(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
