"""Minimal filtering against the convolution's definition, by hand in one dimension, and on edges that tiles overlap."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.compiled.cook_toom import cook_toom
from workers.compiled.max_pooling import pool
from workers.compiled.minimal_filtering import FEW, POINTS, TransformedKernels, _filtered_and_pooled, convolve
from workers.compiled.threads import side_by_side
from workers.compiled.tile_pages import TilePage
from workers.compiled.tile_products import MOST_TILES
from workers.compiled.tile_transforms import lay_tiles, take_tiles


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


@pytest.mark.parametrize("channels", [64, 70, 200])
def test_the_compiled_transforms_are_those_matrices(channels: int) -> None:
    """Bit for bit at small whole numbers, which both compute without rounding."""
    outputs, _, inputs = cook_toom(POINTS, 4, 3)
    generator = torch.Generator().manual_seed(channels)
    page = torch.randint(-4, 5, (6, 14, channels), generator=generator).float()
    taken = torch.full((36, 5, channels), torch.nan)
    take_tiles(page.numpy(), page[:0].numpy(), 1, 3, 3, 0, taken.numpy(), 2)
    for tile, place in ((1, 2), (2, 3)):
        under = page[:, 4 * tile : 4 * tile + 6].double()
        expected = torch.einsum("ia,jb,abc->ijc", inputs, inputs, under).reshape(36, channels)
        assert torch.equal(taken[:, place].double(), expected)
    assert taken[:, [0, 1, 4]].isnan().all(), "other places are left alone"
    bias = torch.randint(-4, 5, (channels,), generator=generator).float()
    products = 8.0 * torch.randint(-4, 5, (36, 4, channels), generator=generator).float()
    laid = torch.full((4, 10, channels), torch.nan)
    lay_tiles(products.numpy(), 2, bias.numpy(), False, 1, 3, 3, laid.numpy())
    tiles = products[:, 2:].reshape(6, 6, 2, channels).double()
    expected = torch.einsum("ia,jb,abtc->itjc", outputs, outputs, tiles).reshape(4, 8, channels) + bias
    assert torch.equal(laid[:, 4:].double(), expected[:, :6]), "the last tile reaches beyond the page"
    assert laid[:, :4].isnan().all()


def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even() -> None:
    generator = torch.Generator().manual_seed(0)
    page = torch.randn(6, 6, 64, generator=generator).bfloat16()
    taken = torch.empty(36, 1, 64, dtype=torch.bfloat16)
    take_tiles(
        page.view(torch.uint16).numpy(),
        page[:0].view(torch.uint16).numpy(),
        0,
        1,
        1,
        0,
        taken.view(torch.uint16).numpy(),
        0,
    )
    _, _, inputs = cook_toom(POINTS, 4, 3)
    exact = torch.einsum("ia,jb,abc->ijc", inputs, inputs, page.double()).reshape(36, 64)
    assert torch.equal(taken[:, 0], exact.bfloat16()), "two roundings would differ somewhere"
    halves = torch.tensor([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, float("inf"), -3.0, 1e-40] + [0.0] * 58)
    products = torch.zeros(36, 1, 64, dtype=torch.bfloat16)
    laid = torch.empty(4, 4, 64, dtype=torch.bfloat16)
    lay_tiles(
        products.view(torch.uint16).numpy(), 0, halves.numpy(), False, 0, 1, 1, laid.view(torch.uint16).numpy()
    )  # the bias alone, rounded
    assert torch.equal(laid[3, 2], halves.bfloat16())


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(3, 23),
    width=st.integers(3, 120),
    images=st.integers(1, 3),
    channels=st.integers(64, 130),
    outputs=st.integers(64, 130),
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
        return torch.randn(shape, generator=generator)

    weight, bias = numbers(outputs, channels, 3, 3), numbers(outputs) if with_bias else None
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = numbers(images, channels, height, width).contiguous(memory_format=layout).requires_grad_()
    exact = x.detach().double().requires_grad_()
    expected = F.conv2d(exact, weight.double(), None if bias is None else bias.double(), padding=padding)
    found = convolve(x, TransformedKernels(weight), bias, padding)
    assert float((found - expected).detach().abs().max() / expected.detach().abs().max()) < 1e-5
    direction = numbers(*expected.shape)
    (ours,) = torch.autograd.grad(found, x, direction)
    (theirs,) = torch.autograd.grad(expected, exact, direction.double())
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5
    assert ours.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("alive", [0, 1, FEW, FEW + 1, 70])
def test_the_gradient_of_a_few_channels_is_the_convolutions(alive: int, padding: int) -> None:
    """Different channels in each image, one of them alive in a single pixel that a first look misses."""
    generator = torch.Generator().manual_seed(alive)
    weight = torch.randn(70, 64, 3, 3, generator=generator)
    x = torch.randn(2, 64, 25, 21, generator=generator).requires_grad_()
    found = convolve(x, TransformedKernels(weight), None, padding)
    slopes = torch.zeros(found.shape)
    for image in range(2):
        chosen = torch.randperm(70, generator=generator)[:alive]
        slopes[image, chosen] = torch.randn(alive, *found.shape[2:], generator=generator)
        if alive:
            slopes[image, chosen[0]] = 0
            slopes[image, chosen[0], 1, 1] = -3.0
    (ours,) = torch.autograd.grad(found, x, slopes.contiguous(memory_format=torch.channels_last))
    expected = F.conv_transpose2d(slopes.double(), weight.double(), padding=padding)
    assert float((ours - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_what_follows_may_work_in_place() -> None:
    x = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(1))
    found = torch.relu_(convolve(x, TransformedKernels(weight), None, 1))
    expected = torch.relu(F.conv2d(x, weight, None, padding=1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    (ours,), (theirs,) = torch.autograd.grad(found.sum(), x), torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alive", [1, 70], ids=["slopes in one channel", "slopes in all"])
def test_a_rectified_convolution_has_the_bits_of_both(kind: torch.dtype, alive: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, 50, 46, generator=generator).to(kind).contiguous(memory_format=torch.channels_last)
    kernels = TransformedKernels(torch.randn(70, 64, 3, 3, generator=generator).to(kind))
    bias = torch.randn(70, generator=generator).to(kind)
    direction = torch.randn(2, 70, 50, 46, generator=generator).to(kind)
    direction[0, alive:] = 0
    direction = direction.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    together = convolve(x, kernels, bias, 1, rectified=True)
    apart = torch.relu(convolve(x, kernels, bias, 1))
    assert torch.equal(together, apart)
    assert 0.2 < float((together > 0).float().mean()) < 0.8
    (ours,), (theirs,) = (torch.autograd.grad(each, x, direction) for each in (together, apart))
    assert torch.equal(ours, theirs)


def test_slopes_that_its_relu_stops_do_not_choose_the_way_of_a_gradient() -> None:
    """Five channels have slopes, and the ReLU lets four through: the fewer, the quicker way, and other bits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 20, 20, generator=generator).requires_grad_()
    kernels, bias = TransformedKernels(torch.randn(64, 64, 3, 3, generator=generator)), torch.zeros(64)
    bias[2] = -1e4
    direction = torch.zeros(1, 64, 20, 20)
    direction[:, : FEW + 1] = torch.randn(1, FEW + 1, 20, 20, generator=generator)
    together = convolve(x, kernels, bias, 1, rectified=True)
    apart = torch.relu(convolve(x, kernels, bias, 1))
    (ours,), (theirs,) = (torch.autograd.grad(each, x, direction) for each in (together, apart))
    assert torch.equal(ours, theirs)


