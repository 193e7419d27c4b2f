"""Networks whose large 3×3 convolutions filter minimally, for methods that run them hundreds of times on a CPU.

torch computes such a convolution there by its definition, at the processor's peak. Minimal filtering needs a quarter
of the multiplications. It rounds to 4e-6 of a layer's largest value in float32 (torch's own: 3e-7) and to 2 % of a
layer in bfloat16 (0.2 %); a unit that close to a threshold may fall on its other side. See docs/decisions/0005 and
0007.

Import rule: torch and workers.mathematics.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TypeGuard

import torch
from torch import Tensor, nn

from workers.mathematics.minimal_filtering import LEAST_CHANNELS, TAPS, Kernels, can_filter, convolve

LEAST_MULTIPLICATIONS = 200_000_000
"""Of an image, by the definition, below which handing work to threads costs more than what is saved."""


def make_lean(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy of the network whose large 3×3 convolutions filter minimally.

    Args:
        network: float32 or bfloat16, in evaluation mode, no weight requiring a gradient; not touched.
        shapes: C×H×W of the output of each module by name, at the network's own input size.

    Returns:
        The copy, with the same weights in memory, or `network` itself where nothing would become quicker. It is
        differentiable once, with respect to its inputs. In float32 an image's result does not depend on the other
        images of its batch, bit for bit.
    """
    chosen = [
        name
        for name, module in network.named_modules()
        if _can_be_lean(module) and len(shapes.get(name, ())) == 3 and _pays(module, *shapes[name][1:])
    ]
    if not chosen or not can_filter():
        return network
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    lean = copy.deepcopy(network, shared)
    for name in chosen:
        lean.get_submodule(name).__class__ = _LeanConv2d
    return lean


def factor_bytes(network: nn.Module) -> int:
    """Bytes that the transformed kernels of a network take, of those convolutions that ran."""
    made = (module.kernels for module in network.modules() if isinstance(module, _LeanConv2d))
    return sum(kernels.nbytes for kernels in made if kernels is not None)


def _can_be_lean(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (TAPS, TAPS)
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding in ((0, 0), (1, 1))
        and module.padding_mode == "zeros"
        and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
    )


def _pays(convolution: nn.Conv2d, height: int, width: int) -> bool:
    """Whether it does at that size of the output."""
    product = convolution.in_channels * convolution.out_channels
    return TAPS * TAPS * product * height * width >= LEAST_MULTIPLICATIONS


class _LeanConv2d(nn.Conv2d):
    """A 3×3 convolution of stride 1 that filters minimally where the maps are large."""

    kernels: Kernels | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """N×C×H×W → N×K×H′×W′."""
        padding = int(self.padding[0])
        shrink = TAPS - 1 - 2 * padding
        if inputs.dim() != 4 or not _pays(self, inputs.shape[2] - shrink, inputs.shape[3] - shrink):
            return super().forward(inputs)
        if self.kernels is None:
            self.kernels = Kernels(self.weight)
        return convolve(inputs, self.kernels, self.bias, padding)


# An observer tells torch's own classes, whose inner operations are no layers, by name and module.
_LeanConv2d.__name__ = _LeanConv2d.__qualname__ = nn.Conv2d.__name__
_LeanConv2d.__module__ = nn.Conv2d.__module__
