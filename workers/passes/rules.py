"""The rules by which a signal goes back through rectifications: gradient, deconvnet, guided.

They act at operation level: a function mode sees every rectification that the network calls, as a module or as a
function, in place or not, shared or not, and puts a node of its own into the graph of that one call. So each path's own
signal is clamped, not the sum over all who use the rectified tensor's input, and no module is touched.

With x the input of a rectification, g the signal from above, a the slope of the negative side (0 but for PReLU and
LeakyReLU) and s(v) = 1 where v > 0, a elsewhere:

    gradient   g · s(x)            0 where x reaches the upper limit (6 of ReLU6)
    deconvnet  g · s(g)            Zeiler & Fergus 2013, section 2.1, for a = 0
    guided     g · s(x) · s(g)     Springenberg et al. 2014, section 3.4, for a = 0; 0 at the upper limit

The deconvnet and guided rules for a ≠ 0 are ours: what the rule cuts off, the leaky kinds multiply by their slope, so
that a = 0 is the published rule and a = 1, no rectification at all, changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from workers.passes.switches import is_max_pool, pool_last_wins

RULES = ("gradient", "deconvnet", "guided")

_RELUS = {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
_HARDTANHS = {F.hardtanh, F.hardtanh_}
_CLAMPS = {torch.clamp, torch.clamp_, Tensor.clamp, Tensor.clamp_, torch.clamp_min, torch.clamp_min_, Tensor.clamp_min}
_CLAMPS |= {Tensor.clamp_min_, torch.clip, Tensor.clip, torch.clip_, Tensor.clip_}
_THRESHOLDS = {F.threshold, torch.threshold_, torch.threshold}
_LEAKY = {F.leaky_relu, F.leaky_relu_}
_PRELUS = {F.prelu, torch.prelu, Tensor.prelu}
_NONSTANDARD: dict[Any, str] = {
    F.silu: "silu", F.gelu: "gelu", F.hardswish: "hardswish", F.mish: "mish", F.elu: "elu", F.elu_: "elu",
    F.selu: "selu", F.selu_: "selu", torch.selu: "selu", torch.selu_: "selu", F.celu: "celu", F.celu_: "celu",
    torch.celu: "celu", torch.celu_: "celu", F.softplus: "softplus",
}  # fmt: skip
"""Gates without a flat negative side: the rules are not defined for them."""

_ESCAPED = (
    "Relu", "Threshold", "Hardtanh", "LeakyRelu", "PreluKernel", "Silu", "Gelu", "Hardswish", "Mish", "Elu", "Celu",
    "Selu", "Softplus", "RreluWithNoise",
)  # fmt: skip
"""How autograd's own nodes of rectifications and gates begin."""

LINEAR_NODES = frozenset({
    "torch::autograd::AccumulateGrad", "AdaptiveAvgPool2DBackward0", "AddBackward0", "AddmmBackward0", "AliasBackward0",
    "AvgPool2DBackward0", "CatBackward0", "CloneBackward0", "ConstantPadNdBackward0", "ConvolutionBackward0",
    "CudnnBatchNormBackward0", "ExpandBackward0", "MeanBackward0", "MeanBackward1", "MmBackward0",
    "NativeBatchNormBackward0", "PermuteBackward0", "ReshapeAliasBackward0", "SelectBackward0", "SliceBackward0",
    "SplitBackward0", "SqueezeBackward0", "SqueezeBackward1", "SubBackward0", "SumBackward1", "TBackward0",
    "ToCopyBackward0", "TransposeBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0",
    "UpsampleNearest2DBackward0", "UpsampleBilinear2DBackward0",
})  # fmt: skip
"""Nodes whose backward does not depend on the image (BatchNorm in evaluation among them)."""


