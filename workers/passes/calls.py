"""A network as a sequence of calls: name them, look at their outputs, change them, stop after the last one needed.

A layer is a call, not a module: `layer1.0.relu` is the first call of that module and `layer1.0.relu#2` the second;
`inception3a.branch1.@relu` is the first functional relu inside that module and `…@relu#2` its second. Maps that no
module returns by itself are layers, too: `layer1.0.@add` is a sum of two maps inside that module, and a module that
returns several has them as members, `neck[0]`, `neck[p3]`, `neck[0][1]`.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import _C, Tensor, nn
from torch.overrides import TorchFunctionMode

T = TypeVar("T")

Visit = Callable[[str, str, "nn.Module | None", Tensor], "Tensor | None"]
"""visit(name, kind, module, output) → a tensor to go on with, or None to go on with a private copy of `output`."""

_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", Tensor.relu: "relu", Tensor.relu_: "relu", F.relu_: "relu",
    F.relu6: "relu6", F.hardtanh: "hardtanh", F.hardtanh_: "hardtanh",
    F.leaky_relu: "leaky_relu", F.leaky_relu_: "leaky_relu", F.prelu: "prelu", torch.prelu: "prelu",
    F.elu: "elu", F.elu_: "elu", F.selu: "selu", F.celu: "celu", F.silu: "silu", F.gelu: "gelu", F.mish: "mish",
    F.hardswish: "hardswish", F.hardsigmoid: "hardsigmoid", F.sigmoid: "sigmoid", torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid", F.tanh: "tanh", torch.tanh: "tanh", Tensor.tanh: "tanh", F.softplus: "softplus",
    F.max_pool2d: "max_pool2d", torch.max_pool2d: "max_pool2d", F.avg_pool2d: "avg_pool2d",
    F.adaptive_avg_pool2d: "adaptive_avg_pool2d", F.adaptive_max_pool2d: "adaptive_max_pool2d",
    F.max_pool2d_with_indices: "max_pool2d", F.adaptive_max_pool2d_with_indices: "adaptive_max_pool2d",
    _C._nn.max_pool2d_with_indices: "max_pool2d",
    F.interpolate: "interpolate", F.pixel_shuffle: "pixel_shuffle",
}  # fmt: skip
"""Functional operations that count as layers when a module of ours or of a zoo calls them itself."""

_SUMS = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__})
_CONCATENATIONS = frozenset({torch.cat, torch.concat, torch.concatenate})


ACTIVATIONS = {
    "relu": "relu", "relu6": "relu6", "hardtanh": "hardtanh", "prelu": "prelu", "leakyrelu": "leaky_relu",
    "leaky_relu": "leaky_relu", "rrelu": "leaky_relu", "elu": "elu", "selu": "selu", "celu": "celu", "silu": "silu",
    "swish": "silu", "gelu": "gelu", "gelutanh": "gelu", "quickgelu": "gelu", "mish": "mish", "hardswish": "hardswish",
    "hardmish": "hardswish", "hardsigmoid": "hardsigmoid", "sigmoid": "sigmoid", "tanh": "tanh", "softplus": "softplus",
}  # fmt: skip
"""Name of a class or function, in lower case → kind of activation."""


class StopForward(Exception):  # noqa: N818  (not an error: how an early exit leaves the network)
    """Ends a forward pass once everything wanted has been seen."""


class CallObserver(TorchFunctionMode):
    """Shows every call of a network's modules and functional activations to `visit`, in execution order.

    Use as a context manager around a forward pass. Module hooks are put on entering and removed on leaving, whatever
    happens in between; functional calls are seen through the mode. Calls inside `torch.nn` leaf modules are the
    module's own business and are not reported twice. A class of ours that computes as another does, only quicker, names
    that one in a class attribute `observed_as`, and its calls are reported as that one's.

    Args:
        root: the network.
        visit: called with the call's name, its kind (class or function name), the module (None for a function) and its
            output. When it returns None and `wanted` names the call, the network goes on with a copy, so that nothing
            downstream overwrites what was seen.
        wanted: names to report; None reports everything.
    """

    def __init__(self, root: nn.Module, visit: Visit, wanted: Collection[str] | None = None) -> None:
        super().__init__()
        self._root = root
        self._visit = visit
        self._wanted = None if wanted is None else frozenset(wanted)
        self._functional = wanted is None or any("@" in name for name in wanted)
        self._stack: list[tuple[str, nn.Module]] = []
        self._counts: Counter[str] = Counter()
        self._handles: list[Any] = []

    def __enter__(self) -> CallObserver:
        paths = {} if self._wanted is None else {_LAST.sub("", name) for name in self._wanted}
        for path, module in self._root.named_modules():
            if self._functional:
                self._handles.append(module.register_forward_pre_hook(self._enter_module(path)))
            if self._functional or path in paths:
                self._handles.append(
                    module.register_forward_hook(self._leave_module(path), always_call=self._functional)
                )
        # Where no functional call is wanted the mode would only make every operation slower.
        if self._functional:
            super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: Any) -> None:
        try:
            if self._functional:
                super().__exit__(*exc)  # type: ignore[no-untyped-call]
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        kind = _kind_of(func, args, output) if self._functional and self._stack else None
        if kind is None:
            return output
        path, owner = self._stack[-1]
        if _keeps_to_itself(owner):
            return output
        base = f"{path}.@{kind}" if path else f"@{kind}"
        if isinstance(output, tuple):  # a pool that gives its switches as well
            return self._report(base, kind, None, output[0]), *output[1:]
        return self._report(base, kind, None, output)

    def _enter_module(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, _inputs: Any) -> None:
            self._stack.append((path, module))

        return hook

    def _leave_module(self, path: str) -> Callable[..., Any]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
            if self._functional and self._stack:
                self._stack.pop()
            if not path or output is None:
                return None
            kind = observed_class(module).__name__.removeprefix("Parametrized")
            if isinstance(module, _POOLS) and isinstance(output, tuple):
                return self._report(path, kind, module, output[0]), *output[1:]
            return self._member(path, kind, module, output)

        return hook

    def _member(self, base: str, kind: str, module: nn.Module, output: Any) -> Any:
        """An output as the network goes on with it, reported: a tensor, or what has tensors in it."""
        if isinstance(output, Tensor):
            return self._report(base, kind, module, output)
        if isinstance(output, Mapping):
            items = {key: self._member(f"{base}[{key}]", kind, module, value) for key, value in output.items()}
            if all(items[key] is value for key, value in output.items()):
                return output
            changed: Any = copy.copy(output)
            for key, value in items.items():
                changed[key] = value
            return changed
        if isinstance(output, list | tuple):
            members = [self._member(f"{base}[{number}]", kind, module, one) for number, one in enumerate(output)]
            if all(new is old for new, old in zip(members, output, strict=True)):
                return output
            named = isinstance(output, tuple) and hasattr(output, "_fields")
            return type(output)(*members) if named else type(output)(members)
        return output

    def _report(self, base: str, kind: str, module: nn.Module | None, output: Tensor) -> Tensor:
        self._counts[base] += 1
        name = base if self._counts[base] == 1 else f"{base}#{self._counts[base]}"
        if self._wanted is not None and name not in self._wanted:
            return output
        replaced = self._visit(name, kind, module, output)
        return output.clone() if replaced is None else replaced


_LAST = re.compile(r"(\[[^#]*\])?(#\d+)?$")
"""What a call's name has beside its module's path: the member of its output, and which call it is."""

_POOLS = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d)
"""Modules that give their map and its switches where they are told to; the map is the layer."""


def _kind_of(func: Any, args: tuple[Any, ...], output: Any) -> str | None:
    """As what a function's result is a layer, if it is one."""
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, Tensor):
        return None
    kind = _FUNCTIONS.get(func)
    if kind is not None or first.dim() != 4 or not first.is_floating_point():
        return kind
    if func in _SUMS:
        # Of two maps: what is added to every position alike is a bias.
        alike = sum(isinstance(one, Tensor) and one.shape == first.shape for one in args[:2])
        return "add" if alike == 2 else None
    if func in _CONCATENATIONS and args and isinstance(args[0], list | tuple):
        return "cat" if len(args[0]) > 1 else None
    return None


