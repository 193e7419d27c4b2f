"""A maker of replayed functions for the CPU whose memory behaves as a CUDA graph's: fixed, overwritten each time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.passes.replay import Function, Maker


class StaticBuffers:
    """Records functions, counts what it does, and tells a time of its own.

    Args:
        plain_s: what a measured step takes as long as nothing is recorded of it.
        replayed_s: what it takes afterwards.
        nbytes: what a recorded function is said to hold.
        error: raised instead of recording.
    """

    def __init__(
        self, plain_s: float = 0.01, replayed_s: float = 0.001, nbytes: int = 100, error: Exception | None = None
    ) -> None:
        self._plain_s, self._replayed_s, self._nbytes, self._error = plain_s, replayed_s, nbytes, error
        self._now = 0.0
        self._cost = plain_s
        self.shapes: list[tuple[int, ...]] = []
        self.buffers: list[Tensor] = []
        self.replays = 0

    def maker(self) -> Maker:
        """For `workers.passes.replay`."""
        return Maker(self._record, self._clock)

    def overwrite(self) -> None:
        """What any later replay may do to whatever still looks at the buffers."""
        for buffer in self.buffers:
            buffer.fill_(torch.nan)

    def _clock(self) -> float:
        self._now += self._cost
        return self._now

    def _record(self, function: Function, inputs: Tensor) -> tuple[Function, int]:
        self.shapes.append(tuple(inputs.shape))
        if self._error is not None:
            raise self._error
        self._cost = self._replayed_s
        return self._replayed(function, inputs), self._nbytes

    def _replayed(self, function: Function, inputs: Tensor) -> Function:
        given = inputs.detach().clone().requires_grad_()
        outputs = function(given)
        (slopes,) = torch.autograd.grad(outputs, given, [torch.ones_like(output) for output in outputs])
        kept, owner = [output.detach().clone() for output in outputs], self
        slopes = slopes.clone()
        self.buffers += [*kept, slopes]
        graph: dict[str, Any] = {}

        class Replayed(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, fresh: Tensor) -> Any:
                owner.replays += 1
                with torch.enable_grad():
                    leaf = fresh.detach().clone().requires_grad_()
                    graph["leaf"], graph["outputs"] = leaf, function(leaf)
                for buffer, output in zip(kept, graph["outputs"], strict=True):
                    buffer.copy_(output.detach())
                return tuple(buffer.detach() for buffer in kept)

            @staticmethod
            def backward(ctx: Any, *signals: Tensor) -> Tensor:
                (found,) = torch.autograd.grad(graph["outputs"], graph["leaf"], signals)
                return slopes.copy_(found).detach()

        def replayed(fresh: Tensor) -> tuple[Tensor, ...]:
            owner._cost = owner._replayed_s
            found: tuple[Tensor, ...] = Replayed.apply(fresh)
            return found

        return replayed
