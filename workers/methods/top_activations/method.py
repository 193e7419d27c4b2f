"""top-activations: which images excite each channel most, and what in them.

Source: Zeiler & Fergus 2013, section 4.1 and figure 2: for a channel the nine strongest activations over a data set,
the patch of the image that each unit sees, and its deconvnet projection beside it.

A sweep is one state: it goes through the images in order, keeps the strongest units and a spread of values, and can be
saved between any two images. What is shown of the strongest is made at the end, image by image.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.contract import Grant, IterativeMethod, MethodError, Network, Outcome, Progress, Result, Row, resolved
from workers.methods.top_activations.groups import GroupMeans
from workers.methods.top_activations.showing import Shown, show
from workers.methods.top_activations.streaming import BINS, Spread, Strongest
from workers.passes.batches import preprocess_key, repeated_module_for
from workers.passes.calls import capture
from workers.passes.pace import SliceClock, most_together
from workers.passes.projection import caution_of
from workers.passes.units import choose

if TYPE_CHECKING:
    from convscope.protocol.operations.top_activations import TopActivationsRequest

SHARES = {"0.5": 0.5, "0.9": 0.9, "0.99": 0.99, "1": 1.0}
"""Quantiles that are told of each channel."""
_TOGETHER_CPU, _TOGETHER_GPU = {"exact": 1, "fast": 8}, {"exact": 16, "fast": 64}
"""Images of one forward: of `exact` always so many from the first image on, whatever the load, so that a sweep that was
interrupted goes on with the same bits. On a CPU more than one gains nothing in float32."""


@dataclass
class LayerSweep:
    """One layer's part of a sweep, on the CPU.

    Attributes:
        groups: means by group, where the request has groups.
        width: of its maps at this input size, which tells a position's row and column.
    """

    name: str
    channels: list[int]
    strongest: Strongest
    spread: Spread
    groups: GroupMeans | None = None
    width: int = 1


@dataclass
class Sweep:
    """A job's way through its images.

    Attributes:
        images: the set, each read when it is looked at.
        place: of the next image.
    """

    request: TopActivationsRequest
    images: Sequence[Tensor]
    layers: list[LayerSweep]
    place: int = 0
    module: nn.Module | None = field(default=None, repr=False)

    def advance(self, network: Network, grant: Grant) -> None:
        """Look at as many images as a slice allows, one forward at least.

        Raises:
            MethodError: an image cannot be prepared, or excites beyond the finite numbers.
        """
        clock = SliceClock(grant)
        if self.module is None:
            self.module = repeated_module_for(network, self.request)
        sizes = _TOGETHER_CPU if network.device.type == "cpu" else _TOGETHER_GPU
        together = most_together(network, sizes[self.request.precision])
        names = [layer.name for layer in self.layers]
        while self.place < len(self.images):
            chunk = self.images[self.place : self.place + together]
            inputs, _ = network.prepare(chunk, self.request.preprocess)
            with torch.no_grad():
                seen, _ = capture(self.module, inputs, names)
            for layer in self.layers:
                self._take(layer, seen[layer.name][:, layer.channels].float())
            self.place += len(chunk)
            if clock.over():
                return

    def _take(self, layer: LayerSweep, activation: Tensor) -> None:
        """Keep what is strongest in a batch of one layer's chosen channels, N×C×… float32."""
        layer.width = activation.shape[3] if activation.dim() == 4 else 1
        maps = activation.flatten(2) if activation.dim() > 2 else activation[:, :, None]
        if self.request.by == "mean":
            maps = maps.mean(dim=2, keepdim=True)
        if not bool(maps.isfinite().all()):
            raise MethodError(
                "numerical-error", f"the activation of {layer.name} left the finite numbers near image {self.place}"
            )
        for number, one in enumerate(maps):
            found = Strongest.of_image(one, self.place + number, self.request.per_image)
            layer.spread.add(found.values[:, 0])
            if layer.groups is not None:
                layer.groups.add(self.place + number, found.values[:, 0])
            layer.strongest.merge(found)


