"""How parameters move along a gradient, and what keeps them in bounds; each row by its own step count.

Everything here is elementwise or per row, so a row's numbers do not depend on its company.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.methods.maximize.recipes import Recipe
from workers.passes.batches import on

MOMENTUM_DECAY = 0.004
"""Of Nadam's momentum schedule (Dozat 2016; the default of Keras and of torch)."""


def climb(
    recipe: Recipe, parameters: Tensor, slopes: Tensor, moments: tuple[Tensor, Tensor], steps: Sequence[int]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One step uphill.

    Args:
        recipe: `optimizer`, `learning_rate` and the optimizer's constants.
        parameters, slopes: B×…; slopes are those of what is to grow.
        moments: first and second moment, B×… each (unused by `ascent` and `rms`).
        steps: of each row, done before this one.

    Returns:
        New parameters and moments; nothing is changed in place.
    """
    rate, beta1, beta2 = recipe.learning_rate, recipe.beta1, recipe.beta2
    if recipe.optimizer == "ascent":
        return parameters + rate * slopes, moments
    if recipe.optimizer == "rms":
        sizes = torch.stack([row.square().mean().sqrt() for row in slopes])
        return parameters + rate * slopes / (_column(sizes, slopes) + recipe.epsilon), moments
    if recipe.optimizer == "keras-adam":
        first = moments[0] + (slopes - moments[0]) * (1.0 - beta1)
        second = moments[1] + (slopes * slopes - moments[1]) * (1.0 - beta2)
        rates = _column(on(slopes, _keras_rates(recipe, steps)), slopes)
        return parameters + first * rates / (second.sqrt() + recipe.epsilon), (first, second)
    first = beta1 * moments[0] + (1.0 - beta1) * slopes
    second = beta2 * moments[1] + (1.0 - beta2) * slopes * slopes
    size = (second / _numbers([1.0 - beta2 ** (step + 1) for step in steps], slopes)).sqrt_().add_(recipe.epsilon)
    if recipe.optimizer == "nadam":
        own, ahead = _nadam_shares(beta1, steps)
        direction = _numbers(own, slopes) * slopes + _numbers(ahead, slopes) * first
    else:
        direction = first / _numbers([1.0 - beta1 ** (step + 1) for step in steps], slopes)
    return parameters + rate * direction / size, (first, second)


def _keras_rates(recipe: Recipe, steps: Sequence[int]) -> Tensor:
    """Keras 3, `optimizers/adam.py`: the rate times √(1 − β₂ᵗ) / (1 − β₁ᵗ) of each row.

    In single precision, as there: what is left of 1 − 0.999 has lost its last digits, and with it the first steps.
    """
    done = torch.tensor([step + 1 for step in steps], dtype=torch.float32)
    powers = [torch.tensor(beta, dtype=torch.float32) ** done for beta in (recipe.beta1, recipe.beta2)]
    return recipe.learning_rate * torch.sqrt(1.0 - powers[1]) / (1.0 - powers[0])


def _nadam_shares(beta1: float, steps: Sequence[int]) -> tuple[list[float], list[float]]:
    """Shares of the slope and of the first moment in Nadam's direction (Dozat 2016, algorithm 2)."""
    own, ahead = [], []
    for step in steps:
        momenta = [beta1 * (1.0 - 0.5 * 0.96 ** (k * MOMENTUM_DECAY)) for k in range(1, step + 3)]
        product = math.prod(momenta[:-1])
        own.append((1.0 - momenta[-2]) / (1.0 - product))
        ahead.append(momenta[-1] / (1.0 - product * momenta[-1]))
    return own, ahead


def _numbers(values: Sequence[float], like: Tensor) -> Tensor:
    return _column(on(like, torch.tensor(list(values), dtype=like.dtype)), like)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def penalty(recipe: Recipe, picture: Tensor) -> Tensor | None:
    """What a picture (3×H×W in [0, 1]) is charged; None where nothing is charged.

    tv · mean of squared differences of neighbours (Mahendran & Vedaldi 2015, β = 2), and l2 · mean of squared distance
    from mid-grey (Simonyan 2013, section 2).
    """
    total: Tensor | None = None
    if recipe.tv:
        down, right = picture[:, 1:] - picture[:, :-1], picture[:, :, 1:] - picture[:, :, :-1]
        total = recipe.tv * (down.square().mean() + right.square().mean())
    if recipe.l2:
        charge = recipe.l2 * (picture - 0.5).square().mean()
        total = charge if total is None else total + charge
    return total


def blur(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of 3×H×W by `sigma` pixels, edges repeated."""
    radius = min(max(1, math.ceil(4 * sigma)), min(picture.shape[1:]) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=picture.dtype, device=picture.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(picture[:, None], (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]
