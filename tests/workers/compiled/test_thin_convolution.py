"""The folded gradient of a convolution that reads few channels, against the definition in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.compiled import thin_convolution
from workers.compiled.thin_convolution import convolve_thin


def slopes_of(inputs: Tensor, weight: Tensor, direction: Tensor, padding: int, stride: int) -> Tensor:
    x = inputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(convolve_thin(x, weight, None, padding, stride), x, direction)
    return found


@settings(deadline=None, max_examples=80)
@given(
    images=st.integers(1, 2), channels=st.integers(1, 4), outputs=st.integers(1, 20), taps=st.integers(1, 7),
    stride=st.integers(1, 5), height=st.integers(7, 30), width=st.integers(7, 30), band=st.integers(1, 200),
    channels_last=st.booleans(), data=st.data(),
)  # fmt: skip
def test_every_size_is_the_convolution_and_its_gradient(
    images: int, channels: int, outputs: int, taps: int, stride: int, height: int, width: int, band: int,
    channels_last: bool, data: st.DataObject,
) -> None:  # fmt: skip
    padding = data.draw(st.integers(0, taps - 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(images, channels, height, width, generator=generator).contiguous(memory_format=layout)
    weight, bias = torch.randn(outputs, channels, taps, taps, generator=generator), torch.randn(outputs)
    exact = x.double().requires_grad_()
    expected = F.conv2d(exact, weight.double(), bias.double(), stride, padding)
    found = convolve_thin(x, weight, bias, padding, stride)
    assert torch.equal(found, F.conv2d(x, weight, bias, stride, padding)), "torch's own"
    direction = torch.randn(expected.shape, generator=generator).contiguous(memory_format=layout)
    (theirs,) = torch.autograd.grad(expected, exact, direction.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thin_convolution, "BAND_PIXELS", band)
        ours = slopes_of(x, weight, direction, padding, stride)
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def test_by_hand() -> None:
    """Each output reads three pixels with the weights 1, 2, 3; one slope of 10 gives them 10, 20 and 30."""
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1] = torch.tensor([1.0, 2.0, 3.0])
    direction = torch.zeros(1, 1, 3, 4)
    direction[0, 0, 1, 2] = 10.0
    found = slopes_of(torch.zeros(1, 1, 3, 4), weight, direction, 1, 1)
    assert found[0, 0].tolist() == [[0, 0, 0, 0], [0, 10.0, 20.0, 30.0], [0, 0, 0, 0]]


def test_bfloat16_is_the_gradient_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 40, 40, generator=generator).bfloat16()
    weight = torch.randn(64, 3, 3, 3, generator=generator).bfloat16()
    direction = torch.randn(2, 64, 40, 40, generator=generator).bfloat16()
    exact = F.conv_transpose2d(direction.double(), weight.double(), padding=1)
    found = slopes_of(x, weight, direction, 1, 1)
    assert found.dtype == torch.bfloat16
    assert float((found.double() - exact).abs().max()) < 0.01 * float(exact.abs().max())


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_rectified_convolution_has_the_bits_of_both(kind: torch.dtype, channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 3, 90, 85, generator=generator).to(kind).contiguous(memory_format=layout).requires_grad_()
    weight, bias = (torch.randn(shape, generator=generator).to(kind) for shape in ((64, 3, 3, 3), (64,)))
    direction = torch.randn(2, 64, 90, 85, generator=generator).to(kind).contiguous(memory_format=layout)
    together = convolve_thin(x, weight, bias, 1, 1, rectified=True)
    apart = torch.relu(convolve_thin(x, weight, bias, 1, 1))
    assert torch.equal(together, apart)
    assert 0.2 < float((together > 0).float().mean()) < 0.8
    (ours,), (theirs,) = (torch.autograd.grad(each, x, direction) for each in (together, apart))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("taps", "padding", "stride", "size"), [(11, 2, 4, (930, 111)), (3, 0, 2, (340, 75))])
def test_bands_that_no_output_reads_may_come_first(taps: int, padding: int, stride: int, size: tuple[int, int]) -> None:
    """Of these sizes no output reads the last rows, and a thread may begin with them (AlexNet, SqueezeNet)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, taps, taps, generator=generator)
    x = torch.randn(1, 3, *size, generator=generator).contiguous(memory_format=torch.channels_last).requires_grad_()
    theirs = F.relu(F.conv2d(x, weight, None, stride, padding))
    direction = torch.randn(theirs.shape, generator=generator)
    (expected,) = torch.autograd.grad(theirs, x, direction)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(5):
            ours = convolve_thin(x, weight, None, padding, stride, rectified=True)
            (found,) = torch.autograd.grad(ours, x, direction)
            assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    finally:
        torch.set_num_threads(before)


def test_what_is_no_number_keeps_its_slope() -> None:
    weight = torch.ones(1, 1, 1, 1)
    x = torch.tensor([[[[-1.0, 2.0, torch.nan]]]], requires_grad=True)
    found = convolve_thin(x, weight, None, 0, 1, rectified=True)
    (slopes,) = torch.autograd.grad(found.sum(), x)
    assert slopes.flatten().tolist() == [0.0, 1.0, 1.0]


def test_neither_company_nor_the_number_of_threads_changes_a_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 3, 120, 90, generator=generator), torch.randn(64, 3, 7, 7, generator=generator)
    direction = torch.randn(3, 64, 60, 45, generator=generator)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = slopes_of(x, weight, direction, 3, 2)
            for image in range(3):
                own = slice(image, image + 1)
                torch.set_num_threads(1)
                assert torch.equal(slopes_of(x[own], weight, direction[own], 3, 2)[0], found[image])
    finally:
        torch.set_num_threads(before)


def test_nothing_is_computed_where_no_gradient_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> Tensor:
        raise AssertionError("a gradient that nobody asked for")

    monkeypatch.setattr(thin_convolution, "_folded", fail)
    weight = torch.randn(8, 3, 3, 3, requires_grad=True)
    found = convolve_thin(torch.randn(1, 3, 8, 8), weight, None, 1, 1)
    assert torch.autograd.grad(found.sum(), weight, allow_unused=True) == (None,)
