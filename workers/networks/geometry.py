"""Receptive fields: the input box that each unit of each tensor depends on, followed through one run of a network.

Two modes watch the run. At operator level (ATen) every tensor that is made gets the union of what its inputs depend
on, widened by convolutions, pools, padding and slices; at function level `linear` is watched, because below it the
tensor is reshaped to a matrix. An operation that mixes positions in any other way (global pooling, attention,
normalisation over space) leaves its result without a box, and so does an operation nobody has described here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workers.geometry import Box

Pair = tuple[float, float]


@dataclass(frozen=True)
class Field:
    """What the units of a tensor depend on: unit (y, x) sees rows low[0] + y * jump[0] … high[0] + y * jump[0].

    `dims` are the tensor's vertical and horizontal dimensions. `everywhere`: it has such dimensions, but its units see
    the whole input or an unknown part of it. `mirrored`: rows and columns at each edge that repeat others of the map,
    whose box is not theirs; a window that reaches as far over the edge as into the map takes them in.
    """

    dims: tuple[int, int]
    low: Pair = (0.0, 0.0)
    high: Pair = (0.0, 0.0)
    jump: Pair = (1.0, 1.0)
    everywhere: bool = False
    mirrored: tuple[int, int] = (0, 0)

    def box(self) -> Box | None:
        """As receptive field geometry; None where there is none."""
        if self.everywhere or any(self.mirrored):
            return None
        size = (round(self.high[0] - self.low[0]) + 1, round(self.high[1] - self.low[1]) + 1)
        return Box(size, self.jump, self.low)

    def window(
        self, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
    ) -> Field:
        """After a window that looks at `kernel` taps, `dilation` apart, from `padding` before the first unit."""
        low, high, jump = [], [], []
        for axis in range(2):
            first = -padding[axis]
            last = first + (kernel[axis] - 1) * dilation[axis]
            low.append(self.low[axis] + first * self.jump[axis])
            high.append(self.high[axis] + last * self.jump[axis])
            jump.append(self.jump[axis] * stride[axis])
        covered = all((kernel[k] - 1) * dilation[k] >= 2 * self.mirrored[k] for k in range(2))
        beyond = not covered or (any(self.mirrored) and any(padding))
        everywhere = self.everywhere or beyond
        return replace(self, low=_pair(low), high=_pair(high), jump=_pair(jump), everywhere=everywhere, mirrored=(0, 0))

    def shifted(self, axis: int, units: float, stride: int = 1) -> Field:
        """With unit 0 where unit `units` was, taking every `stride`-th, along one axis."""
        move = [units * self.jump[0] if axis == 0 else 0.0, units * self.jump[1] if axis == 1 else 0.0]
        jump = [self.jump[k] * (stride if axis == k else 1) for k in range(2)]
        low = [self.low[k] + move[k] for k in range(2)]
        high = [self.high[k] + move[k] for k in range(2)]
        return replace(self, low=_pair(low), high=_pair(high), jump=_pair(jump))


def _pair(values: Sequence[float]) -> Pair:
    return values[0], values[1]


LOST = None
"""In place of a Field: a tensor that depends on the input, and nobody knows where its positions lie."""


class ReceptiveFields:
    """Follows receptive fields while it is entered; `field(tensor)` then tells a tensor's.

    Args:
        inputs: the network's input, N×C×H×W.
    """

    def __init__(self, inputs: Tensor) -> None:
        # Tensors are kept alive with their fields: a table by identity must not see an address used again.
        self._known: dict[int, tuple[Tensor, Field | None]] = {}
        self._modes = ExitStack()
        self.set(inputs, Field((2, 3)))

    def __enter__(self) -> ReceptiveFields:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Operators(self))
        return self

    def __exit__(self, *exc: Any) -> None:
        self._modes.__exit__(*exc)

    def set(self, tensor: Tensor, found: Field | None) -> None:
        """Note what a tensor depends on."""
        self._known[id(tensor)] = (tensor, found)

    def knows(self, tensor: Tensor) -> bool:
        """Whether the tensor depends on the input at all."""
        return id(tensor) in self._known

    def field(self, tensor: Tensor) -> Field | None:
        """What the tensor depends on; None for no input or for no known place."""
        return self._known.get(id(tensor), (tensor, None))[1]


class _Functions(TorchFunctionMode):
    """Sees `linear`, which acts on the last dimension, and `local_response_norm`, which acts on channels alone."""

    def __init__(self, fields: ReceptiveFields) -> None:
        super().__init__()
        self._fields = fields

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (F.linear, F.local_response_norm) and self._fields.knows(args[0]):
            before = self._fields.field(args[0])
            mixes = before is not None and func is F.linear and args[0].dim() - 1 in before.dims
            self._fields.set(output, LOST if mixes else before)
        return output


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator and notes what its outputs depend on."""

    def __init__(self, fields: ReceptiveFields) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields = fields

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        sources = [
            leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor) and self._fields.knows(leaf)
        ]
        if not sources:
            return output
        found = self._after(func, args, sources, output)
        results = output if isinstance(output, list | tuple) else (output,)
        for result in results:
            if isinstance(result, Tensor):
                fields = found(result) if callable(found) else found
                self._fields.set(result, fields)
        return output

    def _after(self, func: Any, args: tuple[Any, ...], sources: list[Tensor], output: Any) -> Any:
        known = [self._fields.field(source) for source in sources]
        name = func.overloadpacket.__name__
        rule = _RULES.get(name)
        if rule is not None:
            if sources[0] is not args[0]:
                return LOST
            before = known[0]
            if before is None and name in _ON_MAPS and args[0].dim() == 4:
                before = Field((2, 3), everywhere=True)  # the operator itself says where height and width are
            return LOST if before is None else rule(before, args)
        if name == "cat":
            return _cat(known, args[1] % sources[0].dim() if len(args) > 1 else 0)
        if torch.Tag.pointwise in func.tags:
            return _pointwise(known, sources, output)
        return LOST


