"""CKA between the channels of a layer, the layers of a network, or two networks.

Source: Kornblith et al. 2019, sections 2 and 3 (CKA, HSIC); Song et al. 2012 (HSIC1); Nguyen et al. 2021, section 3
(minibatches: HSICs are summed over batches and divided at the end). Channel matrices with a map's rows as samples are
what blog code computes by a double loop; here all pairs come from one matrix product.

Import rule: torch, workers.contract, workers.mathematics.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Hashable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from workers.contract import Context, MethodError, Network, OneShotMethod, Outcome, Progress, Result, Row
from workers.mathematics.calls import capture
from workers.mathematics.similarity import FEWEST_SAMPLES, Comparison, Options


class Cka(OneShotMethod):
    """The `cka` operation. Memory is constant in the number of images."""

    def group_key(self, request: Any) -> Hashable | None:
        del request
        return None

    def models(self, request: Any) -> Sequence[str]:
        return [request.other_model] if request.other_model else []

    def run(self, network: Network, rows: Sequence[Row], context: Context) -> Generator[Progress, None, list[Result]]:
        results: list[Result] = []
        for row in rows:
            try:
                results.append((yield from _compare(network, row, context)))
            except MethodError as error:
                results.append(error)
        return results


def _compare(network: Network, row: Row, context: Context) -> Generator[Progress, None, Outcome]:
    request = row.request
    sides = [(network, list(request.layers))]
    if request.mode == "models":
        sides.append((context.networks[request.other_model], list(request.other_layers)))
    batches = _batches(row, sides, context)
    comparisons = _comparisons(request, network, len(batches))
    for done, batch in enumerate(batches):
        yield Progress(done, len(batches), f"images {batch.start} to {batch.stop - 1} of {len(row.images)}")
        features = []
        for side, layers in sides:
            features.append((yield from _features(side, layers, row, batch, context, done, len(batches))))
        for array, comparison in comparisons.items():
            if request.mode == "channels":
                comparison.add(_channel_features(features[0][array.removeprefix("matrix/")], request))
            else:
                left, right = features[0], features[-1]
                comparison.add(
                    [_layer_features(left[name], request) for name in sides[0][1]],
                    [_layer_features(right[name], request) for name in sides[1][1]] if len(sides) > 1 else None,
                )
            yield Progress(done + 0.9, len(batches), f"{array}: batch {done + 1} of {len(batches)}")
    return _outcome(request, row, comparisons)


def _comparisons(request: Any, network: Network, batches: int) -> dict[str, Comparison]:
    """One accumulating comparison for each matrix, by array name."""
    options = Options(
        kernel=request.kernel,
        fraction=request.bandwidth,
        estimator=request.estimator,
        permutations=request.permutations,
        intervals=request.intervals,
        seed=request.seed,
        batches=batches,
    )
    if request.mode != "channels":
        columns = list(request.other_layers) if request.mode == "models" else None
        return {"matrix": Comparison(list(request.layers), columns, options)}
    return {
        f"matrix/{name}": Comparison(
            [str(channel) for channel in _channel_list(request.channels, network.layers[name].shape[0])], None, options
        )
        for name in request.layers
    }


def _channel_list(channels: list[int] | str, count: int) -> list[int]:
    if isinstance(channels, list):
        return channels
    if channels.startswith("first:"):
        return list(range(min(int(channels.partition(":")[2]), count)))
    if channels == "all":
        return list(range(count))
    raise MethodError(
        "not-applicable", f"channels={channels} ranks by activation, which cka does not; name channels, all or first:K"
    )


def _batches(row: Row, sides: Sequence[tuple[Network, list[str]]], context: Context) -> list[range]:
    """The images in batches of nearly equal size, as large as memory allows, none with fewer than four samples."""
    request, images = row.request, len(row.images)
    floats = sum(math.prod(network.layers[name].shape) for network, layers in sides for name in layers)
    most = max(1, int(context.memory_bytes / 3 / 4 / max(floats, 1)))
    if request.mode == "channels" and request.samples == "rows":
        # Grams grow with the square of the rows; beyond this many images stacking costs more than it tells.
        largest = max(network.layers[name].shape[1] for network, layers in sides for name in layers)
        most = min(most, max(1, 2048 // largest))
    size = min(request.batch_images or min(most, 64), images)
    per_image = min(_samples_per_image(request, network.layers[name]) for network, layers in sides for name in layers)
    if images * per_image < FEWEST_SAMPLES:
        raise MethodError(
            "not-applicable", f"CKA needs at least {FEWEST_SAMPLES} samples, {images * per_image} were given"
        )
    size = max(size, math.ceil(FEWEST_SAMPLES / per_image))
    count = max(1, images // size)
    edges = [round(images * k / count) for k in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def _samples_per_image(request: Any, layer: Any) -> int:
    if request.mode != "channels" or request.samples == "images" or not layer.spatial:
        return 1
    return int(layer.shape[1] if request.samples == "rows" else layer.shape[1] * layer.shape[2])


def _features(
    network: Network, layers: list[str], row: Row, batch: range, context: Context, done: int, total: int
) -> Generator[Progress, None, dict[str, Tensor]]:
    """Outputs of the layers for one batch of images, in forwards short enough for one slice."""
    kept: dict[str, list[Tensor]] = {name: [] for name in layers}
    module = network.fast_module() if row.request.precision == "fast" else network.module
    start, step = batch.start, 1
    while start < batch.stop:
        began = time.perf_counter()
        images = [row.images[i] for i in range(start, min(start + step, batch.stop))]
        inputs, _ = network.prepare(images, row.request.preprocess)
        with torch.no_grad():
            seen, _ = capture(module, inputs, layers)
        for name in layers:
            kept[name].append(seen[name].float())
        start += len(images)
        per_image = (time.perf_counter() - began) / len(images)
        step = max(1, min(32, int(context.slice_s / max(per_image, 1e-6))))
        share = (start - batch.start) / len(batch) * 0.8
        yield Progress(done + share, total, f"{start} of {len(row.images)} images")
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _channel_features(maps: Tensor, request: Any) -> Tensor:
    """Activations N×C×H×W as C feature matrices (C, n, p), by what a sample is."""
    maps = maps if maps.dim() == 4 else maps.reshape(*maps.shape[:2], 1, 1)
    maps = maps[:, _channel_list(request.channels, maps.shape[1])].transpose(0, 1)  # C×N×H×W
    channels, images, height, width = maps.shape
    if request.samples == "rows":
        return maps.reshape(channels, images * height, width)
    if request.samples == "positions":
        return maps.reshape(channels, images * height * width, 1)
    return maps.reshape(channels, images, height * width)


def _layer_features(maps: Tensor, request: Any) -> Tensor:
    """One layer's activations N×C×… as a feature matrix (n, p)."""
    if request.features == "pool" and maps.dim() == 4:
        return maps.mean(dim=(2, 3))
    return maps.flatten(1)


def _outcome(request: Any, row: Row, comparisons: dict[str, Comparison]) -> Outcome:
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
