"""What cam's methods look at: one forward pass, aimed at a target an image, or one image of it by itself.

The forward runs without a graph up to the target layer; its output becomes a leaf, so that a backward touches nothing
but what lies above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workers.contract import Grant, MethodError, Network, Outputs, resolved
from workers.methods.cam.maps import affine
from workers.passes.batches import is_fast, module_for, relative_size, repeated_module_for
from workers.passes.class_targets import ClassTarget
from workers.passes.pace import Pace, most_together
from workers.passes.rules import LINEAR_NODES
from workers.passes.scores import answer

if TYPE_CHECKING:
    from convscope.protocol.operations.cam import CamRequest


@dataclass
class Pass:
    """One forward of a slice of images: the layer's output as a leaf, the logits, and whether they are linear in it."""

    inputs: Tensor
    activation: Tensor
    logits: Tensor
    linear: bool

    def aimed(self, targets: Sequence[ClassTarget]) -> Aimed:
        """The pass with a target for each image."""
        return Aimed(self, targets)

    def image(self, k: int) -> Pass:
        """Image k, without its graph."""
        part = slice(k, k + 1)
        return Pass(self.inputs[part], self.activation.detach()[part], self.logits.detach()[part], self.linear)


class Aimed:
    """A pass and a target for each of its images; one backward serves every formula that asks for the gradient.

    Attributes:
        activation: A, N×C×h×w, without a graph.
    """

    def __init__(self, one: Pass, targets: Sequence[ClassTarget]) -> None:
        self._one, self._targets = one, targets
        self.activation = one.activation.detach()

    @cached_property
    def gradient(self) -> Tensor:
        """∂ logit of each image's target / ∂A."""
        return torch.autograd.grad(self._scores().sum(), self._one.activation, retain_graph=True)[0]

    @property
    def scores(self) -> Tensor:
        """The logit of each image's target, N."""
        return self._scores().detach()

    @property
    def pooled(self) -> bool:
        """Whether the scores see only each channel's mean: their gradient is the same at every position."""
        even = self.gradient.mean(dim=(2, 3), keepdim=True).expand_as(self.gradient)
        return bool(torch.allclose(self.gradient, even, rtol=1e-4))

    def _scores(self) -> Tensor:
        return torch.stack([target.value(own) for target, own in zip(self._targets, self._one.logits, strict=True)])


def forward(module: nn.Module, inputs: Tensor, layer: str, outputs: Outputs) -> Pass:
    """One forward pass with a graph from the layer on.

    Raises:
        MethodError: `not-applicable`: the answer does not depend on the layer.
    """
    leaves: list[Tensor] = []

    def lift(output: Tensor) -> Tensor:
        # Float32 for the formulas, whatever the network's own arithmetic, in which it goes on.
        leaves.append(output.detach().float().requires_grad_())
        return leaves[0].to(output.dtype)

    with torch.enable_grad():
        _, logits = answer(module, inputs, outputs, change={layer: lift})
    if not logits.requires_grad:
        raise MethodError("not-applicable", f"the network's answer does not depend on {layer}")
    return Pass(inputs, leaves[0], logits, affine(logits, leaves[0], LINEAR_NODES))


class Subject:
    """One image by itself, for methods that need more passes than the common one.

    Attributes:
        one: the image's share of the common pass, without a graph.
        module: the network for the request's precision.
        repeated: the same for hundreds of passes.
        pace: rows of a pass, bounded by the time that one slice should take. Under `exact` the time is what the
            network's table says, so that the rows do not depend on load.
    """

    def __init__(self, network: Network, request: CamRequest, one: Pass, grant: Grant) -> None:
        self.one = one
        self.outputs = network.outputs
        self.layer = resolved(request.layer)
        self.nonstandard_gate = request.nonstandard_gate
        self.module = module_for(network, request)
        self._network, self._request = network, request
        scale = relative_size(network, one.inputs)
        order = network.layers[self.layer].order
        sizes = [(layer.order, math.prod(layer.shape)) for layer in network.layers.values()]
        self._fit = most_together(network, _fitting(max(size for _, size in sizes) * scale, grant))
        above = max((size for at, size in sizes if at >= order), default=1)
        self._fit_above = most_together(network, _fitting(above * scale, grant))
        if is_fast(request):
            self.pace = Pace.by_time(network, grant, first=8, most=256)
        else:
            self.pace = Pace.by_cost(network, scale=scale, most=min(self._fit, 64))

    @property
    def repeated(self) -> nn.Module:
        """The network's module for hundreds of passes."""
        return repeated_module_for(self._network, self._request)

    def rows(self) -> int:
        """Rows of the next forward of the whole network, bounded by memory and time."""
        return self.pace.rows(min(self._fit, 64))

    def rows_above(self) -> int:
        """Rows of forwards that run one up to the layer and many above: each pays for the way up to it once more."""
        self.pace.rows(self._fit_above, least=self._fit_above)
        return self._fit_above


def _fitting(numbers: float, grant: Grant) -> int:
    return max(1, min(256, int(grant.memory_bytes / (4 * 4 * max(numbers, 1)))))
