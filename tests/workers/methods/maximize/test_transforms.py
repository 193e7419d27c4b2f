"""Random views against one bilinear sum written out, by hand, and in their distribution."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.workers.methods.maximize.recipes_at_hand import recipe
from workers.methods.maximize.recipes import generator_of
from workers.methods.maximize.transforms import draw_noise, draw_views, sample, scatter_back


def picture(size: tuple[int, int] = (9, 12), seed: int = 0) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def slow_sample(image: Tensor, scale: float, degrees: float, before: tuple[float, float]) -> Tensor:
    """Pixel by pixel: rotate about the centre, scale, shift; bilinear, grey beyond."""
    _, height, width = image.shape
    result = torch.full_like(image, 0.5)
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    for v in range(height):
        for u in range(width):
            dy, dx = v - (height - 1) / 2, u - (width - 1) / 2
            x = cos * dx - sin * dy + (width - 1) / 2 + before[1]
            y = sin * dx + cos * dy + (height - 1) / 2 + before[0]
            value = torch.zeros(3)
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(x - column)) * (1 - abs(y - row))
                    inside = 0 <= row < height and 0 <= column < width
                    value += weight * (image[:, row, column] if inside else torch.full((3,), 0.5))
            result[:, v, u] = value
    return result


def lucid_map(scale: float, degrees: float, before: tuple[float, float], size: tuple[int, int]) -> Tensor:
    height, width = size
    cos, sin = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
    return torch.tensor(
        [[cos, -sin * height / width, 2 * before[1] / width], [sin * width / height, cos, 2 * before[0] / height]]
    )[None, None]


@pytest.mark.parametrize(("scale", "degrees", "before"), [(1, 0, (0, 0)), (1.1, 0, (0, 0)), (0.9, 7, (2.5, -1))])
def test_sampling_is_the_written_sum(scale: float, degrees: float, before: tuple[float, float]) -> None:
    image = picture()
    ours = sample(image, lucid_map(scale, degrees, before, (9, 12)), (9, 12))[0]
    torch.testing.assert_close(ours, slow_sample(image[0], scale, degrees, before), rtol=0, atol=1e-5)


def test_a_whole_shift_moves_pixels_and_lets_grey_in() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4).expand(1, 3, 3, 4)
    moved = sample(image, lucid_map(1, 0, (1, 2), (3, 4)), (3, 4))[0, 0]
    expected = torch.tensor([[6.0, 7.0, 0.5, 0.5], [10.0, 11.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-5)


def test_the_ordered_adjoint_is_torchs() -> None:
    image = picture()
    maps = torch.stack([lucid_map(0.93, 8, (3, -2), (9, 12))[0, 0], lucid_map(1.1, -5, (0, 4), (9, 12))[0, 0]])
    grid = F.affine_grid(maps, [2, 3, 6, 7], align_corners=False)
    signal = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    stacked = image.expand(2, -1, -1, -1)
    theirs, _ = torch.ops.aten.grid_sampler_2d_backward(signal, stacked, grid, 0, 0, False, [True, False])
    torch.testing.assert_close(scatter_back(signal, grid, (9, 12)), theirs.sum(0), rtol=1e-4, atol=1e-5)


def test_slopes_are_finite_differences() -> None:
    image = picture((5, 6)).double().repeat(2, 1, 1, 1).requires_grad_()
    maps = lucid_map(0.9, 6, (1, 0), (5, 6)).double().repeat(2, 2, 1, 1)
    assert torch.autograd.gradcheck(lambda p: sample(p, maps, (4, 5)), (image,), eps=1e-6, atol=1e-5)


def parts(view: Tensor, size: int) -> tuple[float, float]:
    """Scale and angle in degrees of a square view's map."""
    scale = 1 / math.hypot(float(view[0, 0]), float(view[1, 0]))
    return scale, math.degrees(math.atan2(float(view[1, 0]), float(view[0, 0])))


def test_lucids_draws() -> None:
    lucid = recipe("lucid", (64, 64))
    drawn = [draw_views(lucid, generator_of(0, 0, step), step) for step in range(400)]
    views = [one[0] for one in drawn if one is not None]
    assert len(views) == 400
    found = [parts(view, 64) for view in views]
    scales = {round(scale, 3) for scale, _ in found}
    angles = [round(angle, 3) + 0.0 for _, angle in found]
    assert scales == {round(1 + (i - 5) / 50, 3) for i in range(11)}
    assert set(angles) == set(map(float, range(-10, 11)))
    assert 0.15 < angles.count(0.0) / 400 < 0.32  # 6 of 26
    upright = [view for view, angle in zip(views, angles, strict=True) if angle == 0.0]
    shifts = torch.stack([view[:, 2] for view in upright]) * 32
    assert float(shifts.abs().max()) <= 4 + 2 / 0.9 + 1e-4
    assert float(shifts.abs().max()) > 3


def test_a_step_depends_on_seed_copy_and_step_alone() -> None:
    lucid = recipe("lucid", (64, 64))

    def draw(seed: int, copy: int, step: int) -> Tensor:
        view = draw_views(lucid, generator_of(seed, copy, step), step)
        assert view is not None
        return view

    assert torch.equal(draw(1, 0, 5), draw(1, 0, 5))
    others = [draw(2, 0, 5), draw(1, 1, 5), draw(1, 0, 6)]
    assert not any(torch.equal(draw(1, 0, 5), other) for other in others)


def test_without_transforms_the_network_sees_the_picture() -> None:
    assert draw_views(recipe("pixel"), generator_of(0, 0, 0), 0) is None
    assert draw_noise(recipe("pixel"), [generator_of(0, 0, 0, 0)]) is None


def test_macos_boxes_shrink_and_stay_inside() -> None:
    maco = recipe("maco", (64, 64), input_size=(16, 16), crop_steps=100)
    for step, expected in ((0, 0.5), (99, 0.05)):
        views = torch.cat([v for k in range(20) if (v := draw_views(maco, generator_of(k, 0, step), step)) is not None])
        sides, centers = views[:, 0, 0], views[:, :, 2]
        assert views.shape == (640, 2, 3)
        assert float(sides.min()) >= 0.05
        assert float(sides.mean()) == pytest.approx(expected, abs=0.03)
        assert bool((centers.abs() + sides[:, None] <= 1 + 1e-5).all())


def test_macos_noise() -> None:
    maco = recipe("maco", (64, 64), input_size=(32, 32))
    noise = draw_noise(maco, [generator_of(0, 0, 0, view) for view in range(8)])
    assert noise is not None and noise.shape == (8, 3, 32, 32)
    assert len({view.numpy().tobytes() for view in noise}) == 8
    assert float(noise.std()) == pytest.approx(math.sqrt(0.04**2 + 0.02**2 / 3), rel=0.02)
