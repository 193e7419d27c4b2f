"""Amplitudes of photographs by frequency: what `maco` keeps fixed.

The constants are our own fit (bench/fit_spectrum.py) to the seven photographs that scikit-image and scikit-learn
carry, 40 crops of 256 px each, in logit space: a radial power law for each decorrelated colour, and the colours'
covariance. A file of amplitudes (`.npy`, 3×H×(W//2+1)) in CONVSCOPE_MACO_SPECTRUM replaces the power law.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SLOPES = (1.317, 1.365, 1.118)
"""Amplitude ∝ frequency^−slope of the three decorrelated colours, 4 to 64 cycles over 256 px."""

COLOR_MEAN = (-0.1354, -0.6081, -0.9009)
"""Mean red, green and blue, logits."""

COLOR_MATRIX = ((1.5631, -0.9193, -0.0691), (1.3706, 0.2777, 0.265), (1.402, 0.7535, -0.182))
"""Decorrelated channels of unit variance → red, green and blue logits; a square root of their covariance."""

SPECTRUM_FILE = "CONVSCOPE_MACO_SPECTRUM"


def mirror(size: int) -> Tensor:
    """Index of frequency −k for each frequency k of an FFT of that length."""
    return (-torch.arange(size)) % size


def self_paired_columns(width: int) -> list[int]:
    """Columns of a real FFT of that width in which k and −k are both stored: the first, and the last of an even one."""
    return [0, width // 2] if width % 2 == 0 else [0]


def amplitudes(height: int, width: int) -> Tensor:
    """Amplitudes 3×H×(W//2+1), such that the picture's decorrelated channels have unit variance; 0 at frequency 0."""
    path = os.environ.get(SPECTRUM_FILE)
    return _amplitudes(height, width, path or None)


@lru_cache(maxsize=16)
def _amplitudes(height: int, width: int, path: str | None) -> Tensor:
    shape = power_law(height, width) if path is None else from_file(Path(path), height, width)
    # Parseval: every column but the self-paired ones stands for two.
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    twice[self_paired_columns(width)] = 1.0
    power = (shape.double().square() * twice).sum((1, 2), keepdim=True)
    return (shape.double() * height * width / power.sqrt()).float()


def power_law(height: int, width: int) -> Tensor:
    """The fitted amplitudes up to a constant, 3×H×(W//2+1), by frequency in cycles a pixel."""
    vertical = torch.fft.fftfreq(height, dtype=torch.float64)
    horizontal = torch.fft.rfftfreq(width, dtype=torch.float64)
    frequency = (vertical[:, None].square() + horizontal[None].square()).sqrt()
    frequency[0, 0] = math.inf
    return torch.stack([frequency ** (-slope) for slope in SLOPES]).float()


def from_file(path: Path, height: int, width: int) -> Tensor:
    """Amplitudes from a file of another size, by frequency, up to a constant; symmetric, and 0 at frequency 0."""
    stored = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
    if stored.dim() != 3 or stored.shape[0] != 3:
        raise ValueError(f"{path} holds {tuple(stored.shape)}, not three planes of amplitudes")
    centred = torch.fft.fftshift(stored.abs(), dim=1)[None]
    resized = F.interpolate(centred, (height, width // 2 + 1), mode="bilinear", align_corners=True)[0]
    shape: Tensor = torch.fft.ifftshift(resized, dim=1).clone()
    for column in self_paired_columns(width):
        shape[:, :, column] = (shape[:, :, column] + shape[:, mirror(height), column]) / 2
    shape[:, 0, 0] = 0.0
    return shape