class TopActivations(IterativeMethod["TopActivationsRequest", Sweep]):
    """The `top-activations` operation.

    Row: the images of a set, or some images; request `layers`, `channels`, `k`, `by`, `per_image`, `patches`,
    `projection`, `preprocess`.

    Arrays, for each layer, with C channels:
        values/{layer}: C×k float32, strongest first, NaN where there are fewer.
        images/{layer}: C×k int64, places in the set, −1 where there are fewer.
        units/{layer}: C×k×2 int64, (y, x) in the map; −1 with by=mean, which has no unit.
        patch/{layer}: C×k×h×w×3 uint8, what the unit sees, grey beyond the image.
        projection/{layer}: C×k×P×h×w float32, in the same window, for a network of P planes.
        group_means/{layer}: C×groups float32, in the order of the facts' `groups`.
    """

    def group_key(self, network: Network, request: TopActivationsRequest) -> Hashable:
        return tuple(resolved(request.layers)), preprocess_key(request), request.by

    def room(self, network: Network, request: TopActivationsRequest) -> tuple[int, int]:
        channels = sum(len(chosen) for _, chosen in _chosen(network, request))
        return 1, 2 * channels * (request.k * (4 + 8 + 8) + 4 * BINS)  # once more in a checkpoint

    def start(
        self, network: Network, row: Row[TopActivationsRequest], grant: Grant
    ) -> Generator[Progress, None, list[Sweep]]:
        yield from ()
        return [_sweep(network, row)]

    def step(self, network: Network, states: Sequence[Sweep], grant: Grant) -> list[MethodError | None]:
        errors: list[MethodError | None] = []
        for state in states:
            try:
                state.advance(network, grant)
                errors.append(None)
            except MethodError as error:
                errors.append(error)
        return errors

    def done(self, state: Sweep) -> bool:
        return state.place >= len(state.images)

    def progress(self, states: Sequence[Sweep], preview: bool) -> Progress:
        (state,) = states
        return Progress(state.place, len(state.images), f"{state.place} of {len(state.images)} images")

    def finish(
        self, network: Network, row: Row[TopActivationsRequest], states: Sequence[Sweep], grant: Grant
    ) -> Generator[Progress, None, Result]:
        (state,) = states
        shown: dict[str, Shown] = {}
        if row.request.patches:
            kept = {layer.name: (layer.channels, layer.strongest, layer.width) for layer in state.layers}
            shown = yield from show(network, row, kept)
        outcome = Outcome(facts={"by": row.request.by, "images": len(row.images), "layers": []})
        for layer in state.layers:
            outcome.arrays |= _arrays(layer, row.request.by)
            if layer.name in shown:
                outcome.arrays |= shown[layer.name].arrays(layer.name)
            outcome.facts["layers"].append(_facts(layer, network, row.request))
        told = state.layers[0].groups
        if told is not None:
            counted = zip(told.names, told.counts.tolist(), strict=True)
            outcome.facts["groups"] = [{"name": name, "images": images} for name, images in counted]
        rule = resolved(row.request.projection)
        outcome.facts["caution"] = None if rule == "none" else caution_of(rule)
        return outcome

    def save(self, states: Sequence[Sweep]) -> dict[str, Tensor]:
        (state,) = states
        saved = {"place": torch.tensor(state.place), "images": torch.tensor(len(state.images))}
        for number, layer in enumerate(state.layers):
            saved[f"{number}.width"] = torch.tensor(layer.width)
            saved |= {f"{number}.strongest.{name}": tensor for name, tensor in vars(layer.strongest).items()}
            saved |= {f"{number}.spread.{name}": torch.as_tensor(one) for name, one in vars(layer.spread).items()}
            if layer.groups is not None:
                saved |= {f"{number}.groups.sums": layer.groups.sums, f"{number}.groups.counts": layer.groups.counts}
        return saved

    def load(
        self, network: Network, row: Row[TopActivationsRequest], saved: Mapping[str, Tensor], grant: Grant
    ) -> list[Sweep]:
        state = _sweep(network, row)
        if int(saved["images"]) != len(row.images):
            raise ValueError(f"the checkpoint is of {int(saved['images'])} images, not {len(row.images)}")
        state.place = int(saved["place"])
        for number, layer in enumerate(state.layers):
            layer.width = int(saved[f"{number}.width"])
            for name in vars(layer.strongest):
                setattr(layer.strongest, name, saved[f"{number}.strongest.{name}"].clone())
            for name in ("counts", "sums", "active", "most"):
                setattr(layer.spread, name, saved[f"{number}.spread.{name}"].clone())
            layer.spread.images = int(saved[f"{number}.spread.images"])
            if layer.groups is not None:
                layer.groups.sums = saved[f"{number}.groups.sums"].clone()
                layer.groups.counts = saved[f"{number}.groups.counts"].clone()
        return [state]


