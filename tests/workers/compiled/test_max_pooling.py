"""Max-pooling by compiled loops: torch's values, gradients and ties, bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.compiled.max_pooling import pool

LAST = torch.channels_last


def both_ways(inputs: Tensor, direction: Tensor, pooling: object) -> tuple[Tensor, Tensor]:
    x = inputs.clone(memory_format=torch.preserve_format).requires_grad_()
    found = pooling(x)  # type: ignore[operator]
    (slopes,) = torch.autograd.grad(found, x, direction)
    return found.detach(), slopes


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(1, 3), channels=st.integers(2, 70), height=st.integers(2, 9), width=st.integers(2, 9),
    levels=st.integers(1, 5), bfloat16=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_values_and_slopes_are_torchs_with_many_ties(
    images: int, channels: int, height: int, width: int, levels: int, bfloat16: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    kind = torch.bfloat16 if bfloat16 else torch.float32
    drawn = torch.randint(-levels, levels + 1, (images, channels, height, width), generator=generator)
    inputs = (drawn / 3).to(kind).contiguous(memory_format=LAST)
    direction = torch.randn(images, channels, height // 2, width // 2, generator=generator).to(kind)
    ours, theirs = both_ways(inputs, direction, pool), both_ways(inputs, direction, lambda x: F.max_pool2d(x, 2))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert ours[0].is_contiguous(memory_format=LAST)
    assert ours[1].is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_by_hand(kind: torch.dtype) -> None:
    """One window a channel: the largest first, last, twice, and below zero."""
    pixels = [[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 5.0, 5.0, 1.0], [-2.0, -1.0, -3.0, -4.0]]
    inputs = torch.tensor(pixels, dtype=kind).view(1, 4, 2, 2).contiguous(memory_format=LAST)
    found, slopes = both_ways(inputs, torch.tensor([7.0, 8.0, 9.0, 10.0], dtype=kind).view(1, 4, 1, 1), pool)
    assert found.flatten().tolist() == [3.0, 3.0, 5.0, -1.0]
    expected = [[7.0, 0, 0, 0], [0, 0, 0, 8.0], [0, 9.0, 0, 0], [0, 10.0, 0, 0]]
    assert slopes.flatten(2).view(4, 4).tolist() == expected


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_what_is_no_number_is_not_lost(kind: torch.dtype, place: int) -> None:
    inputs = torch.ones(1, 2, 2, 2, dtype=kind).contiguous(memory_format=LAST)
    inputs[0, 0, place // 2, place % 2] = math.nan
    ours, slopes = both_ways(inputs, torch.ones(1, 2, 1, 1, dtype=kind), pool)
    theirs, expected = both_ways(inputs, torch.ones(1, 2, 1, 1, dtype=kind), lambda x: F.max_pool2d(x, 2))
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert bool(ours[0, 0].isnan())
    assert torch.equal(slopes, expected)


def test_the_number_of_threads_changes_nothing() -> None:
    inputs = torch.randn(2, 8, 30, 26, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=LAST)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(both_ways(inputs, torch.ones(2, 8, 15, 13), pool))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for other in found[1:] for one, two in zip(found[0], other, strict=True))
