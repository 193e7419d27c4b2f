"""One network's look at a batch of images: answers, Grams of layers, and the range of every channel."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.contract import Grant, MethodError, Network
from workers.passes import hsic
from workers.passes.batches import module_for, one_by_one, relative_size
from workers.passes.pace import Pace
from workers.passes.scores import answer, probabilities

if TYPE_CHECKING:
    from convscope.protocol.operations.compare import CompareRequest

MOST_TOGETHER = 8
"""Images of one pass, where a pass may have several."""


@dataclass
class Seen:
    """What one network made of a batch of n images.

    Attributes:
        logits: n×classes float32.
        confidences: n×classes float64: probabilities, or the values of a network that gives values.
        grams: of each compared layer, n×n float64, U-centred; none where the batch has fewer than four images.
        ranges: by layer, C×2: each channel's lowest and highest value over the batch and all positions.
    """

    logits: Tensor
    confidences: Tensor
    grams: list[Tensor] = field(default_factory=list)
    ranges: dict[str, Tensor] = field(default_factory=dict)


class Side:
    """One of the two networks, with the layers that are looked at.

    Args:
        layers: whose representations are compared.
        channel_layers: whose channels are watched.
    """

    def __init__(
        self, network: Network, request: CompareRequest, layers: Sequence[str], channel_layers: Sequence[str]
    ) -> None:
        self.network, self._request = network, request
        self._layers, self._channel_layers = list(layers), list(channel_layers)
        self._module = module_for(network, request)

    def look(self, images: Sequence[Tensor], grant: Grant) -> Generator[float, None, Seen]:
        """Run a batch; yields the share done after each pass.

        Raises:
            MethodError: `numerical-error`: an answer or an activation is not finite.
        """
        inputs, _ = self.network.prepare(images, self._request.preprocess)
        rows = self._rows(inputs, grant)
        wanted = list(dict.fromkeys([*self._layers, *self._channel_layers]))
        logits: list[Tensor] = []
        features: dict[str, list[Tensor]] = {name: [] for name in self._layers}
        ranges: dict[str, Tensor] = {}
        for start in range(0, len(inputs), rows):
            with torch.no_grad():
                seen, found = answer(self._module, inputs[start : start + rows], self.network.outputs, wanted)
            logits.append(found.cpu())
            for name in self._layers:
                features[name].append(self._features(seen[name]))
            for name in self._channel_layers:
                ranges[name] = joined_ranges(ranges.get(name), _range_of(seen[name]))
            yield min(start + rows, len(inputs)) / len(inputs)
        whole = torch.cat(logits)
        grams = [self._gram(torch.cat(features.pop(name))) for name in self._layers] if len(images) >= 4 else []
        likely = probabilities(self.network.outputs, whole)
        if not bool(whole.isfinite().all()):
            raise MethodError("numerical-error", f"an answer of {self.network.id} is not finite")
        return Seen(whole, whole.double() if likely is None else likely, grams, ranges)

    def _rows(self, inputs: Tensor, grant: Grant) -> int:
        if one_by_one(self.network, self._request):
            return 1
        scale = relative_size(self.network, inputs)
        memory = Pace.by_memory(self.network, grant, wish=MOST_TOGETHER * scale, bytes_a_number=8, scale=scale)
        return min(memory.rows(), Pace.by_cost(self.network, scale=scale, most=MOST_TOGETHER).rows())

    def _features(self, maps: Tensor) -> Tensor:
        if self._request.features == "pool" and maps.dim() == 4:
            return maps.float().mean(dim=(2, 3))
        return maps.float().flatten(1)

    def _gram(self, features: Tensor) -> Tensor:
        gram = hsic.offset_free_gram(features).cpu().double()
        if not bool(gram.isfinite().all()):
            raise MethodError("numerical-error", f"an activation of {self.network.id} is not finite")
        return hsic.center_gram(gram, "debiased")


def _range_of(maps: Tensor) -> Tensor:
    """Lowest and highest value of each channel, C×2 float32: maps N×C×… of any number of images."""
    flat = maps.float().transpose(0, 1).flatten(1)
    return torch.stack([flat.amin(dim=1), flat.amax(dim=1)], dim=1).cpu()


def joined_ranges(one: Tensor | None, other: Tensor) -> Tensor:
    """The range of both."""
    if one is None:
        return other
    return torch.stack([torch.minimum(one[:, 0], other[:, 0]), torch.maximum(one[:, 1], other[:, 1])], dim=1)


def silent(ranges: Tensor) -> Tensor:
    """Which channels never change, C bool: they vary by less than a millionth of the layer's largest magnitude."""
    spread = ranges[:, 1] - ranges[:, 0]
    largest = float(ranges.abs().max()) if ranges.numel() else 0.0
    return spread <= 1e-6 * (largest if math.isfinite(largest) else 1.0)