def _union(fields: Sequence[Field]) -> Field:
    """What a unit depends on that depends on each of these at its own place."""
    first = fields[0]
    alike = (first.jump, first.dims, first.mirrored)
    if any(field.everywhere or (field.jump, field.dims, field.mirrored) != alike for field in fields):
        return replace(first, everywhere=True)
    low = [min(field.low[axis] for field in fields) for axis in range(2)]
    high = [max(field.high[axis] for field in fields) for axis in range(2)]
    return replace(first, low=_pair(low), high=_pair(high))


def _cat(known: Sequence[Field | None], dimension: int) -> Field | None:
    """Side by side along channels; one without known positions leaves the others' positions, seeing everything."""
    fields = [field for field in known if field is not None]
    if not fields or any(dimension in field.dims for field in fields):
        return LOST
    return _union(fields) if len(fields) == len(known) else replace(fields[0], everywhere=True)


def _pointwise(known: Sequence[Field | None], sources: Sequence[Tensor], output: Any) -> Field | None:
    """Element by element; an operand broadcast over space (a gate of the channels) has seen everything."""
    aligned, broadcast = [], False
    for field, source in zip(known, sources, strict=True):
        lift = output.dim() - source.dim()
        if field is None or any(source.shape[dim] != output.shape[dim + lift] for dim in field.dims):
            broadcast = True
        else:
            aligned.append(replace(field, dims=(field.dims[0] + lift, field.dims[1] + lift)))
    if not aligned:
        return LOST
    found = _union(aligned)
    return replace(found, everywhere=True) if broadcast else found


