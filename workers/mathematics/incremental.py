"""A network run again on inputs that differ from a known one in a small window, recomputing only what that touches.

The network is run once and its operations are written down with their outputs (a tape). For another input, a changed
window of the input changes a window of the next operation's output, and so on; outside of it everything is known. Where
the window has grown to most of the map, or an operation needs the whole map, the rest is computed whole. This is exact:
the same sums are taken, at other places in memory (Nakandala et al. 2019, "Incremental and approximate inference for
faster occlusion-based deep CNN explanations", section 4).

Networks are taken as they come: chains (VGG, AlexNet) and branches that meet again by addition or concatenation. A
network with an operation not known here has no tape, and is run whole.

Import rule: torch and this package only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workers.mathematics.calls import CallObserver

_WHOLE = 0.75
"""Share of a map from which on it is cheaper to compute all of it."""

_IN_PLACE: dict[Any, Any] = {
    torch.relu_: torch.relu, Tensor.relu_: torch.relu, F.hardtanh_: F.hardtanh, F.leaky_relu_: F.leaky_relu,
    Tensor.add_: torch.add, Tensor.__iadd__: torch.add, Tensor.mul_: torch.mul, Tensor.__imul__: torch.mul,
    Tensor.clamp_: torch.clamp,
}  # fmt: skip
_POINTWISE = {
    F.relu, torch.relu, Tensor.relu, F.relu6, F.hardtanh, F.leaky_relu, F.prelu, F.silu, F.gelu, F.hardswish,
    F.hardsigmoid, F.elu, F.mish, F.softplus, torch.sigmoid, Tensor.sigmoid, F.sigmoid, torch.tanh, F.tanh, torch.clamp,
    F.batch_norm, F.local_response_norm, Tensor.clone, Tensor.contiguous, Tensor.to, Tensor.float, Tensor.bfloat16,
}  # fmt: skip
"""Operations on each position by itself (across channels or not), in evaluation."""
_DROPOUTS = {F.dropout, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
_BINARY = {torch.add, Tensor.add, Tensor.__add__, torch.mul, Tensor.mul, Tensor.__mul__}
_RESHAPES = {torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape, torch.squeeze, Tensor.squeeze}
_WHOLE_MAP = {
    F.adaptive_avg_pool2d, F.avg_pool2d, F.adaptive_max_pool2d, F.linear, F.softmax, torch.softmax,
    Tensor.softmax, torch.mean, Tensor.mean, F.interpolate,
}  # fmt: skip


class NoTape(Exception):  # noqa: N818  (an answer, not an error: such a network is run whole)
    """The network does something for which no rule is known here."""


@dataclass(frozen=True)
class _Step:
    """One operation: its kind, how to call it, and the numbers of the values it takes."""

    kind: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    takes: tuple[int, ...]


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

    Raises:
        NoTape: for this network there is no shortcut.
    """

    def __init__(self, module: nn.Module, x: Tensor, watch: str | None = None) -> None:
        x = x.contiguous(memory_format=torch.channels_last)
        recorder = _Recorder(x)
        watched: list[int] = []

        def visit(name: str, kind: str, part: nn.Module | None, output: Tensor) -> Tensor:
            del name, kind, part
            watched.append(recorder.number(output))
            return output

        with torch.no_grad(), recorder, CallObserver(module, visit, [watch] if watch is not None else []):
            output = module(x)
        if not isinstance(output, Tensor):
            raise NoTape("the network returns more than one tensor")
        self._base = recorder.values
        self._steps = recorder.steps
        self._output = recorder.number(output)
        self._watched = watched[0] if watched else None
        with torch.no_grad():
            plain = module(x)
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

    def _step(self, step: _Step, number: int, states: Mapping[int, _State], count: int) -> _State:
        given = [states.get(value) for value in step.takes]
        if all(state is None for state in given):
            return None
        if step.kind == "reshape":
            return self._whole(step.takes[0], given[0], count).reshape(count, *self._base[number].shape[1:])
        if step.kind == "whole" or any(isinstance(state, Tensor) for state in given):
            inputs = [self._whole(value, state, count) for value, state in zip(step.takes, given, strict=True)]
            result: Tensor = _call(step, inputs)
            return result
        windows = _SPATIAL[step.kind](self, step, number, given)
        height, width = self._base[number].shape[2:]
        if windows.size[0] * windows.size[1] >= _WHOLE * height * width:
            return self._whole(number, windows, count)
        return windows

    def _pointwise(self, step: _Step, number: int, given: list[_State]) -> _Windows:
        del number
        (state,) = given
        assert isinstance(state, _Windows)
        return _Windows(state.corners, _call(step, [state.data]))

    def _pad(self, step: _Step, number: int, given: list[_State]) -> _Windows:
        del number
        (state,) = given
        assert isinstance(state, _Windows)
        left, _, top, _ = step.args[1]
        return _Windows([(y + top, x + left) for y, x in state.corners], state.data)

    def _meet(self, step: _Step, number: int, given: list[_State]) -> _Windows:
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
            _call(step, [self._gather(v, s, corners, size) for v, s in zip(step.takes, given, strict=True)]),
        )

    def _slide(self, step: _Step, number: int, given: list[_State]) -> _Windows:
        """A convolution or a max-pool: the outputs whose windows touch the changed window."""
        (state,) = given
        assert isinstance(state, _Windows)
        kernel, stride, padding, dilation = _geometry(step)
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
        weight, bias, groups = _convolution(step)
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


