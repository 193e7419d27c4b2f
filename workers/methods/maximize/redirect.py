"""Redirected gradients of rectifications, for ascents that start where nothing is active.

Source: Lucid, `misc/redirected_relu_grad.py` (Olah et al. 2017): in the first 16 steps, where the gradient of a
rectification is zero for a whole batch element, let the incoming gradient through unless it pushes an input below 0
lower, or one above the upper limit higher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.passes.rules import Gate, RuleMode


def redirected(signal: Tensor, sides: Tensor, rows: Tensor) -> Tensor:
    """The gradient of a rectification, redirected in rows where nothing would pass.

    Args:
        signal: gradient of a loss that is minimized with regard to the output, B×….
        sides: of the input, int8, B×…: −1 below or at 0, 0 between, 1 at or above the upper limit.
        rows: bool, B: the rows that may be redirected.

    Returns:
        The true gradient in every row where any of it is not zero, or that may not be redirected; else the signal but
        where it would push the input further out (positive below, negative above, as descent moves against it).
    """
    true = torch.where(sides == 0, signal, 0.0)
    silent = (true.flatten(1) == 0).all(1) & rows
    if not bool(silent.any()):
        return true
    outward = ((sides < 0) & (signal > 0)) | ((sides > 0) & (signal < 0))
    shape = (-1, *[1] * (signal.dim() - 1))
    return torch.where(silent.view(shape) & ~outward, signal, true)


class _Redirect(torch.autograd.Function):
    """A rectification whose backward redirects; forward is the network's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Gate, rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        sides = (x <= 0).to(torch.int8).neg_()  # kept, as an in-place rectification overwrites x
        if gate.limit is not None:
            sides += x >= gate.limit
        ctx.save_for_backward(sides, rows)
        version = x._version
        output = compute(x)
        if output is x or x._version != version:
            ctx.mark_dirty(x)
            return x
        return output

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> tuple[Tensor | None, ...]:
        sides, rows = ctx.saved_tensors
        return redirected(signals[0], sides, rows), None, None, None


class RedirectMode(RuleMode):
    """While entered around a forward pass, ReLU, ReLU6 and their like get the redirected gradient in the given rows.

    Leaky kinds and smooth gates always pass something and keep their own gradient.

    Args:
        rows: for each row of the batch, whether it may be redirected.
    """

    def __init__(self, rows: Sequence[bool], device: torch.device) -> None:
        super().__init__("gradient")
        self._rows = torch.tensor(list(rows), dtype=torch.bool, device=device)

    def _rectify(self, gate: Gate, nonstandard: bool, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, rest = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
        leaky = not isinstance(gate.slope, float) or gate.slope != 0.0
        if nonstandard or leaky or not x.requires_grad or x.shape[0] != len(self._rows):
            return func(x, *rest, **kwargs)
        return _Redirect.apply(x, gate, self._rows, lambda tensor: func(tensor, *rest, **kwargs))

    def _pool(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)
