"""A network's run written down: its operations on one input, each with how a change of that input goes through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
class Step:
    """One operation: its kind, how to call it, and the numbers of the values it takes."""

    kind: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    takes: tuple[int, ...]


class Recorder(TorchFunctionMode):
    """Writes down every operation that takes the input or what came of it; in-place ones are done out of place."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.values: list[Tensor] = [x]
        self.steps: list[Step] = []
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
        kwargs = dict(kwargs or {})
        takes, plain = self._arguments(args, kwargs)
        if not takes:
            return func(*args, **kwargs)
        device = self.values[0].device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            raise NoTape("the network chooses the precision of each operation as it runs")
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
        self.steps.append(Step(kind, func, plain, kwargs, takes))
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
    elif func in _RESHAPES and output.shape[:1] == (1,):
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


def call(step: Step, inputs: list[Tensor]) -> Any:
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


def geometry(step: Step) -> tuple[Pair, Pair, Pair, Pair]:
    """Kernel, stride, padding and dilation of a convolution or a max-pool, each (vertical, horizontal)."""
    if step.kind == "convolution":
        stride, padding, dilation = (_at(step.args, step.kwargs, *place) for place in _CONVOLUTION_PLACES)
        return _pair(step.args[1].shape[2:]), _pair(stride), _pair(padding), _pair(dilation)
    kernel = _pair(_at(step.args, step.kwargs, 1, "kernel_size", 1))
    stride = _at(step.args, step.kwargs, 2, "stride", None) or kernel
    padding, dilation = (_at(step.args, step.kwargs, *place) for place in ((3, "padding", 0), (4, "dilation", 1)))
    return kernel, _pair(stride), _pair(padding), _pair(dilation)


_CONVOLUTION_PLACES = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))


def convolution_of(step: Step) -> tuple[Tensor, Tensor | None, int]:
    return step.args[1], _at(step.args, step.kwargs, 2, "bias", None), _at(step.args, step.kwargs, 6, "groups", 1)