_SPATIAL: dict[str, Callable[[Tape, _Step, int, list[_State]], _Windows]] = {
    "pointwise": Tape._pointwise,
    "pad": Tape._pad,
    "meet": Tape._meet,
    "convolution": Tape._slide,
    "max_pool": Tape._slide,
}


class _Recorder(TorchFunctionMode):
    """Writes down every operation that takes the input or what came of it; in-place ones are done out of place."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.values: list[Tensor] = [x]
        self.steps: list[_Step] = []
        self._numbers: dict[int, int] = {id(x): 0}

    def number(self, tensor: Tensor) -> int:
        """Which value a tensor is."""
        found = self._numbers.get(id(tensor))
        if found is None:
            raise NoTape("a tensor came from elsewhere")
        return found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        takes, plain = self._arguments(args, kwargs)
        if not takes:
            return func(*args, **kwargs)
        func = _IN_PLACE.get(func, func)
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        output = func(*args, **kwargs)
        if not isinstance(output, Tensor):
            if isinstance(output, (tuple, list)) and any(isinstance(one, Tensor) for one in output):
                raise NoTape(f"{getattr(func, '__name__', func)} gives several tensors")
            return output
        if id(output) in self._numbers:  # dropout in evaluation and its like give back what they took
            return output
        kind = _kind(func, args, kwargs, takes, output, self.values)
        self.steps.append(_Step(kind, func, plain, kwargs, takes))
        self._numbers[id(output)] = len(self.values)
        self.values.append(output)
        return output

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        """Numbers of the values among the arguments, in order, and the arguments with None in their places."""
        takes: list[int] = []
        if any(id(value) in self._numbers for value in kwargs.values() if isinstance(value, Tensor)):
            raise NoTape("a value is given by keyword")

        def note(value: Any) -> Any:
            if isinstance(value, Tensor) and id(value) in self._numbers:
                takes.append(self._numbers[id(value)])
                return None
            if isinstance(value, (list, tuple)) and any(isinstance(one, Tensor) for one in value):
                return [note(one) for one in value]
            return value

        plain = tuple(note(value) for value in args)
        return tuple(takes), plain


def _kind(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], takes: tuple[int, ...], output: Tensor, values: Any
) -> str:
    """By which rule a change goes through an operation."""
    maps = output.dim() == 4
    kind: str | None = None
    if func is torch.conv2d and maps and not isinstance(_at(args, kwargs, 4, "padding", 0), str):
        kind = "convolution"
    elif func in (F.max_pool2d, torch.max_pool2d):
        kind = "max_pool"
    elif func in _POINTWISE or func in _DROPOUTS:
        kind = "pointwise" if maps else "whole"
    elif func in _BINARY and len(takes) == 2:
        kind = "meet" if maps and values[takes[0]].shape == values[takes[1]].shape else "whole"
    elif func in _BINARY and len(takes) == 1 and not any(isinstance(one, Tensor) for one in args[1:]):
        kind = "pointwise" if maps else "whole"
    elif func in (torch.cat, torch.concat) and maps and _at(args, kwargs, 1, "dim", 0) in (1, -3):
        kind = "meet"
    elif func is F.pad and maps and _is_zero_border(args, kwargs):
        kind = "pad"
    elif func in _RESHAPES and output.shape[0] == 1:
        kind = "reshape"
    elif func in _WHOLE_MAP:
        kind = "whole"
    if kind is None:
        raise NoTape(f"no rule for {getattr(func, '__name__', func)}")
    return kind


def _is_zero_border(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    border = _at(args, kwargs, 1, "pad", ())
    plain = _at(args, kwargs, 2, "mode", "constant") == "constant" and not _at(args, kwargs, 3, "value", 0)
    return plain and len(args) > 1 and len(border) == 4 and min(border) >= 0


def _at(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _call(step: _Step, inputs: list[Tensor]) -> Any:
    """The operation on other values."""
    rest = iter(inputs)

    def fill(position: int, value: Any) -> Any:
        if value is None and position < _VALUE_PLACES:
            return next(rest, None)
        if isinstance(value, list) and any(one is None for one in value):
            return [next(rest) if one is None else one for one in value]
        return value

    return step.func(*(fill(position, value) for position, value in enumerate(step.args)), **step.kwargs)


_VALUE_PLACES = 2
"""Values stand among an operation's first two arguments; a None further on is a missing weight or bias."""


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


Pair = tuple[int, int]


def _geometry(step: _Step) -> tuple[Pair, Pair, Pair, Pair]:
    """Kernel, stride, padding and dilation of a convolution or a max-pool, each (vertical, horizontal)."""
    if step.kind == "convolution":
        stride, padding, dilation = (_at(step.args, step.kwargs, *place) for place in _CONVOLUTION_PLACES)
        return _pair(step.args[1].shape[2:]), _pair(stride), _pair(padding), _pair(dilation)
    kernel = _pair(_at(step.args, step.kwargs, 1, "kernel_size", 1))
    stride = _at(step.args, step.kwargs, 2, "stride", None) or kernel
    padding, dilation = (_at(step.args, step.kwargs, *place) for place in ((3, "padding", 0), (4, "dilation", 1)))
    return kernel, _pair(stride), _pair(padding), _pair(dilation)


_CONVOLUTION_PLACES = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))


def _convolution(step: _Step) -> tuple[Tensor, Tensor | None, int]:
    return step.args[1], _at(step.args, step.kwargs, 2, "bias", None), _at(step.args, step.kwargs, 6, "groups", 1)


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
