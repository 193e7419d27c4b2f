"""The copy of a network that serves precision `fast`: quicker arithmetic inside, float32 at the edges."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively: AVX512-BF16 or AMX on a CPU, Ampere or later on a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported())
    return False


def make_fast(network: nn.Module, device: torch.device) -> nn.Module:
    """A copy of the network in channels_last, in bfloat16 where the device has it.

    Weights are cast once, here, not at each call. Batch normalisation keeps its float32 numbers, which cost nothing
    there. Calls have the same names as in `network`, because the copy is the same class with another `forward`.

    Args:
        network: float32, in evaluation mode; not touched.
        device: where it runs.

    Returns:
        A network that takes and returns float32 tensors; captured tensors inside may be bfloat16.
    """
    fast = copy.deepcopy(network)
    dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
    for module in fast.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    fast = fast.to(memory_format=torch.channels_last)
    kind = type(network)

    def forward(self: Any, inputs: Tensor) -> Any:
        output = kind.forward(self, inputs.to(dtype=dtype, memory_format=torch.channels_last))
        return output.float() if isinstance(output, Tensor) else output

    # The class keeps its module's name, by which an observer tells torch's own classes from others.
    fast.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return fast.eval().requires_grad_(False)
