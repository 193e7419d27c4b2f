"""Quadrature and baselines of integrated gradients. Imports torch and numpy only."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Points and weights on [0, 1] that integrate polynomials up to degree 2·steps − 1 exactly."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return [float(point) for point in (points + 1) / 2], [float(weight) for weight in weights / 2]


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """N×C×H×W images under a Gaussian of `sigma` pixels, cut at three sigmas; borders reflected."""
    reach = min(max(round(3 * sigma), 1), min(pixels.shape[2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    planes = pixels.shape[1]
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(planes, 1, -1, 1), groups=planes)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(planes, 1, 1, -1), groups=planes)
