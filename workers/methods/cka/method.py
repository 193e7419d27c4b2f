"""CKA between the channels of a layer, the layers of a network, or two networks.

Source: Kornblith et al. 2019, sections 2 and 3 (CKA, HSIC); Song et al. 2012 (HSIC1); Nguyen et al. 2021, section 3
(minibatches: HSICs are summed over batches and divided at the end). Channel matrices with a map's rows as samples are
what blog code computes by a double loop; here all pairs come from one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.contract import Grant, Layer, MethodError, Network, Outcome, Progress, Row, SingleMethod, resolved
from workers.methods.cka.similarity import FEWEST_SAMPLES, Comparison, Estimation, Samples
from workers.passes import hsic
from workers.passes.batches import is_fast, module_for
from workers.passes.calls import capture, reduce
from workers.passes.pace import Pace
from workers.passes.units import Wish, choose

if TYPE_CHECKING:
    from convscope.protocol.operations.cka import CkaRequest

COPIES_BYTES = 32
"""Of each number of the features or Grams of one layer: they are centred, scaled and squared, some in float64."""


class Cka(SingleMethod["CkaRequest"]):
    """The `cka` operation. Memory is constant in the number of images."""

    def models(self, request: CkaRequest) -> Sequence[str]:
        return [request.other_model] if request.other_model else []

    def compute(self, network: Network, row: Row[CkaRequest], grant: Grant) -> Generator[Progress, None, Outcome]:
        return (yield from _compare(network, row, grant))


def _compare(network: Network, row: Row[CkaRequest], grant: Grant) -> Generator[Progress, None, Outcome]:
    request = row.request
    sides = [_Side(network, list(resolved(request.layers)), request, grant)]
    if request.mode == "models":
        sides.append(
            _Side(grant.networks[resolved(request.other_model)], list(resolved(request.other_layers)), request, grant)
        )
    batches = _batches(row, sides, grant)
    comparisons = _comparisons(request, network, len(batches))
    for done, batch in enumerate(batches):
        yield Progress(done, len(batches), f"images {batch.start} to {batch.stop - 1} of {len(row.images)}")
        found = []
        for side in sides:
            for share in side.look(row.images, batch):
                yield Progress(done + 0.9 * share, len(batches), f"batch {done + 1} of {len(batches)}")
            found.append(side.samples())
        for array, comparison in comparisons.items():
            name = array.removeprefix("matrix/") if request.mode == "channels" else ""
            comparison.add(found[0][name], found[1][name] if len(found) > 1 else None)
            yield Progress(done + 0.95, len(batches), f"{array}: batch {done + 1} of {len(batches)}")
    return _outcome(request, row, comparisons)


class _Side:
    """One network's layers, looked at batch after batch in forwards short enough for one slice."""

    def __init__(self, network: Network, layers: list[str], request: CkaRequest, grant: Grant) -> None:
        self.network, self.layers = network, layers
        self._request = request
        self._maps: dict[str, list[Tensor]] = {}
        self._grams: dict[str, Tensor] = {}
        self._module = module_for(network, request)
        numbers = sum(math.prod(layer.shape) for layer in network.layers.values()) * self.scale()
        fitting = max(1, min(64, int(grant.memory_bytes / max(8 * numbers, 1))))
        if is_fast(request):
            self._pace = Pace.by_time(network, grant, first=1, most=fitting)
        else:
            self._pace = Pace.by_cost(network, scale=self.scale(), most=fitting)

    def calls(self) -> list[Layer]:
        """The layers that are looked at."""
        return [self.network.layers[name] for name in self.layers]

    def scale(self) -> float:
        """How many times the pixels of the network's own input size an input has."""
        size = getattr(self._request.preprocess, "size", None)
        own = self.network.input_size[0] * self.network.input_size[1]
        return math.prod(size) / own if size and own else 1.0

    def look(self, images: Sequence[Tensor], batch: range) -> Generator[float, None, None]:
        """Run the batch; yields the share done after each forward."""
        self._maps, self._grams = {name: [] for name in self.layers}, {}
        start = batch.start
        while start < batch.stop:
            chunk = range(start, min(start + self._pace.rows(), batch.stop))
            inputs, _ = self.network.prepare([images[i] for i in chunk], self._request.preprocess)
            with torch.inference_mode():
                if chunk == batch and self._request.mode != "channels":
                    self._grams = reduce(self._module, inputs, self.layers, self._gram)
                else:
                    seen, _ = capture(self._module, inputs, self.layers)
                    for name in self.layers:
                        self._maps[name].append(seen[name])
            start = chunk.stop
            self._pace.ran(len(chunk))
            yield (start - batch.start) / len(batch)

    def samples(self) -> dict[str, Samples]:
        """What was looked at: by layer in `channels` mode, else all layers together under the empty name."""
        if self._request.mode == "channels":
            return {
                name: Samples.of_channels(_channel_features(torch.cat(self._maps.pop(name)).float(), self._request))
                for name in self.layers
            }
        for name in self.layers:
            if name not in self._grams:
                self._grams[name] = self._gram(torch.cat(self._maps.pop(name)))
        return {"": Samples.of_grams([self._grams[name] for name in self.layers], self._widths())}

    def _gram(self, maps: Tensor) -> Tensor:
        return hsic.offset_free_gram(_layer_features(maps.float(), self._request))

    def _widths(self) -> list[int]:
        shapes = [self.network.layers[name].shape for name in self.layers]
        return [shape[0] if self._request.features == "pool" else math.prod(shape) for shape in shapes]


