"""The copy of a network that serves precision `fast`: quicker arithmetic inside, float32 at the edges."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from workers.passes.calls import observed_class


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively: AVX512-BF16 or AMX on a CPU, Ampere or later on a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported())
    return False


def make_fast(network: nn.Module, dtype: torch.dtype, *, channels_last: bool = True) -> nn.Module:
    """A copy of the network in quicker arithmetic and layout.

    Weights are cast once, here, not at each call. Batch normalisation keeps its float32 numbers, which cost nothing
    there, and parameters of other than four dimensions their layout. Calls have the same names as in `network`, because
    the copy is the same class with another `forward`.

    Args:
        network: float32, in evaluation mode; not touched.
        dtype: bfloat16, or float32.
        channels_last: whether inputs and weights are laid out with the channels next to each other; else contiguously.

    Returns:
        A network that takes and returns float32 tensors; captured tensors inside may be of `dtype`.
    """
    fast = copy.deepcopy(network)
    for module in fast.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
            if channels_last and tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    kind, layout = type(network), torch.channels_last if channels_last else torch.contiguous_format

    def forward(self: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        return _in_float32(kind.forward(self, inputs.to(dtype).contiguous(memory_format=layout), *args, **kwargs))

    fast.__class__ = type(kind.__name__, (kind,), {"forward": forward, "observed_as": observed_class(network)})
    return fast.eval().requires_grad_(False)


def _in_float32(output: Any) -> Any:
    """What a network returned, its numbers in float32; tuples, lists and mappings member by member."""
    return tree_map_only(Tensor, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, output)
