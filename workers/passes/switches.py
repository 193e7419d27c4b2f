"""Max-pool switches where windows overlap: which of several outputs a pixel answers to.

A switch is the place of a window's maximum. With overlapping windows (3×3, stride 2) one pixel can be the switch of
several outputs. Going back, autograd adds their signals; `max_unpool2d` writes them one after another, so that the last
window, in row-major order, is the one that stays. Both are found in deconvnets; this file makes the second
deterministic on every device, for any padding and for ceil mode, since signals return to the input's own places.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import _C, Tensor

_MAX_POOLS: dict[Any, Any] = {
    F.max_pool2d: F.max_pool2d, torch.max_pool2d: F.max_pool2d, F.max_pool2d_with_indices: F.max_pool2d,
    F.adaptive_max_pool2d: F.adaptive_max_pool2d, F.adaptive_max_pool2d_with_indices: F.adaptive_max_pool2d,
    _C._nn.max_pool2d_with_indices: F.max_pool2d,
}  # fmt: skip
_WITH_INDICES = (F.max_pool2d_with_indices, F.adaptive_max_pool2d_with_indices, _C._nn.max_pool2d_with_indices)


def is_max_pool(func: Any) -> bool:
    """Whether a function seen by a torch function mode is a max-pool."""
    return func in _MAX_POOLS


class KeepLast(torch.autograd.Function):
    """The identity forwards; backwards only the signals of windows that are the last at their switch."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, last: Tensor) -> Tensor:
        ctx.save_for_backward(last)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> tuple[Tensor | None, ...]:
        (last,) = ctx.saved_tensors
        return torch.where(last, signals[0], 0.0), None


def last_at_switch(switches: Tensor, plane: int) -> Tensor:
    """For each window, whether no later window (row-major) has the same switch.

    Args:
        switches: int64, …×h×w, flat positions within an input plane of `plane` pixels.

    Returns:
        bool, of the shape of `switches`.
    """
    flat = switches.flatten(-2)
    order = torch.arange(flat.shape[-1], device=flat.device).expand_as(flat)
    owner = order.new_full((*flat.shape[:-1], plane), -1).scatter_reduce(-1, flat, order, "amax")
    return (owner.gather(-1, flat) == order).view_as(switches)


def pool_last_wins(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A max-pool call whose backward keeps, for each pixel, the signal of the last window that it is the switch of."""
    # torch sends a call that asks for its switches here under another name, with the wish among its arguments still.
    asked = func in _WITH_INDICES or kwargs.get("return_indices", False)
    output, switches = _MAX_POOLS[func](*args, **{**kwargs, "return_indices": True})
    x = args[0] if args else kwargs["input"]
    kept = KeepLast.apply(output, last_at_switch(switches, x.shape[-2] * x.shape[-1]))
    return (kept, switches) if asked else kept