def observed_class(module: nn.Module) -> type[nn.Module]:
    """The class as which a module's calls are reported: its own, or that which it stands for."""
    kind: type[nn.Module] = getattr(type(module), "observed_as", type(module))
    return kind


def _keeps_to_itself(module: nn.Module) -> bool:
    """Whether functional calls inside the module are its own business: torch's own leaves, and activation classes."""
    kind = observed_class(module)
    if kind.__module__.startswith("torch.nn.modules"):
        return not isinstance(module, nn.Sequential)
    return kind.__name__.lower() in ACTIVATIONS and next(module.children(), None) is None


def capture(
    network: nn.Module,
    inputs: Tensor,
    wanted: Collection[str],
    *,
    to_output: bool = False,
    change: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Outputs of the wanted calls as they were before anything overwrote them, and of the network if asked for.

    The forward stops after the last wanted call unless `to_output`. Runs under the caller's grad mode; captured tensors
    are nodes of the graph, so `torch.autograd.grad` to them works, also where the next operation is in place.

    Args:
        network: in evaluation mode; left as it was found, also on errors.
        inputs: the prepared batch, N×C×H×W.
        wanted: call names (canonical, not aliases).
        to_output: run on to the end.
        change: call name → function of its output; the network goes on with what it returns, which is also captured.

    Returns:
        The captured tensors by name, and the network's output (None after an early exit).

    Raises:
        KeyError: a wanted call never happened.
    """
    changes = dict(change or {})
    seen: dict[str, Tensor] = {}
    missing = set(wanted) | set(changes)

    def visit(name: str, _kind: str, _module: nn.Module | None, output: Tensor) -> Tensor:
        tensor = changes[name](output) if name in changes else output
        seen[name] = tensor
        missing.discard(name)
        if not missing and not to_output:
            raise StopForward
        return tensor.clone()

    output: Tensor | None = None
    try:
        with CallObserver(network, visit, missing.copy()):
            output = network(inputs)
    except StopForward:
        pass
    if missing:
        raise KeyError(f"these calls never happened: {sorted(missing)}")
    return seen, output


def reduce(
    network: nn.Module, inputs: Tensor, wanted: Collection[str], function: Callable[[Tensor], T]
) -> dict[str, T]:
    """`function` of each wanted call's output, taken in passing: nothing is copied or kept, the forward stops after.

    Arguments and errors as for `capture`; `function` must not keep or change the tensor it is given.
    """
    found: dict[str, T] = {}
    missing = set(wanted)

    def visit(name: str, _kind: str, _module: nn.Module | None, output: Tensor) -> Tensor:
        found[name] = function(output)
        missing.discard(name)
        if not missing:
            raise StopForward
        return output

    with suppress(StopForward), CallObserver(network, visit, missing.copy()):
        network(inputs)
    if missing:
        raise KeyError(f"these calls never happened: {sorted(missing)}")
    return found
