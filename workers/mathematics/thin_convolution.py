"""Convolutions that read few channels, as a network's first one does: their gradient in less than half of torch's time.

What each output gives to each tap of the kernel is one matrix product; the gradient is these, folded back onto the
pixels that the taps came from. Rows of the page go through the cache in bands.

Import rule: torch and workers.mathematics.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from workers.mathematics.arrays import as_array
from workers.mathematics.threads import shares, side_by_side

MOST_CHANNELS = 4
"""More are what torch is made for."""

BAND_PIXELS = 6272
"""Outputs whose parts are multiplied and folded at once: they stay in the second-level cache."""


def convolve_thin(inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int, stride: int) -> Tensor:
    """torch's convolution; differentiable once, with respect to `inputs` alone.

    In float32 an image's gradient does not depend on the other images of the batch, bit for bit.

    Args:
        inputs: N×C×H×W, C at most MOST_CHANNELS, float32 or bfloat16, on the CPU.
        weight: K×C×t×t, of the same type.
        bias: K numbers or None.
        padding: zeros on each side, fewer than t.
        stride: pixels.
    """
    found: Tensor = _Thin.apply(inputs, weight, bias, padding, stride)
    return found


class _Thin(torch.autograd.Function):
    """See `convolve_thin`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int, stride: int) -> Tensor:
        ctx.shape, ctx.weight, ctx.padding, ctx.stride = inputs.shape, weight, padding, stride
        with torch._C.DisableTorchFunction():
            return functional.conv2d(inputs, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        with torch.no_grad(), torch._C.DisableTorchFunction():
            return _folded(slopes, ctx.weight, ctx.shape, ctx.padding, ctx.stride), None, None, None, None


def _folded(slopes: Tensor, weight: Tensor, shape: torch.Size, padding: int, stride: int) -> Tensor:
    """The gradient with respect to the inputs, N×C×H×W."""
    # Not where nothing can be compiled.
    from workers.mathematics.pixel_loops import fold

    images, channels, height, _ = shape
    outputs, taps = weight.shape[0], weight.shape[-1]
    down, wide = slopes.shape[2:]
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, outputs)
    pages = slopes.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    found = torch.empty(shape, dtype=slopes.dtype)
    targets = as_array(found)
    band = max(1, BAND_PIXELS * stride // wide)
    bands = [(image, top, min(top + band, height)) for image in range(images) for top in range(0, height, band)]

    def share(begin: int, end: int) -> None:
        for image, top, bottom in bands[begin:end]:
            first = max(0, -(-(top + padding - taps + 1) // stride))
            last = max(first, min(down, (bottom - 1 + padding) // stride + 1))
            products = torch.mm(matrix, pages[image, first:last].reshape(-1, outputs).t())
            parts = as_array(products.view(taps, taps, channels, last - first, wide))
            fold(parts, first, top, bottom, padding, stride, targets[image])

    side_by_side([partial(share, *pair) for pair in shares(len(bands))])
    return found