def _two(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _convolution(before: Field, args: tuple[Any, ...]) -> Field | None:
    weight, stride, padding, dilation, transposed = args[1], args[3], args[4], args[5], args[6]
    if transposed or weight.dim() != 4 or before.dims != (2, 3):
        return LOST
    return before.window(weight.shape[2:], _two(stride), _two(padding), _two(dilation))


def _pool(before: Field, args: tuple[Any, ...]) -> Field | None:
    """max_pool2d(input, kernel, stride, padding, dilation, …), avg_pool2d(input, kernel, stride, padding, ceil, …)."""
    kernel = _two(args[1])
    stride = _two(args[2]) if len(args) > 2 and args[2] else kernel
    padding = _two(args[3]) if len(args) > 3 else (0, 0)
    dilation = _two(args[4]) if len(args) > 4 and not isinstance(args[4], bool) else (1, 1)
    return before.window(kernel, stride, padding, dilation)


def _adaptive(before: Field, args: tuple[Any, ...]) -> Callable[[Tensor], Field | None]:
    sides = [args[0].shape[dim] for dim in before.dims]

    def of(result: Tensor) -> Field | None:
        wanted = [result.shape[dim] for dim in before.dims]
        if sides == wanted:
            return before
        windows = [_adaptive_window(have, want) for have, want in zip(sides, wanted, strict=True)]
        if wanted == [1, 1] or None in windows:
            return replace(before, everywhere=True)
        (tall, down), (wide, right) = (window or (1, 1) for window in windows)
        return before.window((tall, wide), (down, right), (0, 0), (1, 1))

    return of


def _adaptive_window(have: int, want: int) -> tuple[int, int] | None:
    """Length and stride of adaptive pooling's windows along one side; None where they are not all alike.

    Window i is floor(i · have / want) … ceil((i + 1) · have / want): windows overlap where `want` is no divisor.
    """
    starts = [i * have // want for i in range(want)]
    lengths = {-(-(i + 1) * have // want) - start for i, start in enumerate(starts)}
    strides = {after - before for before, after in pairwise(starts)}
    if len(lengths) > 1 or len(strides) > 1:
        return None
    return lengths.pop(), strides.pop() if strides else have


def _mirror(before: Field, args: tuple[Any, ...]) -> Field | None:
    """reflection_pad2d and replication_pad2d (input, [left, right, top, bottom]): rows and columns said again."""
    left, right, top, bottom = args[1]
    if before.dims != (args[0].dim() - 2, args[0].dim() - 1):
        return LOST
    moved = before.shifted(0, -top).shifted(1, -left)
    edges = (max(top, bottom), max(left, right))
    # A map whose first unit sees nothing of the edge would be said to see more than it does.
    inside = any(before.mirrored) or any(low > 0 for low, edge in zip(before.low, edges, strict=True) if edge)
    return replace(moved, mirrored=edges, everywhere=before.everywhere or inside)


def _pad(before: Field, args: tuple[Any, ...]) -> Field | None:
    dims, moved = args[0].dim(), before
    for k in range(len(args[1]) // 2):
        dimension = dims - 1 - k
        if dimension in before.dims:
            moved = moved.shifted(before.dims.index(dimension), -args[1][2 * k])
    return moved


def _slice(before: Field, args: tuple[Any, ...]) -> Field | None:
    dimension = args[1] % args[0].dim() if len(args) > 1 else 0
    if dimension not in before.dims:
        return before
    begin = args[2] if len(args) > 2 and args[2] is not None else 0
    length = args[0].shape[dimension]
    begin = min(max(begin + length if begin < 0 else begin, 0), length)
    return before.shifted(before.dims.index(dimension), begin, args[4] if len(args) > 4 else 1)


def _split(before: Field, args: tuple[Any, ...]) -> Field | None:
    dimension = args[2] % args[0].dim() if len(args) > 2 else 0
    return LOST if dimension in before.dims else before


def _remove(before: Field, args: tuple[Any, ...]) -> Field | None:
    """select(input, dim, index) and unbind(input, dim): one dimension fewer."""
    dimension = args[1] % args[0].dim() if len(args) > 1 else 0
    if dimension in before.dims:
        return LOST
    vertical, horizontal = (dim - (dim > dimension) for dim in before.dims)
    return replace(before, dims=(vertical, horizontal))


def _unsqueeze(before: Field, args: tuple[Any, ...]) -> Field | None:
    dimension = args[1] % (args[0].dim() + 1)
    vertical, horizontal = (dim + (dim >= dimension) for dim in before.dims)
    return replace(before, dims=(vertical, horizontal))


def _permute(before: Field, args: tuple[Any, ...]) -> Field | None:
    order = [dim % args[0].dim() for dim in args[1]]
    return replace(before, dims=(order.index(before.dims[0]), order.index(before.dims[1])))


def _transpose(before: Field, args: tuple[Any, ...]) -> Field | None:
    order = list(range(args[0].dim()))
    first, second = args[1] % len(order), args[2] % len(order)
    order[first], order[second] = order[second], order[first]
    return _permute(before, (args[0], order))


def _view(before: Field, args: tuple[Any, ...]) -> Callable[[Tensor], Field | None]:
    """Reshaping is followed where the dimensions from height on stay as they were (channel shuffles)."""
    tail = args[0].shape[before.dims[0] :]

    def of(result: Tensor) -> Field | None:
        if before.dims[1] < before.dims[0] or result.shape[-len(tail) :] != tail or math.prod(tail) == 0:
            return LOST
        start = result.dim() - len(tail)
        return replace(before, dims=(start, start + before.dims[1] - before.dims[0]))

    return of


def _layer_norm(before: Field, args: tuple[Any, ...]) -> Field | None:
    first = args[0].dim() - len(args[1])
    return LOST if max(before.dims) >= first else before


def _mean(before: Field, args: tuple[Any, ...]) -> Field | None:
    dims = [dim % args[0].dim() for dim in args[1]] if len(args) > 1 and args[1] is not None else list(before.dims)
    mixes = bool(set(dims) & set(before.dims))
    if len(args) > 2 and args[2]:
        return replace(before, everywhere=True) if mixes else before
    if mixes:
        return LOST
    vertical, horizontal = (dim - sum(other < dim for other in dims) for dim in before.dims)
    return replace(before, dims=(vertical, horizontal))


def _same(before: Field, _args: tuple[Any, ...]) -> Field | None:
    return before


def _everywhere(before: Field, _args: tuple[Any, ...]) -> Field | None:
    return replace(before, everywhere=True)


def _softmax(before: Field, args: tuple[Any, ...]) -> Field | None:
    return LOST if args[1] % args[0].dim() in before.dims else before


_RULES: dict[str, Callable[[Field, tuple[Any, ...]], Any]] = {
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool, "max_pool2d": _pool, "avg_pool2d": _pool,
    "_adaptive_avg_pool2d": _adaptive, "adaptive_max_pool2d": _adaptive,
    "constant_pad_nd": _pad, "reflection_pad2d": _mirror, "replication_pad2d": _mirror, "slice": _slice,
    "split": _split, "split_with_sizes": _split, "chunk": _split,
    "select": _remove, "unbind": _remove, "unsqueeze": _unsqueeze,
    "permute": _permute, "transpose": _transpose,
    "view": _view, "_unsafe_view": _view, "reshape": _view, "_reshape_alias": _view,
    "native_group_norm": _everywhere, "native_layer_norm": _layer_norm, "mean": _mean, "_softmax": _softmax,
    "native_batch_norm": _same, "_native_batch_norm_legit_no_training": _same, "cudnn_batch_norm": _same,
    "clone": _same, "_to_copy": _same, "detach": _same, "alias": _same, "contiguous": _same, "lift_fresh": _same,
    "hardswish": _same, "hardswish_": _same, "_prelu_kernel": _same, "dropout": _same, "native_dropout": _same,
}  # fmt: skip
"""Operator → rule(field before, arguments) → field after, or a function of each output."""

_ON_MAPS = frozenset(
    {
        "convolution",
        "max_pool2d_with_indices",
        "max_pool2d",
        "avg_pool2d",
        "_adaptive_avg_pool2d",
        "adaptive_max_pool2d",
    }
)
"""Operators whose four-dimensional input is N×C×H×W, whatever happened to it before."""
