"""feature-maps: what chosen channels of chosen layers answer to an image, with statistics of each map."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workers.contract import (
    Grant,
    Method,
    MethodError,
    Network,
    OneShotMethod,
    Outcome,
    Progress,
    Result,
    Row,
    resolved,
)
from workers.passes.batches import gather, module_for, preprocess_key, slices
from workers.passes.calls import capture
from workers.passes.sweep import ImageSweep, joined_arrays, joined_lists
from workers.passes.units import choose_channels

if TYPE_CHECKING:
    from convscope.protocol.operations.feature_maps import FeatureMapsRequest

ROUNDING = 1e-6
"""Share of a layer's largest magnitude: some ten roundings of float32, beside which a map is as good as zero."""
_STATISTICS = ("minimum", "mean", "maximum", "std", "zeros")


class FeatureMaps(OneShotMethod["FeatureMapsRequest"]):
    """Activations of chosen channels, as each call gave them before anything overwrote them.

    One forward serves all layers and all rows with the same layers and input size, and stops after the deepest one. The
    map of a fully connected unit is 1×1. Statistics are of the whole map: population standard deviation, share of exact
    zeros; a channel is dead on an image when its map is zero everywhere but for rounding, that is where no value of it
    is larger than a millionth of the layer's largest.

    Result: arrays `maps/{layer}` (N×K×H×W, float32), channels in the order asked for, `top:K` strongest first; facts
    `layers` with `channels`, statistics and `dead_channels` for each image, and `transforms`.
    """

    def group_key(self, request: FeatureMapsRequest) -> Hashable:
        """Rows with the same layers and input size share a batch."""
        return tuple(resolved(request.layers)), preprocess_key(request)

    def run(
        self, network: Network, rows: Sequence[Row[FeatureMapsRequest]], grant: Grant
    ) -> Generator[Progress, None, list[Result]]:
        """Compute all rows; a row whose maps are not finite gets `numerical-error`."""
        names = list(resolved(rows[0].request.layers))
        batch = gather(network, rows)
        module = module_for(network, rows[0].request)
        owners = [row for row in range(len(rows)) for _ in batch.of(row)]
        images: list[dict[str, _Chosen]] = []
        for part in slices(network, batch.inputs, rows[0].request, grant, names):
            with torch.no_grad():
                seen, _ = capture(module, part, names)
                for k in range(len(part)):
                    request = rows[owners[len(images)]].request
                    images.append({name: _look(seen[name][k], request) for name in names})
                del seen
            if len(images) < len(batch.inputs):
                yield Progress(len(images), len(batch.inputs), "images")
        return [
            batch.errors[row] or self._outcome(names, [images[i] for i in batch.of(row)], batch.transforms_of(row))
            for row in range(len(rows))
        ]

    def of_set(self) -> Method:
        """Part by part, saved in between."""
        return ImageSweep(self, _joined)

    def _outcome(self, names: list[str], images: list[dict[str, _Chosen]], transforms: list[dict[str, Any]]) -> Result:
        arrays, layers = {}, []
        for name in names:
            chosen = [image[name] for image in images]
            maps = torch.stack([one.maps for one in chosen])
            if not bool(maps.isfinite().all()):
                return MethodError("numerical-error", f"the maps of {name} are not finite on this image")
            arrays[f"maps/{name}"] = maps
            layers.append(
                {
                    "layer": name,
                    "shape": chosen[0].shape,
                    "channels": [one.channels for one in chosen],
                    **{key: [one.statistics[key] for one in chosen] for key in _STATISTICS},
                    "dead_channels": [one.dead for one in chosen],
                }
            )
        return Outcome(arrays, {"layers": layers, "transforms": transforms})


def _joined(parts: Sequence[Outcome]) -> Outcome:
    """Outcomes of consecutive images as one."""
    facts = [part.facts for part in parts]
    by_image = ("channels", *_STATISTICS, "dead_channels")
    told = zip(*(one["layers"] for one in facts), strict=True)
    layers = [{**layer[0], **joined_lists(layer, by_image)} for layer in told]
    return Outcome(joined_arrays(parts), {**facts[0], "layers": layers, **joined_lists(facts, ("transforms",))})


class _Chosen:
    """The chosen maps of one layer on one image: K×H×W on the CPU, float32, with their statistics."""

    def __init__(self, output: Tensor, channels: list[int]) -> None:
        self.shape = list(output.shape)
        self.channels = channels
        largest = output.flatten(1).abs().amax(dim=1)
        self.dead: list[int] = (largest <= ROUNDING * largest.max()).nonzero().flatten().tolist()
        maps = output[channels]
        wide = maps.flatten(1).double()
        self.statistics: dict[str, list[float]] = {
            "minimum": wide.amin(dim=1).tolist(),
            "mean": wide.mean(dim=1).tolist(),
            "maximum": wide.amax(dim=1).tolist(),
            "std": wide.std(dim=1, correction=0).tolist(),
            "zeros": (wide == 0).double().mean(dim=1).tolist(),
        }
        self.maps = maps.cpu()


def _look(output: Tensor, request: FeatureMapsRequest) -> _Chosen:
    """One image's output of a layer (C×H×W or C) as its chosen maps."""
    output = output.float()
    if output.dim() == 1:
        output = output[:, None, None]
    assert request.channels is not None
    return _Chosen(output, choose_channels(output, request.channels, request.by))


METHOD = FeatureMaps()