@dataclass(frozen=True)
class Gate:
    """One rectification: its kind, its negative slope (number or one for each channel) and its upper limit."""

    kind: str
    slope: float | Tensor = 0.0
    limit: float | None = None

    def keep(self, signs: Tensor) -> Tensor | None:
        """Slopes by sign: None when the negative side is simply cut off."""
        if isinstance(self.slope, float) and self.slope == 0.0:
            return None
        slope = self.slope
        if isinstance(slope, Tensor):
            slope = slope if slope.numel() == 1 else slope.reshape(-1, *[1] * (signs.dim() - 2))
            return torch.where(signs > 0, slope.new_ones(()), slope)
        return torch.where(signs > 0, 1.0, slope)

    def by_sign(self, signal: Tensor, signs: Tensor) -> Tensor:
        """signal · s(signs)."""
        keep = self.keep(signs)
        return torch.where(signs > 0, signal, 0.0) if keep is None else signal * keep


class _Rectify(torch.autograd.Function):
    """A rectification whose backward follows the deconvnet or the guided rule; forward is the network's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Gate, rule: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.gate, ctx.rule, ctx.opened = gate, rule, False
        if rule == "guided":
            # ±1 and 0 are all that backward needs of x, and an in-place rectification overwrites x itself.
            signs = torch.where(x > 0, 1, -1).to(torch.int8)
            ctx.save_for_backward(signs if gate.limit is None else torch.where(x >= gate.limit, 0, signs))
        version = x._version
        output = compute(x)
        if output is x or x._version != version:
            ctx.mark_dirty(x)
            return x
        return output

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> tuple[Tensor | None, ...]:
        (signal,) = signals
        gate: Gate = ctx.gate
        passed = gate.by_sign(signal, signal)
        if ctx.rule == "guided" and not ctx.opened:
            (signs,) = ctx.saved_tensors
            passed = gate.by_sign(passed, signs)
            if gate.limit is not None:
                passed = torch.where(signs == 0, 0.0, passed)
        return passed, None, None, None


@dataclass
class PathReport:
    """What lies between the pixels and a tensor.

    Attributes:
        rectifications: kind → calls to which the rule was applied.
        nonstandard: kind → calls of gates for which the rule is not defined, where it was not asked to go on.
        escaped: rectifications that the mode did not see (compiled code); the rule was not applied to them.
        max_pools: max-pool calls, the places with switches.
        image_independent: nothing on the way back depends on the image.
    """

    rectifications: Counter[str] = field(default_factory=Counter)
    nonstandard: Counter[str] = field(default_factory=Counter)
    escaped: Counter[str] = field(default_factory=Counter)
    max_pools: int = 0
    linear: bool = True
    image_independent: bool = False


class RuleMode(TorchFunctionMode):
    """While entered, rectifications of this thread's forward passes get the rule's backward.

    Enter it around the forward pass only: the backward pass follows the nodes that were put into the graph and needs no
    mode, and a generator must not yield inside it.

    Args:
        rule: `gradient`, `deconvnet` or `guided`.
        switches: where pooling windows overlap, one pixel can be the switch of several outputs: `sum` adds their
            signals as autograd does, `last` keeps the last window's as `max_unpool2d` does.
        nonstandard_gate: treat SiLU, GELU, Hardswish and their like as ReLUs on the way back.
    """

    def __init__(self, rule: str, *, switches: str = "sum", nonstandard_gate: bool = False) -> None:
        super().__init__()
        if rule not in RULES or switches not in ("sum", "last"):
            raise ValueError(f"unknown rule {rule!r} or switches {switches!r}")
        self.rule, self.switches, self.nonstandard_gate = rule, switches, nonstandard_gate
        self._rectified: dict[Any, str] = {}
        self._refused: dict[Any, str] = {}
        self._pools: set[Any] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if is_max_pool(func):
            return self._pool(func, args, kwargs)
        gate = _gate(func, args, kwargs)
        if gate is None:
            return func(*args, **kwargs)
        return self._rectify(gate, func in _NONSTANDARD, func, args, kwargs)

    def _rectify(self, gate: Gate, nonstandard: bool, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, rest = (args[0], args[1:]) if args else (kwargs.pop("input"), ())
        refused = nonstandard and not self.nonstandard_gate and self.rule != "gradient"
        if not x.requires_grad or self.rule == "gradient" or refused:
            output = func(x, *rest, **kwargs)
        else:
            output = _Rectify.apply(x, gate, self.rule, lambda tensor: func(tensor, *rest, **kwargs))
        if isinstance(output, Tensor) and output.grad_fn is not None:
            (self._refused if refused else self._rectified)[output.grad_fn] = gate.kind
        return output

    def _pool(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = pool_last_wins(func, args, kwargs) if self.switches == "last" else func(*args, **kwargs)
        output = result[0] if isinstance(result, tuple) else result
        if output.grad_fn is not None:
            self._pools.add(output.grad_fn)
        return result

    @contextmanager
    def from_unit(self, activation: Tensor) -> Iterator[None]:
        """While entered, a backward pass that starts at `activation` finds the gate of its own rectification open.

        A unit that is projected is active. For a ReLU that says it all; a ReLU6 unit at its limit is as active as can
        be, yet the guided rule would close its own gate and project every such unit to nothing.
        """
        own: Any = activation.grad_fn
        if own not in self._rectified or not hasattr(own, "opened"):
            yield
            return
        own.opened = True
        try:
            yield
        finally:
            own.opened = False

    def report(self, output: Tensor) -> PathReport:
        """What the rule met on the paths from the pixels to `output`, counted in its graph."""
        report = PathReport()
        seen: set[Any] = set()
        todo = [output.grad_fn]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            todo.extend(parent for parent, _ in cast(Any, node).next_functions)
            self._note(node, report)
        touched = sum(report.rectifications.values())
        report.image_independent = report.linear and not report.max_pools and (not touched or self.rule == "deconvnet")
        return report

    def _note(self, node: Any, report: PathReport) -> None:
        name = node.name()
        if node in self._rectified:
            report.rectifications[self._rectified[node]] += 1
        elif node in self._pools:
            report.max_pools += 1
        elif node in self._refused:
            report.nonstandard[self._refused[node]] += 1
        elif name.startswith(_ESCAPED):
            report.escaped[name.removesuffix("Backward0")] += 1
        elif name not in LINEAR_NODES and not name.startswith(("MaxPool2D", "KeepLast")):
            report.linear = False


def _gate(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Gate | None:
    """The rectification that a call is, or None."""

    def argument(position: int, name: str, default: Any = None) -> Any:
        return args[position] if len(args) > position else kwargs.get(name, default)

    gate: Gate | None = None
    if func in _RELUS:
        gate = Gate("relu")
    elif func is F.relu6:
        gate = Gate("relu6", limit=6.0)
    elif func in _HARDTANHS and argument(1, "min_val", -1.0) == 0:
        limit = float(argument(2, "max_val", 1.0))
        gate = Gate("relu6" if limit == 6 else "hardtanh", limit=limit)
    elif func in _CLAMPS:
        gate = _clamp(argument(1, "min"), argument(2, "max"))
    elif func in _THRESHOLDS and argument(1, "threshold") == 0 and argument(2, "value") == 0:
        gate = Gate("relu")
    elif func in _LEAKY:
        gate = Gate("leaky_relu", slope=float(argument(1, "negative_slope", 0.01)))
    elif func in _PRELUS:
        gate = Gate("prelu", slope=argument(1, "weight").detach())
    elif func in _NONSTANDARD:
        gate = Gate(_NONSTANDARD[func])
    return gate


def _clamp(low: Any, high: Any) -> Gate | None:
    """A clamp at zero is a rectification, with or without an upper limit."""
    if isinstance(low, (int, float)) and low == 0 and (high is None or isinstance(high, (int, float))):
        return Gate("relu") if high is None else Gate("relu6" if high == 6 else "hardtanh", limit=float(high))
    return None
