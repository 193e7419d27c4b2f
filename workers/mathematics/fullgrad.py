"""FullGrad: a logit as the sum of the input's and every bias's contribution, and the map made of them.

Source: Srinivas & Fleuret 2019, equations 3 and 5. ReLU6 adds a term that the paper's ReLU networks do not have: where
a unit is saturated its output is the constant 6, so 6·∂f/∂output belongs to the biases; without it the decomposition
misses the logit by exactly that.

Import rule: torch and this package only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.mathematics.calls import CallObserver


@dataclass
class Decomposition:
    """One target's terms for a batch.

    Attributes:
        terms: input·gradient first (N×3×H×W), then bias·gradient of each biased layer with a map, and saturation
            terms, in execution order.
        flat: the sum of the terms of layers without a map, N.
        logit: the score that they should sum to, N.
    """

    terms: list[Tensor]
    flat: Tensor
    logit: Tensor

    def gap(self) -> Tensor:
        """Logit minus the sum of all terms, N."""
        return self.logit - self.flat - torch.stack([term.flatten(1).sum(dim=1) for term in self.terms]).sum(dim=0)


class FullGradient:
    """The graph of one batch, from which any target's decomposition can be taken.

    Args:
        network: in evaluation mode; left as it was.
        inputs: N×3×H×W.
    """

    def __init__(self, network: nn.Module, inputs: Tensor) -> None:
        self._inputs = inputs.detach().requires_grad_()
        self._outputs: list[Tensor] = []
        self._biases: list[Tensor | None] = []

        def visit(name: str, kind: str, module: nn.Module | None, output: Tensor) -> Tensor | None:
            del name
            bias = _bias(module)
            saturates = kind in ("ReLU6", "relu6", "Hardtanh", "hardtanh")
            if bias is None and not saturates:
                return output
            self._outputs.append(output)
            self._biases.append(bias)
            return None

        with torch.enable_grad(), CallObserver(network, visit):
            self.scores = network(self._inputs)

    def of(self, targets: Tensor) -> Decomposition:
        """The decomposition of each image's target score; targets int64 N."""
        logit = self.scores.gather(1, targets[:, None])[:, 0]
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
            logit.sum(), [self._inputs, *self._outputs], retain_graph=True, allow_unused=True
        )
        assert gradients[0] is not None
        terms = [(self._inputs * gradients[0]).detach()]
        flat = torch.zeros_like(logit.detach())
        for output, bias, gradient in zip(self._outputs, self._biases, gradients[1:], strict=True):
            if gradient is None:
                continue
            if bias is None:
                term = torch.where(output.detach() >= 6, 6.0, 0.0) * gradient
            else:
                term = gradient * (bias[None, :, None, None] if gradient.dim() == 4 else bias)
            if term.dim() == 4:
                terms.append(term)
            else:
                flat = flat + term.flatten(1).sum(dim=1)
        return Decomposition(terms, flat, logit.detach())


def _bias(module: nn.Module | None) -> Tensor | None:
    """The constant a layer adds: its bias, for BatchNorm β − γμ/√(σ² + ε)."""
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
        scale = (module.running_var + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight
        shift = -module.running_mean * scale
        return (shift if module.bias is None else shift + module.bias).detach()
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        return module.bias.detach()
    return None


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
