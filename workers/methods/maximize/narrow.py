"""A convolution at which a forward ends, computed only in the channels that somebody reads.

An ascent on one channel of 512 would else compute the other 511 and drop them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.passes.calls import StopForward, observed_class

MOST_SHARE = 0.25
"""Of a layer's channels; of more, the whole layer is as quick by the way that is made for it."""


def narrow_activations(module: nn.Module, inputs: Tensor, layer: str, channels: Collection[int]) -> Tensor | None:
    """The output of a layer in some channels, zeros in the others; the forward stops there.

    Args:
        module: the network, in evaluation mode; left as it was found, also on errors.
        inputs: the prepared batch, N×C×H×W.
        layer: a call's name.
        channels: which are read.

    Returns:
        N×K×H×W, differentiable, or None where the layer is no plain convolution, or most of it is read.
    """
    try:
        target = module.get_submodule(layer)
    except AttributeError:  # a function's call, or a module's second
        return None
    # A class of somebody else's may pad or scale in a way of its own; who hooks it wants the whole layer.
    plain = observed_class(target) is nn.Conv2d
    if not plain or not isinstance(target, nn.Conv2d) or target._forward_hooks or target._forward_pre_hooks:
        return None
    few = 0 < len(channels) <= MOST_SHARE * target.out_channels
    if not few or not set(channels) <= set(range(target.out_channels)):
        return None
    if target.groups > 1 or target.padding_mode != "zeros" or isinstance(target.padding, str):
        return None
    given: list[Tensor] = []

    def stop(_convolution: nn.Module, arguments: tuple[Any, ...]) -> None:
        given.append(arguments[0])
        raise StopForward

    handle = target.register_forward_pre_hook(stop)
    try:
        module(inputs)
    except StopForward:
        pass
    finally:
        handle.remove()
    if not given:
        raise KeyError(f"this call never happened: {layer}")
    chosen = torch.tensor(sorted(channels), device=inputs.device)
    bias = None if target.bias is None else target.bias[chosen]
    found = functional.conv2d(given[0], target.weight[chosen], bias, target.stride, target.padding, target.dilation)
    whole = found.new_zeros(len(found), target.out_channels, *found.shape[2:])
    return whole.index_copy(1, chosen, found)
