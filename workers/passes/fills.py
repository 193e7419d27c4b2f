"""What stands for a pixel that is taken away: black, the data set's mean colour, or the image blurred."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.contract import Network

if TYPE_CHECKING:
    from convscope.protocol.requests import Preprocess

BLUR_SHARE = 0.1
"""Standard deviation of the blur over the image's shorter side."""


def fill_of(kind: str, x: Tensor, network: Network, preprocess: Preprocess | None) -> Tensor:
    """The whole fill of one prepared image, normalised as the request's `preprocess` says, 1×C×H×W.

    Args:
        kind: black: zero in [0, 1]; mean: the data set's mean colour; blur: the image under a wide Gaussian.
        x: 1×C×H×W.
    """
    if kind == "blur":
        return blurred(x, BLUR_SHARE * min(x.shape[2:]))
    black = torch.zeros_like(x)
    pixels = network.normalization().undo(black) if kind == "mean" else black
    return network.normalization(preprocess).apply(pixels)


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
