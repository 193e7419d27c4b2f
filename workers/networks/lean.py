"""The copy of a network for methods that run it hundreds of times: float32 with fewer multiplications.

By Winograd's minimal filtering a 3×3 convolution needs a quarter to a fifth of its multiplications (Lavin & Gray 2016,
arXiv 1509.09308, section 4). NNPACK, which comes with torch, does that on a CPU as F(6×6, 3×3) for one image at a time,
1.4 to 2 times as fast as torch's usual convolution where maps have 56 pixels a side and more (bench/convolutions.py);
torch itself asks it on telephones only. It rounds to about 1e-5 of a layer's largest value, torch's own to 3e-7: a unit
that close to a threshold may fall on its other side.

Import rule: torch only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

TAPS = 3
LEAST_PIXELS = 50 * 50
"""Outputs of a channel below which transforming the kernels, as NNPACK does at each call, costs more than it saves."""

LEAST_MULTIPLICATIONS = 500_000_000
"""Of an image, by the definition, below which moving the tiles costs more than the multiplications saved."""

LEAST_CHANNELS = 64


def make_lean(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the network whose 3×3 convolutions filter minimally where that is quicker.

    Args:
        network: float32, in evaluation mode, no weight requiring a gradient; not touched. Its weights are shared.
        shapes: C×H×W of the output of each module by name, at the network's own input size.

    Returns:
        The copy, or `network` itself where nothing would become quicker. Float32 in and out, differentiable once; an
        image's result does not depend on the other images of its batch, bit for bit.
    """
    chosen = [
        name
        for name, module in network.named_modules()
        if _can_be_lean(module) and len(shapes.get(name, ())) == 3 and _pays(module, *shapes[name][1:])
    ]
    if not chosen:
        return network
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    lean = copy.deepcopy(network, shared)
    for name in chosen:
        lean.get_submodule(name).__class__ = _LeanConv2d
    return lean


def _can_be_lean(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (TAPS, TAPS)
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding in ((0, 0), (1, 1))
        and module.padding_mode == "zeros"
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and bool(torch._nnpack_available())  # also prepares it, without which every call fails
    )


def _pays(convolution: nn.Conv2d, height: int, width: int) -> bool:
    """Whether it does at that size of the output."""
    channels = (convolution.in_channels, convolution.out_channels)
    multiplications = TAPS * TAPS * channels[0] * channels[1] * height * width
    return (
        min(channels) >= LEAST_CHANNELS and height * width >= LEAST_PIXELS and multiplications >= LEAST_MULTIPLICATIONS
    )


class _LeanConv2d(nn.Conv2d):
    """A 3×3 convolution of stride 1 that filters minimally where the maps are large."""

    def forward(self, inputs: Tensor) -> Tensor:
        """N×C×H×W → N×K×H′×W′."""
        shrink = TAPS - 1 - 2 * int(self.padding[0])
        if inputs.dim() != 4 or not _pays(self, inputs.shape[-2] - shrink, inputs.shape[-1] - shrink):
            return super().forward(inputs)
        found: Tensor = _MinimalFiltering.apply(inputs, self.weight, self.bias, int(self.padding[0]))
        return found


# An observer tells torch's own classes, whose inner operations are no layers, by name and module.
_LeanConv2d.__name__ = _LeanConv2d.__qualname__ = nn.Conv2d.__name__
_LeanConv2d.__module__ = nn.Conv2d.__module__


class _MinimalFiltering(torch.autograd.Function):
    """A convolution by NNPACK, and its gradient with respect to the inputs: a convolution with the kernels turned."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.padding = padding
        return _one_by_one(inputs, weight, bias, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        (weight,) = ctx.saved_tensors
        turned = weight.transpose(0, 1).flip(2, 3).contiguous()
        return _one_by_one(slopes, turned, None, TAPS - 1 - ctx.padding), None, None, None


def _one_by_one(inputs: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Image by image: for several at once NNPACK takes a slower way, whose rounding depends on how many they are."""
    with torch._C.DisableTorchFunction():  # what happens in here is one convolution to whoever watches
        found = [
            torch._nnpack_spatial_convolution(image, weight, bias, (padding, padding))
            for image in torch.split(inputs.contiguous(), 1)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)
