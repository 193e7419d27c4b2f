"""Rows of several jobs as one batch: prepared together, cut into slices, told apart again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.contract import Grant, MethodError, Network, Row
from workers.geometry import Transform
from workers.passes.pace import Pace

if TYPE_CHECKING:
    from convscope.protocol.requests import CommonRequest

MOST_IMAGES = 32
"""Images of one slice, where memory and time allow so many."""

_WORKING_COPIES = 3
"""Tensors of the largest layer's size that are alive at once in a forward pass without gradients."""


@dataclass
class Batch:
    """Images of several rows, prepared.

    Attributes:
        inputs: N×C×h×w, of all rows without an error, in order.
        errors: for each row why it cannot be computed, or None.
    """

    inputs: Tensor
    errors: list[MethodError | None]
    _ranges: list[range]
    _transforms: list[list[Transform]]

    def of(self, row: int) -> range:
        """Which images are a row's."""
        return self._ranges[row]

    def placed(self, row: int) -> list[Transform]:
        """Where the network's inputs lie in a row's uploads."""
        return self._transforms[row]

    def transforms_of(self, row: int) -> list[dict[str, Any]]:
        """Facts of where the network's inputs lie in a row's uploads."""
        return [transform.facts() for transform in self._transforms[row]]


def gather(network: Network, rows: Sequence[Row[CommonRequest]]) -> Batch:
    """Prepare the images of all rows; a row whose images cannot be prepared gets its error and no share."""
    inputs: list[Tensor] = []
    errors: list[MethodError | None] = []
    ranges: list[range] = []
    transforms: list[list[Transform]] = []
    count = 0
    for row in rows:
        try:
            prepared, where = network.prepare(row.images, getattr(row.request, "preprocess", None))
        except MethodError as error:
            errors.append(error)
            ranges.append(range(0))
            transforms.append([])
            continue
        inputs.append(prepared)
        errors.append(None)
        ranges.append(range(count, count + len(prepared)))
        transforms.append(list(where))
        count += len(prepared)
    joined = torch.cat(inputs) if inputs else torch.empty(0, 3, *network.input_size)
    return Batch(joined, errors, ranges, transforms)


def preprocess_key(request: CommonRequest) -> Hashable:
    """What rows must agree in to be one batch of inputs."""
    wish = getattr(request, "preprocess", None)
    size = getattr(wish, "size", None)
    return tuple(size) if size is not None else None


def module_for(network: Network, request: CommonRequest) -> nn.Module:
    """The network's module for the request's precision."""
    return network.fast_module() if is_fast(request) else network.module


def repeated_module_for(network: Network, request: CommonRequest) -> nn.Module:
    """The network's module for the request's precision where the method runs it hundreds of times."""
    return network.lean_module(fast=is_fast(request))


def one_by_one(network: Network, request: CommonRequest) -> bool:
    """Whether no pass has rows of two images, so that an image's bits do not depend on its company: `exact` on a CPU.

    A pass over several images takes hardly less time an image there (docs/decisions/0016); on other devices it does.
    """
    return not is_fast(request) and network.device.type == "cpu"


def is_fast(request: CommonRequest) -> bool:
    """Whether the request's precision is `fast`."""
    return getattr(request, "precision", "exact") == "fast"


def slices(
    network: Network, inputs: Tensor, request: CommonRequest, grant: Grant, kept: Sequence[str] = ()
) -> Iterator[Tensor]:
    """The batch in parts for one forward pass each.

    Under `exact` on a CPU a part is one image. Else parts fit the memory granted and take about the time granted, the
    first by an estimate.

    Args:
        network: whose layers tell how much memory an image takes.
        inputs: N×C×h×w.
        request: whose precision counts.
        grant: what the engine grants.
        kept: names of layers whose whole output is kept until the slice is done.
    """
    if one_by_one(network, request):
        yield from (inputs[place : place + 1] for place in range(len(inputs)))
        return
    scale = relative_size(network, inputs)
    sizes = {name: _numbers(layer.shape) for name, layer in network.layers.items()}
    numbers = _WORKING_COPIES * max(sizes.values(), default=0) + sum(sizes[name] for name in kept)
    fitting = max(1, min(MOST_IMAGES, int(grant.memory_bytes / (4 * max(numbers, 1) * scale))))
    pace, start = Pace.by_time(network, grant, first=int(8 / scale), most=fitting), 0
    while start < len(inputs):
        part = inputs[start : start + pace.rows()]
        yield part
        start += len(part)
        pace.ran(len(part))


def relative_size(network: Network, inputs: Tensor) -> float:
    """How many times the pixels of the network's own input size an image has, which is about what it costs.

    Args:
        inputs: N×C×h×w.
    """
    own = network.input_size[0] * network.input_size[1]
    return inputs.shape[2] * inputs.shape[3] / own if own else 1.0


def _numbers(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def on(like: Tensor, table: Tensor) -> Tensor:
    """The table on the device of `like`; a GPU takes it in its turn, and nobody waits for it."""
    return table.to(like.device, non_blocking=True)
