"""What an ascent's network sees of a picture: the picture moved about a little, or boxes of it. One draw a row.

Lucid pads a picture, crops it at random, scales, rotates and crops again (`transform.py`); here one bilinear sampling
does all of it, with grey (0.5, Lucid's padding) wherever it reaches beyond the picture, and an output of one size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.methods.maximize.recipes import Recipe
from workers.passes.batches import on

FILL = 0.5
"""Beyond the picture: Lucid's padding."""
SCALES = 11
"""Lucid draws one of eleven equally spaced scales."""
MORE_ZERO_ANGLES = 5
"""Lucid's list of angles holds the angle 0 five times more."""


def draw_views(recipe: Recipe, generator: torch.Generator, step: int) -> Tensor | None:
    """One row's random views of one step: affine maps V×2×3 from normalised output to normalised picture coordinates.

    Args:
        recipe: with its amplitudes; a jitter of d draws a crop offset from {0, …, d}, as Lucid's crops do.
        generator: of the row and step.
        step: from 0, for the schedule of boxes that shrink.

    Returns:
        None where the network sees the picture as it is.
    """
    if recipe.cropping:
        return _boxes(recipe, generator, step)
    if not (recipe.jitter or recipe.scale or recipe.rotate or recipe.jitter_after):
        return None if recipe.crops == 1 else torch.eye(2, 3).expand(recipe.crops, 2, 3)
    return torch.stack([_moved(recipe, generator) for _ in range(recipe.crops)])


def _moved(recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Crop, scale, rotate, crop: the source of output pixel o is A(o − c − j₂) + c + j₁, A = rotation/scale."""
    height, width = recipe.size
    before = _offset(recipe.jitter, generator)
    scale = 1.0 + recipe.scale * (2.0 * _pick(SCALES, generator) / (SCALES - 1) - 1.0)
    angle = _pick(2 * recipe.rotate + 1 + MORE_ZERO_ANGLES, generator) - recipe.rotate
    radians = math.radians(angle if angle <= recipe.rotate else 0)
    after = _offset(recipe.jitter_after, generator)
    cos, sin = math.cos(radians) / scale, math.sin(radians) / scale
    down = before[0] - (cos * after[0] + sin * after[1])
    right = before[1] - (-sin * after[0] + cos * after[1])
    return torch.tensor(
        [[cos, -sin * height / width, 2.0 * right / width], [sin * width / height, cos, 2.0 * down / height]]
    )


def _boxes(recipe: Recipe, generator: torch.Generator, step: int) -> Tensor:
    """Boxes that shrink from `crop_from` to `crop_to` of the picture's side, about its centre, kept inside it."""
    share = step / max(recipe.crop_steps - 1, 1)
    side = recipe.crop_from + (recipe.crop_to - recipe.crop_from) * min(share, 1.0)
    draws = torch.randn(recipe.crops, 3, generator=generator, dtype=torch.float64)
    sides = (side + recipe.crop_size_sd * draws[:, 0]).clamp(SMALLEST_BOX, 1.0)
    centers = 0.5 + recipe.crop_center_sd * draws[:, 1:]
    margin = sides[:, None] / 2
    centers = torch.minimum(torch.maximum(centers, margin), 1.0 - margin)
    maps = torch.zeros(recipe.crops, 2, 3, dtype=torch.float64)
    maps[:, 0, 0] = maps[:, 1, 1] = sides
    maps[:, 0, 2], maps[:, 1, 2] = 2 * centers[:, 1] - 1, 2 * centers[:, 0] - 1
    return maps.float()


SMALLEST_BOX = 0.05
"""Smallest box as a share of the picture's side (Xplique)."""


def draw_noise(recipe: Recipe, generators: Iterable[torch.Generator]) -> Tensor | None:
    """Additive noise, N(0, noise) + U(−noise_uniform, noise_uniform), of a view for each generator: V×C×h×w.

    None where there is none.
    """
    if not (recipe.noise or recipe.noise_uniform):
        return None
    shape = (recipe.planes, *recipe.input_size)
    drawn = []
    for generator in generators:
        normal = recipe.noise * torch.randn(shape, generator=generator)
        drawn.append(normal + recipe.noise_uniform * (2.0 * torch.rand(shape, generator=generator) - 1.0))
    return torch.stack(drawn)


def sample(pictures: Tensor, maps: Tensor, size: tuple[int, int], *, in_order: bool = True) -> Tensor:
    """Views of pictures: bilinear, grey beyond a picture; differentiable with regard to the pictures.

    Args:
        pictures: B×C×H×W.
        maps: B×V×2×3, see `draw_views`.
        size: (height, width) of a view.
        in_order: whether the gradient has the same bits each time on every device, which costs time on a GPU.

    Returns:
        (B·V)×C×height×width, the views of a picture one after another.
    """
    views: Tensor = _Sample.apply(pictures - FILL, on(pictures, maps), size, in_order)
    return views + FILL


class _Sample(torch.autograd.Function):
    """Bilinear sampling whose backward adds in one order where that is wanted, also on CUDA, where torch's does not."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, maps: Tensor, size: tuple[int, int], in_order: bool) -> Tensor:
        count = maps.shape[1]
        grid = F.affine_grid(maps.flatten(0, 1), [len(maps) * count, pictures.shape[1], *size], align_corners=False)
        stacked = pictures if count == 1 else pictures.repeat_interleave(count, 0)
        ctx.save_for_backward(stacked, grid)
        ctx.count, ctx.in_order = count, in_order
        return F.grid_sample(stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> tuple[Tensor | None, ...]:
        signal, (stacked, grid), count = signals[0].contiguous(), ctx.saved_tensors, ctx.count
        if signal.device.type == "cpu" or not ctx.in_order:
            slopes, _ = torch.ops.aten.grid_sampler_2d_backward(signal, stacked, grid, 0, 0, False, [True, False])
            return (slopes if count == 1 else slopes.unflatten(0, (-1, count)).sum(1)), None, None, None
        size = (stacked.shape[2], stacked.shape[3])
        pairs = zip(signal.split(count), grid.split(count), strict=True)
        return torch.stack([scatter_back(part, places, size) for part, places in pairs]), None, None, None


def scatter_back(signal: Tensor, grid: Tensor, size: tuple[int, int]) -> Tensor:
    """The adjoint of bilinear sampling in a fixed order of additions.

    Args:
        signal: V×C×h×w.
        grid: V×h×w×2, normalised picture coordinates (x, y).
        size: (height, width) of the picture.

    Returns:
        C×H×W, summed over the views.
    """
    height, width = size
    x = ((grid[..., 0] + 1.0) * width - 1.0) / 2.0
    y = ((grid[..., 1] + 1.0) * height - 1.0) / 2.0
    left, top = x.floor(), y.floor()
    places, values = [], []
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            weight = (1.0 - (x - column).abs()) * (1.0 - (y - row).abs())
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            places.append(place.long().flatten())
            values.append((signal * torch.where(inside, weight, 0.0)[:, None]).transpose(0, 1).flatten(1))
    total = signal.new_zeros(height * width, signal.shape[1])
    # index_put_ sorts the places first, so that every pixel adds its values in one order.
    total.index_put_((torch.cat(places),), torch.cat(values, 1).T.contiguous(), accumulate=True)
    return total.T.reshape(-1, height, width)


def _pick(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def _offset(jitter: int, generator: torch.Generator) -> tuple[float, float]:
    """(down, right) of a random crop of a picture `jitter` pixels larger, about its centre."""
    return _pick(jitter + 1, generator) - jitter / 2, _pick(jitter + 1, generator) - jitter / 2