def _chosen(network: Network, request: TopActivationsRequest) -> list[tuple[str, list[int]]]:
    """Each layer's name and the channels that are looked at."""
    layers = [network.layers[name] for name in resolved(request.layers)]
    return [(layer.name, choose(request.channels, layer.shape[0], _ranks)) for layer in layers]


def _ranks() -> Tensor:
    raise MethodError("invalid-request", "channels that rank by one image mean nothing for a set")


def _sweep(network: Network, row: Row[TopActivationsRequest]) -> Sweep:
    groups: list[str] | None = getattr(row.request, "groups", None)  # a name an image, once resolved
    if groups is not None and len(groups) != len(row.images):
        raise MethodError("invalid-request", f"groups has {len(groups)} names for {len(row.images)} images")
    layers = [
        LayerSweep(
            name,
            chosen,
            Strongest.none(len(chosen), row.request.k),
            Spread.none(len(chosen)),
            None if groups is None else GroupMeans.none(len(chosen), groups),
        )
        for name, chosen in _chosen(network, row.request)
    ]
    return Sweep(row.request, row.images, layers)


def _arrays(layer: LayerSweep, by: str) -> dict[str, Tensor]:
    found = layer.strongest
    nobody = found.images < 0
    units = torch.stack([found.positions // layer.width, found.positions % layer.width], dim=2)
    units[nobody | (by == "mean")] = -1
    arrays = {
        f"values/{layer.name}": found.values.masked_fill(nobody, torch.nan),
        f"images/{layer.name}": found.images.clone(),
        f"units/{layer.name}": units,
    }
    if layer.groups is not None:
        arrays[f"group_means/{layer.name}"] = layer.groups.means().float()
    return arrays


def _facts(layer: LayerSweep, network: Network, request: TopActivationsRequest) -> dict[str, Any]:
    spread, found = layer.spread, layer.strongest
    dead = (spread.most <= 0).tolist()
    quantiles = spread.quantiles(SHARES)
    return {
        "layer": layer.name,
        "shape": list(network.layers[layer.name].shape),
        "images": spread.images,
        "dead_channels": [channel for channel, is_dead in zip(layer.channels, dead, strict=True) if is_dead],
        "dead_share": sum(dead) / len(dead),
        "projection": request.projection,
        "channels": [
            {
                "channel": channel,
                "dead": dead[k],
                "active": int(spread.active[k]) / spread.images,
                "mean": float(spread.sums[k]) / spread.images,
                "quantiles": quantiles[k],
                "best": found.values[k][found.images[k] >= 0].tolist(),
                **({} if layer.groups is None else layer.groups.facts(k)),
            }
            for k, channel in enumerate(layer.channels)
        ],
    }


METHOD = TopActivations()