def test_a_rectified_convolution_hides_no_number_that_is_none() -> None:
    x = torch.zeros(1, 64, 8, 8)
    x[0, 0, 4, 4] = torch.nan
    found = convolve(x, TransformedKernels(torch.randn(64, 64, 3, 3)), None, 1, rectified=True)
    assert bool(found.isnan().any())


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(2, 30),
    width=st.integers(2, 30),
    images=st.integers(1, 3),
    padding=st.integers(0, 2),
    alive=st.sampled_from([1, FEW, 70]),
    bfloat16=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_pooled_convolution_has_the_bits_of_all_three(
    height: int, width: int, images: int, padding: int, alive: int, bfloat16: bool, seed: int
) -> None:
    """With many windows in which nothing passes the ReLU, and sides that the windows do not divide."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.bfloat16 if bfloat16 else torch.float32
    height, width = max(height, 4 - 2 * padding), max(width, 4 - 2 * padding)
    x = torch.randn(images, 64, height, width, generator=generator).to(kind)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    kernels = TransformedKernels(torch.randn(70, 64, 3, 3, generator=generator).to(kind))
    bias = (20 * torch.randn(70, generator=generator) - 20).to(kind)
    together = convolve(x, kernels, bias, padding, rectified=True, pooled=True)
    apart = pool(torch.relu(convolve(x, kernels, bias, padding)))
    assert torch.equal(together, apart)
    assert together.is_contiguous(memory_format=torch.channels_last)
    direction = torch.randn(together.shape, generator=generator).to(kind)
    direction[0, alive:] = 0
    direction = direction.contiguous(memory_format=torch.channels_last)
    (ours,), (theirs,) = (torch.autograd.grad(each, x, direction) for each in (together, apart))
    assert torch.equal(ours, theirs)


def test_of_equal_outputs_the_first_has_the_slope_and_of_a_shut_window_none() -> None:
    """Constant maps: channel k is k − 35 everywhere, so that every window ties."""
    kernels, bias = TransformedKernels(torch.zeros(70, 64, 3, 3)), torch.arange(70.0) - 35
    page = TilePage(torch.zeros(1, 64, 8, 12))
    found, places = _filtered_and_pooled(page, kernels.forward, bias, 1)
    assert torch.equal(found, bias.clamp(min=0).view(1, 70, 1, 1).expand(1, 70, 4, 6))
    assert torch.equal(places, (bias > 0).to(torch.uint8).view(1, 70, 1, 1).expand(1, 70, 4, 6))


def test_a_pooled_convolution_hides_no_number_that_is_none() -> None:
    x = torch.zeros(1, 64, 8, 8)
    x[0, 0, 4, 4] = torch.nan
    found = convolve(x, TransformedKernels(torch.randn(64, 64, 3, 3)), None, 1, rectified=True, pooled=True)
    assert bool(found.isnan().any())


def test_what_is_pooled_is_rectified() -> None:
    with pytest.raises(ValueError, match="rectified first"):
        convolve(torch.zeros(1, 64, 8, 8), TransformedKernels(torch.zeros(64, 64, 3, 3)), None, 1, pooled=True)


def test_an_output_that_was_overwritten_gives_no_wrong_gradient() -> None:
    x = torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = convolve(x, TransformedKernels(torch.randn(64, 64, 3, 3)), None, 1, rectified=True)
    loss = found.sum()
    found.data.zero_()
    found.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("side", [14, 60], ids=["multiplied together", "in chunks"])
def test_the_number_of_threads_changes_no_bit(side: int, pooled: bool) -> None:
    assert (-(-side // 4)) ** 2 > MOST_TILES or side == 14
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 64, side, side, generator=generator)
    kernels = TransformedKernels(torch.randn(96, 64, 3, 3, generator=generator))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(convolve(x, kernels, None, 1, rectified=pooled, pooled=pooled))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_images_of_few_tiles_have_the_same_bits_in_any_company(count: int) -> None:
    """Two threads take images in turn where that leaves none idle, else parts of the products."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 64, 28, 26, generator=generator).contiguous(memory_format=torch.channels_last)
    kernels = TransformedKernels(torch.randn(96, 64, 3, 3, generator=generator))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = convolve(x, kernels, None, 1)
        for number in range(count):
            assert torch.equal(convolve(x[number : number + 1], kernels, None, 1)[0], together[number])
    finally:
        torch.set_num_threads(before)


def test_too_few_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 channels in and out, not 3 and 64"):
        TransformedKernels(torch.zeros(64, 3, 3, 3))


def test_tasks_have_one_thread_each_and_their_errors_come_out() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[tuple[int, bool]] = []

    def look() -> None:
        seen.append((torch.get_num_threads(), torch.is_grad_enabled()))

    def fail() -> None:
        raise ValueError("of the second")

    try:
        side_by_side([look] * 5)
        assert seen == [(1, False)] * 5
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="of the second"):
            side_by_side([look, fail, look])
        assert len(seen) == 7, "the others ended first"
    finally:
        torch.set_num_threads(before)