def _comparisons(request: CkaRequest, network: Network, batches: int) -> dict[str, Comparison]:
    """One accumulating comparison for each matrix, by array name."""
    options = Estimation(
        kernel=request.kernel,
        fraction=request.bandwidth,
        estimator=request.estimator,
        permutations=request.permutations,
        intervals=resolved(request.intervals),
        seed=request.seed,
        batches=batches,
    )
    if request.mode != "channels":
        columns = list(resolved(request.other_layers)) if request.mode == "models" else None
        return {"matrix": Comparison(list(resolved(request.layers)), columns, options)}
    return {
        f"matrix/{name}": Comparison(
            [str(channel) for channel in _channel_list(request.channels, network.layers[name].shape[0])], None, options
        )
        for name in resolved(request.layers)
    }


def _channel_list(channels: Wish, count: int) -> list[int]:
    def ranks() -> Tensor:
        raise MethodError(
            "not-applicable",
            f"channels={channels} ranks by activation, which cka does not; name channels, all or first:K",
        )

    return choose(channels, count, ranks)


def _batches(row: Row[CkaRequest], sides: Sequence[_Side], grant: Grant) -> list[range]:
    """The images in batches of nearly equal size, as large as memory allows, none with fewer than four samples."""
    request, images = row.request, len(row.images)
    layers = [side.network.layers[name] for side in sides for name in side.layers]
    most = _fitting(request, sides, grant)
    if request.mode == "channels" and request.samples == "rows":
        # Grams grow with the square of the rows; beyond this many images stacking costs more than it tells.
        most = min(most, max(1, 2048 // max(layer.shape[1] for layer in layers)))
    size = min(request.batch_images or min(most, 64), images)
    per_image = min(_samples_per_image(request, layer, side.scale()) for side in sides for layer in side.calls())
    if images * per_image < FEWEST_SAMPLES:
        raise MethodError(
            "not-applicable", f"CKA needs at least {FEWEST_SAMPLES} samples, {images * per_image} were given"
        )
    size = max(size, math.ceil(FEWEST_SAMPLES / per_image))
    count = max(1, images // size)
    edges = [round(images * k / count) for k in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def _fitting(request: CkaRequest, sides: Sequence[_Side], grant: Grant) -> int:
    """Images of one batch whose maps, features and Grams fit into the memory granted; at least one.

    Maps and features grow with the images, Grams with their square.
    """
    maps = sum(
        math.prod(layer.shape) * (side.scale() if layer.spatial else 1) for side in sides for layer in side.calls()
    )
    linear, square = 4.0 * maps, 0.0
    for side in sides:
        for layer in side.calls():
            numbers = math.prod(layer.shape) * (side.scale() if layer.spatial else 1.0)
            samples, rows = _samples_per_image(request, layer, side.scale()), len(side.layers)
            if request.mode == "channels":
                rows = len(_channel_list(request.channels, layer.shape[0]))
                numbers *= rows / max(layer.shape[0], 1)
            width = numbers / max(samples * rows, 1)
            linear = max(linear, 4.0 * maps + COPIES_BYTES * numbers)
            by_grams = request.mode != "channels" or request.kernel == "rbf" or request.intervals
            if by_grams or samples * (width + rows) <= rows * width * width:
                square = max(square, COPIES_BYTES * rows * float(samples) ** 2)
    if square == 0:
        return max(1, int(grant.memory_bytes / max(linear, 1.0)))
    return max(1, int((math.sqrt(linear**2 + 4 * square * grant.memory_bytes) - linear) / (2 * square)))


def _samples_per_image(request: CkaRequest, layer: Layer, scale: float) -> int:
    if request.mode != "channels" or request.samples == "images" or not layer.spatial:
        return 1
    if request.samples == "rows":
        return int(layer.shape[1] * math.sqrt(scale))
    return int(layer.shape[1] * layer.shape[2] * scale)


def _channel_features(maps: Tensor, request: CkaRequest) -> Tensor:
    """Activations N×C×H×W as C feature matrices (C, n, p), by what a sample is."""
    maps = maps if maps.dim() == 4 else maps.reshape(*maps.shape[:2], 1, 1)
    maps = maps[:, _channel_list(request.channels, maps.shape[1])].transpose(0, 1)  # C×N×H×W
    channels, images, height, width = maps.shape
    if request.samples == "rows":
        return maps.reshape(channels, images * height, width)
    if request.samples == "positions":
        return maps.reshape(channels, images * height * width, 1)
    return maps.reshape(channels, images, height * width)


def _layer_features(maps: Tensor, request: CkaRequest) -> Tensor:
    """One layer's activations N×C×… as a feature matrix (n, p)."""
    if request.features == "pool" and maps.dim() == 4:
        return maps.mean(dim=(2, 3))
    return maps.flatten(1)


def _outcome(request: CkaRequest, row: Row[CkaRequest], comparisons: dict[str, Comparison]) -> Outcome:
    arrays: dict[str, Tensor] = {}
    matrices = []
    for array, comparison in comparisons.items():
        summary = comparison.summary()
        suffix = array.removeprefix("matrix")
        arrays[array] = summary.matrix.float()
        arrays[f"hsic{suffix}"] = summary.hsic.float()
        if summary.low is not None and summary.high is not None:
            arrays[f"interval_low{suffix}"] = summary.low.float()
            arrays[f"interval_high{suffix}"] = summary.high.float()
        matrices.append({"array": array, **summary.facts})
    facts = {
        "mode": request.mode,
        "kernel": request.kernel,
        "estimator": request.estimator,
        "samples": request.samples or "images",
        "images": len(row.images),
        "matrices": matrices,
    }
    return Outcome(arrays, facts)


METHOD = Cka()
