"""Minimal filtering against the convolution's definition, by hand in one dimension, and on edges that tiles overlap."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.mathematics.minimal_filtering import POINTS, convolve, cook_toom, factors


def test_the_matrices_of_two_outputs_and_three_taps_are_the_papers() -> None:
    """F(2, 3) of Lavin & Gray 2016, section 4, but for the signs of the factor at infinity and at −1, which cancel."""
    outputs, kernel, inputs = cook_toom((Fraction(0), Fraction(1), Fraction(-1)), 2, 3)
    assert outputs.tolist() == [[1, 1, 1, 0], [0, 1, -1, 1]]
    assert kernel.abs().tolist() == [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 1]]
    assert inputs.abs().tolist() == [[1, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 0, 1]]
    d, g = torch.tensor([1.0, 2.0, 3.0, 5.0]).double(), torch.tensor([1.0, 10.0, 100.0]).double()
    assert (outputs @ ((kernel @ g) * (inputs @ d))).tolist() == pytest.approx([321.0, 532.0])


def test_the_matrices_we_use_filter_exactly() -> None:
    outputs, kernel, inputs = cook_toom(POINTS, 4, 3)
    for place in range(6):
        for tap in range(3):
            d, g = torch.zeros(6, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            d[place], g[tap] = 1, 1
            found = outputs @ ((kernel @ g) * (inputs @ d))
            assert found.tolist() == pytest.approx([float(place - tap == k) for k in range(4)], abs=1e-12)


def test_another_number_of_points_is_an_error() -> None:
    with pytest.raises(ValueError, match="5 points"):
        cook_toom(POINTS[:-1], 4, 3)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(3, 23),
    width=st.integers(3, 120),
    images=st.integers(1, 3),
    channels=st.integers(1, 4),
    outputs=st.integers(1, 4),
    padding=st.integers(0, 1),
    with_bias=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_size_is_the_convolution_and_its_gradient(
    height: int, width: int, images: int, channels: int, outputs: int, padding: int, with_bias: bool,
    channels_last: bool, seed: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight, bias = numbers(outputs, channels, 3, 3), numbers(outputs) if with_bias else None
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = numbers(images, channels, height, width).contiguous(memory_format=layout).requires_grad_()
    expected = F.conv2d(x, weight, bias, padding=padding)
    found = convolve(x, factors(weight), bias, padding)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    direction = numbers(*expected.shape)
    (ours,) = torch.autograd.grad(found, x, direction)
    (theirs,) = torch.autograd.grad(expected, x, direction)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_what_follows_may_work_in_place() -> None:
    x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    found = torch.relu_(convolve(x, factors(weight), None, 1))
    expected = torch.relu(F.conv2d(x, weight, None, padding=1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (ours,), (theirs,) = torch.autograd.grad(found.sum(), x), torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
