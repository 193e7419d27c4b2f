"""FullGrad: a logit as the sum of the input's and every bias's contribution, and the map made of them.

Source: Srinivas & Fleuret 2019, equations 3 and 5. ReLU6 adds a term that the paper's ReLU networks do not have: where
a unit is saturated its output is the constant 6, so 6·∂f/∂output belongs to the biases; without it the decomposition
misses the logit by exactly that.

Biases are found operation by operation, not module by module: a module may do more than add its bias (timm's
BatchNorm with the activation inside), and a function may add one without a module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workers.contract import Outputs
from workers.passes.class_targets import ClassTarget
from workers.passes.scores import as_logits, read

_WITH_BIAS = {F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.linear}
_SATURATING = {F.hardtanh, F.hardtanh_, F.relu6}


@dataclass
class Decomposition:
    """One target's terms for a batch.

    Attributes:
        terms: input·gradient first (N×3×H×W), then bias·gradient of each biased layer with a map, and saturation
            terms, in execution order.
        saturated: which of them are saturation terms.
        flat: the sum of the terms of layers without a map, N.
        logit: the score that they should sum to, N.
    """

    terms: list[Tensor]
    saturated: list[int]
    flat: Tensor
    logit: Tensor

    def saturation(self) -> Tensor:
        """The sum of the saturation terms alone, N."""
        sums = [self.terms[k].flatten(1).sum(dim=1) for k in self.saturated]
        return torch.stack(sums).sum(dim=0) if sums else torch.zeros_like(self.logit)

    def gap(self) -> Tensor:
        """Logit minus the sum of all terms, N."""
        return self.logit - self.flat - torch.stack([term.flatten(1).sum(dim=1) for term in self.terms]).sum(dim=0)


class _Constants(TorchFunctionMode):
    """Notes every operation that adds a constant to its output: a bias, or where a unit is saturated the limit.

    Attributes:
        found: outputs, each with the constant (of a shape that broadcasts over it) and whether it is a saturation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, Tensor, bool]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        output = func(*args, **named)
        constant = _constant(func, args, named, output)
        if constant is None:
            return output
        self.found.append((output, constant, func in _SATURATING))
        # The network goes on with a copy: what follows may be in place.
        return output.clone()


def _constant(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor | None:
    """The constant that an operation adds, or None."""

    def argument(position: int, name: str, default: Any = None) -> Any:
        return args[position] if len(args) > position else kwargs.get(name, default)

    if func in _WITH_BIAS:
        bias = argument(2, "bias")
        return None if bias is None else _by_channel(bias, output if func is not F.linear else None)
    if func is F.batch_norm:
        mean, variance = argument(1, "running_mean"), argument(2, "running_var")
        if mean is None or variance is None or argument(5, "training", False):
            return None
        scale = (variance + argument(7, "eps", 1e-5)).rsqrt()
        weight, bias = argument(3, "weight"), argument(4, "bias")
        shift = -mean * (scale if weight is None else scale * weight)
        return _by_channel(shift if bias is None else shift + bias, output)
    if func in _SATURATING:
        low, high = (0.0, 6.0) if func is F.relu6 else (argument(1, "min_val", -1.0), argument(2, "max_val", 1.0))
        value = output.detach()
        return torch.where(value >= high, high, torch.where(value <= low, low, 0.0)).to(value.dtype)
    return None


def _by_channel(values: Tensor, output: Tensor | None) -> Tensor:
    """One number a channel, in a shape that broadcasts over the output; None for an output whose last axis it is."""
    return values.detach() if output is None else values.detach().reshape(-1, *[1] * (output.dim() - 2))


class FullGradient:
    """The graph of one batch, from which any target's decomposition can be taken.

    Args:
        network: in evaluation mode; left as it was.
        inputs: N×3×H×W.
        outputs: how the network's output is read.
    """

    def __init__(self, network: nn.Module, inputs: Tensor, outputs: Outputs) -> None:
        self._inputs = inputs.detach().requires_grad_()
        constants = _Constants()
        with torch.enable_grad(), as_logits(outputs), constants:
            self.logits = read(outputs, network(self._inputs), len(inputs))
        self._found = constants.found

    def of(self, targets: Sequence[ClassTarget]) -> Decomposition:
        """The decomposition of the logit of each image's target."""
        logit = torch.stack([target.value(own) for target, own in zip(targets, self.logits, strict=True)])
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            logit.sum(), [self._inputs, *(output for output, _, _ in self._found)], retain_graph=True, allow_unused=True
        )
        assert gradients[0] is not None
        terms = [(self._inputs * gradients[0]).detach()]
        saturated = []
        flat = torch.zeros_like(logit.detach())
        for (_, constant, saturation), gradient in zip(self._found, gradients[1:], strict=True):
            if gradient is None:
                continue
            term = constant.float() * gradient.float()
            if term.dim() == 4:
                if saturation:
                    saturated.append(len(terms))
                terms.append(term)
            else:
                flat = flat + term.flatten(1).sum(dim=1)
        return Decomposition(terms, saturated, flat, logit.detach())


def fullgrad_map(decomposition: Decomposition, size: tuple[int, int]) -> Tensor:
    """Σ over terms of ψ(term), ψ = |·|, scaled to [0, 1] over all channels of an image, upsampled: N×H×W ≥ 0.

    Follows the paper's own code. pytorch-grad-cam scales every channel by itself, so that a channel a million times
    weaker counts as much as the strongest.
    """
    total = torch.zeros(len(decomposition.logit), *size, device=decomposition.logit.device)
    for term in decomposition.terms:
        magnitude = term.abs()
        low = magnitude.flatten(1).amin(dim=1)[:, None, None, None]
        high = magnitude.flatten(1).amax(dim=1)[:, None, None, None]
        scaled = torch.where(high > low, (magnitude - low) / (high - low), 0.0).sum(dim=1, keepdim=True)
        total += F.interpolate(scaled, size=size, mode="bilinear", align_corners=False)[:, 0]
    return total
