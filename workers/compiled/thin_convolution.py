"""Convolutions that read few channels, as a network's first one does: their gradient in less than half of torch's time.

What each output gives to each tap of the kernel is one matrix product; the gradient is these, folded back onto the
pixels that the taps came from. Rows of the page go through the cache in bands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from workers.compiled.arrays import as_array
from workers.compiled.threads import side_by_side

MOST_CHANNELS = 4
"""More are what torch is made for."""

BAND_PIXELS = 6272
"""Outputs whose parts are multiplied and folded at once: they stay in the second-level cache."""


def convolve_thin(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int, stride: int, *, rectified: bool = False
) -> Tensor:
    """torch's convolution; differentiable once, with respect to `inputs` alone.

    In float32 an image's gradient does not depend on the other images of the batch, bit for bit.

    Args:
        inputs: N×C×H×W, C at most MOST_CHANNELS, float32 or bfloat16, on the CPU.
        weight: K×C×t×t, of the same type.
        bias: K numbers or None.
        padding: zeros on each side, fewer than t.
        stride: pixels.
        rectified: whether a ReLU follows, whose gradient then costs no pass through memory of its own; the same bits.
    """
    found: Tensor = _Thin.apply(inputs, weight, bias, padding, stride, rectified)
    return found


class _Thin(torch.autograd.Function):
    """See `convolve_thin`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int, stride: int, rectified: bool
    ) -> Tensor:
        ctx.shape, ctx.weight, ctx.padding, ctx.stride = inputs.shape, weight, padding, stride
        with torch._C.DisableTorchFunction():
            found = functional.conv2d(inputs, weight, bias, stride, padding)
            if rectified:
                ctx.save_for_backward(found.relu_())
            return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        gate = ctx.saved_tensors[0] if ctx.saved_tensors else None
        with torch.no_grad(), torch._C.DisableTorchFunction():
            found = _folded(slopes, gate, ctx.weight, ctx.shape, ctx.padding, ctx.stride)
        return found, None, None, None, None, None


def _folded(
    slopes: Tensor, gate: Tensor | None, weight: Tensor, shape: torch.Size, padding: int, stride: int
) -> Tensor:
    """The gradient with respect to the inputs, N×C×H×W; slopes count where the gate, of their shape, is above zero."""
    # Not where nothing can be compiled.
    from workers.compiled.pixel_loops import fold, let_through

    images, channels, height, _ = shape
    outputs, taps = weight.shape[0], weight.shape[-1]
    down, wide = slopes.shape[2:]
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, outputs)
    pages = _rows_of(slopes)
    gates = None if gate is None else _rows_of(gate)
    found = torch.empty(shape, dtype=slopes.dtype)
    targets = as_array(found)
    band = max(1, BAND_PIXELS * stride // wide)
    bands = iter([(image, top, min(top + band, height)) for image in range(images) for top in range(0, height, band)])

    def work() -> None:
        room = slopes.new_empty(0, outputs)
        for image, top, bottom in bands:  # each thread takes the next that is left
            first = max(0, -(-(top + padding - taps + 1) // stride))
            last = max(first, min(down, (bottom - 1 + padding) // stride + 1))
            rows = pages[image, first * wide : last * wide]
            if gates is not None:
                room = room if len(room) >= len(rows) else torch.empty_like(rows)
                let_through(as_array(rows), as_array(gates[image, first * wide : last * wide]), as_array(room))
                rows = room[: len(rows)]
            products = torch.mm(matrix, rows.t())
            parts = as_array(products.view(taps, taps, channels, last - first, wide))
            fold(parts, first, top, bottom, padding, stride, targets[image])

    side_by_side([work] * torch.get_num_threads())
    return found


def _rows_of(maps: Tensor) -> Tensor:
    """N×K×H×W as N×(H·W)×K; where it lies, if that is in channels_last."""
    return maps.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1, 2)
