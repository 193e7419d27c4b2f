"""Noisy linear imputation: what stands for missing pixels in ROAD.

Source: Rong 2022, section 4.2, and its code: a missing pixel is the weighted mean of its neighbours, those beside it
with 1/6, those across with 1/12, weights beyond the border shared out; all missing pixels together are one linear
system. Its matrix is symmetric and positive definite. The paper's code factorises it, a sparse matrix a mask; here
conjugate gradients on the grid solve it, on any device, preconditioned by squares of 2, 4, 8, … pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE = 0.01
"""Standard deviation of what is added to imputed values, in normalised input, as pytorch-grad-cam does."""
_TOLERANCE = 1e-4
"""Largest preconditioned residual, relative to the right side's."""
_MOST_ROUNDS = 1000
_LOOK = 5
"""Rounds between two looks at the residual."""


def impute(image: Tensor, missing: Tensor) -> Tensor:
    """An image with each of K sets of pixels replaced by the solution, without noise: K×C×H×W float32.

    Args:
        image: 1×C×H×W.
        missing: K×H×W bool.
    """
    hole = missing[:, None].to(image.dtype)
    known = image * (1 - hole)
    if not bool((hole < 1).any()):
        return torch.zeros_like(known)
    diagonal = _neighbours(torch.ones_like(hole))
    right = _neighbours(known) * hole
    levels = _levels(hole, diagonal)
    guess = _fill_coarse(known, 1 - hole) * hole
    return known + _conjugate_gradients(right, guess, hole, diagonal, levels) * hole


def _neighbours(values: Tensor) -> Tensor:
    """The weighted sum over each pixel's neighbours within the image: [1 2 1]ᵀ[1 2 1]/12 without its middle."""
    padded = F.pad(values, (1, 1, 1, 1))
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:] - 4 * values) / 12


@dataclass
class _Level:
    """Squares of `side` pixels whose missing pixels move as one; `inverse` is of the diagonal of their matrix."""

    side: int
    inverse: Tensor


def _levels(hole: Tensor, diagonal: Tensor) -> list[_Level]:
    found = []
    side, shorter = 2, min(hole.shape[2:])
    while side < 2 * shorter:
        squares = _squares(hole, side)
        count, rows, columns = squares.shape[0], squares.shape[2], squares.shape[4]
        apart = squares.permute(0, 2, 4, 1, 3, 5).reshape(-1, 1, side, side)
        within = (_neighbours(apart) * apart).sum(dim=(1, 2, 3)).view(count, 1, rows, columns)
        energy = _sum_squares(diagonal * hole, side) - within
        found.append(_Level(side, torch.where(energy > _NOTHING, 1 / energy.clamp_min(_NOTHING), 0.0)))
        side *= 2
    return found


_NOTHING = 1e-6


def _squares(values: Tensor, side: int) -> Tensor:
    """K×1×H×W cut into squares, zeros beyond the border: K×1×rows×side×columns×side."""
    padded = _padded(values, side)
    count, planes, height, width = padded.shape
    return padded.view(count, planes, height // side, side, width // side, side)


def _padded(values: Tensor, side: int) -> Tensor:
    height, width = values.shape[2:]
    return F.pad(values, (0, -width % side, 0, -height % side))


def _sum_squares(values: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(_padded(values, side), side) * side**2


def _precondition(residual: Tensor, hole: Tensor, diagonal: Tensor, levels: list[_Level]) -> Tensor:
    """An approximate solution: every pixel by itself, and every square by itself, added up."""
    height, width = residual.shape[2:]
    coarse: Tensor | None = None
    sums = []
    below, side = residual, 1
    for level in levels:  # sums of sums
        below, side = _sum_squares(below, level.side // side), level.side
        sums.append(below * level.inverse)
    for values in reversed(sums):
        if coarse is not None:
            values = values + _enlarged(coarse, values.shape[2], values.shape[3])
        coarse = values
    found = residual / diagonal
    return found if coarse is None else found + _enlarged(coarse, height, width) * hole


def _enlarged(values: Tensor, height: int, width: int) -> Tensor:
    return values.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)[:, :, :height, :width]


def _fill_coarse(known: Tensor, weight: Tensor) -> Tensor:
    """A smooth guess: known pixels averaged over ever larger squares until every square has some."""
    height, width = known.shape[2:]
    if min(height, width) <= 1 or bool((weight > 0).all()):
        whole = known.sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True).clamp_min(_NOTHING)
        return torch.where(weight > 0, known / weight.clamp_min(_NOTHING), whole)
    size = ((height + 1) // 2, (width + 1) // 2)
    coarse = _fill_coarse(F.adaptive_avg_pool2d(known, size), F.adaptive_avg_pool2d(weight, size))
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return torch.where(weight > 0, known / weight.clamp_min(_NOTHING), smooth)


def _conjugate_gradients(right: Tensor, guess: Tensor, hole: Tensor, diagonal: Tensor, levels: list[_Level]) -> Tensor:
    """Solve D·v − W·v = right on the hole; every mask and plane by itself."""

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum(dim=(2, 3), keepdim=True)

    solution = guess.clone()
    residual = right - (diagonal * solution - _neighbours(solution)) * hole
    better = _precondition(residual, hole, diagonal, levels)
    direction, size = better, dot(residual, better)
    enough = _TOLERANCE**2 * dot(right, _precondition(right, hole, diagonal, levels))
    for turn in range(_MOST_ROUNDS):
        if turn % _LOOK == 0 and bool((size <= enough).all()):
            break
        image = (diagonal * direction - _neighbours(direction)) * hole
        curvature = dot(direction, image)
        step = torch.where(curvature > 0, size / curvature.clamp_min(1e-30), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        better = _precondition(residual, hole, diagonal, levels)
        fresh = dot(residual, better)
        direction = better + torch.where(size > 0, fresh / size.clamp_min(1e-30), 0.0) * direction
        size = fresh
    return solution
