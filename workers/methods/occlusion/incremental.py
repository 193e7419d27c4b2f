"""A network run again on inputs that differ from a known one in a small window, recomputing only what that touches.

The network is run once and its operations are written down with their outputs (a tape). For another input, a changed
window of the input changes a window of the next operation's output, and so on; outside of it everything is known. Where
the window has grown to most of the map, or an operation needs the whole map, the rest is computed whole. This is exact:
the same sums are taken, at other places in memory (Nakandala et al. 2019, "Incremental and approximate inference for
faster occlusion-based deep CNN explanations", section 4).

Networks are taken as they come: chains (VGG, AlexNet) and branches that meet again by addition or concatenation. A
network with an operation not known here has no tape, and is run whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.methods.occlusion.recording import NoTape, Recorder, Step, call, convolution_of, geometry
from workers.passes.calls import CallObserver

_WHOLE = 0.75
"""Share of a map from which on it is cheaper to compute all of it."""


@dataclass(frozen=True)
class _Windows:
    """New values inside one window for each of N inputs; all windows of one size, outside the base holds."""

    corners: list[tuple[int, int]]
    data: Tensor  # N×C×h×w

    @property
    def size(self) -> tuple[int, int]:
        return int(self.data.shape[2]), int(self.data.shape[3])


_State = Tensor | _Windows | None
"""Of a value for N inputs: all new, new in windows, or (None) as in the base."""


class Tape:
    """A network's operations on one input, and their outputs.

    Args:
        module: in evaluation mode; left as it was found.
        x: the base input, 1×C×H×W.
        watch: a layer whose activation is wanted too.
        run: gives the output of the network for an input, where that is not simply what it returns.

    Raises:
        NoTape: for this network there is no shortcut.
    """

    def __init__(
        self,
        module: nn.Module,
        x: Tensor,
        watch: str | None = None,
        run: Callable[[nn.Module, Tensor], Any] = lambda module, x: module(x),
    ) -> None:
        x = x.contiguous(memory_format=torch.channels_last)
        recorder = Recorder(x)
        watched: list[int] = []

        def visit(_name: str, _kind: str, _part: nn.Module | None, output: Tensor) -> Tensor:
            watched.append(recorder.number(output))
            return output

        with torch.no_grad(), recorder, CallObserver(module, visit, [watch] if watch is not None else []):
            output = run(module, x)
        if not isinstance(output, Tensor):
            raise NoTape("the network returns more than one tensor")
        self._base = recorder.values
        self._steps = recorder.steps
        self._output = recorder.number(output)
        self._watched = watched[0] if watched else None
        with torch.no_grad():
            plain = run(module, x)
        if not torch.allclose(plain.float(), output.float(), rtol=1e-4, atol=1e-5 * float(plain.abs().max())):
            raise NoTape("the network overwrites values that it uses again")

    @property
    def output(self) -> Tensor:
        """The base's output, 1×classes."""
        return self._base[self._output]

    @property
    def watched(self) -> Tensor:
        """The base's activation at the watched layer, 1×C×H×W."""
        if self._watched is None:
            raise ValueError("no layer is watched")
        return self._base[self._watched]

    @torch.no_grad()
    def run(self, corners: Sequence[tuple[int, int]], patch: Tensor, channel: int = 0) -> tuple[Tensor, Tensor]:
        """The network's outputs where the base input is replaced by a patch at each of N places.

        Args:
            corners: (top, left) of each window, which lies within the input.
            patch: C×h×w, or N×C×h×w.
            channel: of the watched layer.

        Returns:
            N×classes outputs, and N maps of the watched channel (N×0×0 when no layer is watched).
        """
        patches = patch if patch.dim() == 4 else patch.expand(len(corners), -1, -1, -1)
        states: dict[int, _State] = {0: _Windows(list(corners), patches.contiguous(memory_format=torch.channels_last))}
        last_use = self._last_uses()
        maps = self._base[0].new_zeros(len(corners), 0, 0)
        for number, step in enumerate(self._steps, 1):
            states[number] = self._step(step, number, states, len(corners))
            if number == self._watched:
                maps = self._materialize(number, states[number], len(corners), channel)
            for value in step.takes:
                if last_use[value] == number:
                    states.pop(value, None)
        return self._materialize(self._output, states[self._output], len(corners)), maps

    def _last_uses(self) -> dict[int, int]:
        uses = {value: number for number, step in enumerate(self._steps, 1) for value in step.takes}
        return uses | {self._output: len(self._steps) + 1}

    def _step(self, step: Step, number: int, states: Mapping[int, _State], count: int) -> _State:
        given = [states.get(value) for value in step.takes]
        if all(state is None for state in given):
            return None
        if step.kind == "reshape":
            return self._whole(step.takes[0], given[0], count).reshape(count, *self._base[number].shape[1:])
        if step.kind == "whole" or any(isinstance(state, Tensor) for state in given):
            inputs = [self._whole(value, state, count) for value, state in zip(step.takes, given, strict=True)]
            result: Tensor = call(step, inputs)
            return result
        windows = _SPATIAL[step.kind](self, step, number, given)
        height, width = self._base[number].shape[2:]
        if windows.size[0] * windows.size[1] >= _WHOLE * height * width:
            return self._whole(number, windows, count)
        return windows

    def _pointwise(self, step: Step, number: int, given: list[_State]) -> _Windows:
        (state,) = given
        assert isinstance(state, _Windows)
        return _Windows(state.corners, call(step, [state.data]))

    def _pad(self, step: Step, number: int, given: list[_State]) -> _Windows:
        (state,) = given
        assert isinstance(state, _Windows)
        left, _, top, _ = step.args[1]
        return _Windows([(y + top, x + left) for y, x in state.corners], state.data)

    def _meet(self, step: Step, number: int, given: list[_State]) -> _Windows:
        """Values added, multiplied or concatenated: over the window that holds the windows of all."""
        windows = [state for state in given if isinstance(state, _Windows)]
        lows = [
            tuple(min(one.corners[n][i] for one in windows) for i in (0, 1)) for n in range(len(windows[0].corners))
        ]
        highs = [
            tuple(max(one.corners[n][i] + one.size[i] for one in windows) for i in (0, 1)) for n in range(len(lows))
        ]
        limit = (int(self._base[number].shape[2]), int(self._base[number].shape[3]))
        corners, size = _same_size(lows, highs, limit)
        return _Windows(
            corners,
            call(step, [self._gather(v, s, corners, size) for v, s in zip(step.takes, given, strict=True)]),
        )

    def _slide(self, step: Step, number: int, given: list[_State]) -> _Windows:
        """A convolution or a max-pool: the outputs whose windows touch the changed window."""
        (state,) = given
        assert isinstance(state, _Windows)
        kernel, stride, padding, dilation = geometry(step)
        limit = (int(self._base[number].shape[2]), int(self._base[number].shape[3]))
        reach = [(kernel[i] - 1) * dilation[i] for i in (0, 1)]
        lows, highs = [], []
        for corner in state.corners:
            lows.append(tuple(max(-((reach[i] - corner[i] - padding[i]) // stride[i]), 0) for i in (0, 1)))
            highs.append(
                tuple(min((corner[i] + state.size[i] - 1 + padding[i]) // stride[i] + 1, limit[i]) for i in (0, 1))
            )
        corners, size = _same_size(lows, highs, limit)
        need = (
            (size[0] - 1) * stride[0] + reach[0] + 1,
            (size[1] - 1) * stride[1] + reach[1] + 1,
        )
        sources = [(y * stride[0] - padding[0], x * stride[1] - padding[1]) for y, x in corners]
        outside = float("-inf") if step.kind == "max_pool" else 0.0
        inputs = self._gather(step.takes[0], state, sources, need, outside)
        if step.kind == "max_pool":
            return _Windows(corners, F.max_pool2d(inputs, kernel, stride, 0, dilation))
        weight, bias, groups = convolution_of(step)
        return _Windows(corners, F.conv2d(inputs, weight, bias, stride, 0, dilation, groups))

    def _gather(
        self,
        value: int,
        state: _State,
        corners: Sequence[tuple[int, int]],
        size: tuple[int, int],
        outside: float = 0.0,
    ) -> Tensor:
        """Windows of a value, N×C×h×w; they may reach beyond the map, where `outside` is."""
        base = self._base[value]
        # Channels last: a row of a window is one piece of memory, and convolutions are quicker.
        gathered = torch.empty(
            (len(corners), int(base.shape[1]), *size),
            dtype=base.dtype,
            device=base.device,
            memory_format=torch.channels_last,
        )
        limit = (int(base.shape[2]), int(base.shape[3]))
        if any(corner[i] < 0 or corner[i] + size[i] > limit[i] for corner in corners for i in (0, 1)):
            gathered.fill_(outside)
        for n, corner in enumerate(corners):
            _paste(gathered[n], base[0], (-corner[0], -corner[1]))
            if isinstance(state, _Windows):
                at = state.corners[n]
                _paste(gathered[n], state.data[n], (at[0] - corner[0], at[1] - corner[1]))
        return gathered

    def _whole(self, value: int, state: _State, count: int) -> Tensor:
        """A value for all N inputs, N×…"""
        if isinstance(state, Tensor):
            return state
        whole = self._base[value].expand(count, *self._base[value].shape[1:]).clone()
        if isinstance(state, _Windows):
            for n, corner in enumerate(state.corners):
                _paste(whole[n], state.data[n], corner)
        return whole

    def _materialize(self, value: int, state: _State, count: int, channel: int | None = None) -> Tensor:
        if channel is None:
            return self._whole(value, state, count).float()
        if isinstance(state, Tensor):
            return state[:, channel].float()
        base = self._base[value][0, channel]
        maps = base.expand(count, *base.shape).clone()
        if isinstance(state, _Windows):
            for n, corner in enumerate(state.corners):
                _paste(maps[n][None], state.data[n, channel][None], corner)
        return maps.float()


_SPATIAL: dict[str, Callable[[Tape, Step, int, list[_State]], _Windows]] = {
    "pointwise": Tape._pointwise,
    "pad": Tape._pad,
    "meet": Tape._meet,
    "convolution": Tape._slide,
    "max_pool": Tape._slide,
}


def _same_size(
    lows: Sequence[tuple[int, ...]], highs: Sequence[tuple[int, ...]], limit: tuple[int, int]
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Windows of one size that hold the given ones (low to high), inside a map of size `limit`."""
    size = tuple(
        max(min(max(high[i] - low[i] for low, high in zip(lows, highs, strict=True)), limit[i]), 1) for i in (0, 1)
    )
    corners = [(min(low[0], limit[0] - size[0]), min(low[1], limit[1] - size[1])) for low in lows]
    return corners, (size[0], size[1])


def _paste(target: Tensor, source: Tensor, corner: tuple[int, int]) -> None:
    """Write a C×h×w source into a C×H×W target at (top, left), what lies outside left out."""
    top, left = max(corner[0], 0), max(corner[1], 0)
    bottom = min(corner[0] + int(source.shape[1]), int(target.shape[1]))
    right = min(corner[1] + int(source.shape[2]), int(target.shape[2]))
    if bottom > top and right > left:
        y, x = top - corner[0], left - corner[1]
        target[:, top:bottom, left:right] = source[:, y : y + bottom - top, x : x + right - left]
