"""cka: how alike the channels of a layer, the layers of a network, or two networks represent the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod, sqrt
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from convscope.protocol.cards import LayerCard, ModelCard
from convscope.protocol.operations.base import (
    About,
    Cost,
    NamedLayersFacts,
    Operation,
    also_called,
    called,
    check_applicable,
    check_channels,
    count_channels,
    named_layers,
    pass_bytes,
    relative_area,
)
from convscope.protocol.pictures import ArrayInfo, Picture, Slice
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import Channels, ImagesRequest, LayerName, LayerNames

MOST_CHANNELS = 2048
FEWEST_SAMPLES = 4
COPIES_BYTES = 32
"""Of each number of the features or Grams of one layer: they are centred, scaled and squared, some in float64."""


class CkaRequest(ImagesRequest):
    """What is compared (`mode`), on which samples, by which kernel and estimator."""

    mode: Literal["channels", "layers", "models"] = Field(
        "channels", description="Compare a layer's channels, a network's layers, or the layers of two networks."
    )
    layer: LayerName | None = Field(None, description="One layer; without it a middle stage.")
    layers: LayerNames | None = Field(None, description="Layers to compare, or `convolutions`; without it every stage.")
    channels: Channels = Field("all", description="In `channels` mode, which of the layer's channels.")
    other_model: str | None = Field(None, max_length=200, description="In `models` mode, the network of the columns.")
    other_layers: LayerNames | None = Field(None, description="Its layers, or `convolutions`; without it every stage.")
    kernel: Literal["linear", "rbf"] = "linear"
    bandwidth: float = Field(
        0.5, gt=0, le=1000, description="RBF: σ as a fraction of the median distance between different samples."
    )
    estimator: Literal["biased", "debiased"] = Field(
        "biased", description="biased: Kornblith 2019; debiased: U-centred Grams, unrelated features score zero."
    )
    samples: Literal["rows", "positions", "images"] | None = Field(
        None,
        description="In `channels` mode, what a sample is: a row of the map (features: its columns), one position "
        "(then CKA is r²), or an image. Layers are always compared over images.",
    )
    features: Literal["flatten", "pool"] = Field(
        "flatten", description="In `layers` and `models` mode: every number of the map, or each channel's mean."
    )
    batch_images: int | None = Field(
        None, ge=1, le=1024, description="Images whose samples are compared at once; HSICs of batches are summed."
    )
    permutations: int = Field(20, ge=0, le=1000, description="Random pairings for the spread of the baseline.")
    intervals: int | None = Field(
        None, ge=0, le=1000, description="Resamples for the 95 % interval; 0 for none. Default: 100, `channels` none."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.layer is not None and self.layers is not None:
            raise ValueError("give either layer or layers")
        if (self.mode == "models") != (self.other_model is not None):
            raise ValueError("other_model goes with mode=models, and mode=models needs it")
        if self.other_layers is not None and self.mode != "models":
            raise ValueError("other_layers goes with mode=models")
        if self.samples is not None and self.mode != "channels":
            raise ValueError(f"samples goes with mode=channels; mode={self.mode} always compares over images")
        return self


class Baseline(BaseModel):
    """What features that have nothing to do with each other would score."""

    floor: float | None = Field(description="Biased CKA expected of unrelated isotropic features; 0 when debiased.")
    permutation_mean: float | None = Field(
        description="Mean over the pairs of CKA after re-pairing the samples at random, over all pairings, exactly."
    )
    permutation_p95: float | None = Field(description="95th percentile over pairs and sampled pairings.")
    permutations: int


class MatrixFacts(BaseModel):
    """One matrix: its labels, samples, baselines and what to be careful about."""

    array: str
    rows: list[str]
    columns: list[str]
    samples: int = Field(description="n of each HSIC.")
    batches: int = Field(description="HSICs of this many batches of samples were summed before dividing.")
    features: list[int] = Field(description="p of each row.")
    mean_off_diagonal: float | None
    baseline: Baseline
    bandwidths: list[float] | None = Field(None, description="RBF: σ of each row.")
    undefined: dict[str, str] = Field(description="Rows and columns without an answer, and why.")
    interval_method: str | None = None
    interval_mean_width: float | None = None
    warnings: list[str]


class CkaFacts(NamedLayersFacts):
    """Facts of cka."""

    mode: str
    kernel: str
    estimator: str
    samples: str
    images: int
    matrices: list[MatrixFacts]


class CkaOperation(Operation[CkaRequest]):
    """Centered kernel alignment between channels, layers or networks."""

    name = "cka"
    summary = "CKA matrix of channels, layers or two networks, with the baseline it should be read against."
    request = CkaRequest
    facts = CkaFacts
    example = MappingProxyType({"mode": "channels", "channels": "first:16"})
    lane = "batch"
    sweeps = True
    quick = False
    has_matrix = True

    def models(self, request: CkaRequest) -> Sequence[str]:
        return [request.other_model] if request.other_model else []

    def resolve(self, request: CkaRequest, card: ModelCard) -> CkaRequest:
        if request.mode == "channels":
            names = request.layers or [request.layer or card.default_layers[self.name][0]]
        else:
            names = request.layers or ([request.layer] if request.layer else list(card.stages))
        where = "/layers" if request.layers else "/layer"
        cards = named_layers(names, self.name, card, where)
        for layer in cards:
            check_applicable(self.name, layer, card)
        samples = request.samples or ("rows" if request.mode == "channels" else "images")
        if request.mode == "channels":
            self._check_channels(request, cards)
        self._check_samples(request, samples, cards)
        return request.model_copy(
            update={
                "model": card.id,
                "layer": None,
                "layers": [layer.name for layer in cards],
                "samples": samples if request.mode == "channels" else None,
                "intervals": _default(request.intervals, 0 if request.mode == "channels" else 100),
                "image": None,
                "images": request.all_images() if request.image_set is None else [],
            }
        )

    def resolve_others(self, request: CkaRequest, cards: Mapping[str, ModelCard]) -> CkaRequest:
        if request.other_model is None:
            return request
        other = cards[request.other_model]
        names = request.other_layers or list(other.stages)
        layers = named_layers(names, self.name, other, "/other_layers")
        for layer in layers:
            check_applicable(self.name, layer, other)
        return request.model_copy(update={"other_model": other.id, "other_layers": [layer.name for layer in layers]})

    def _check_channels(self, request: CkaRequest, cards: Sequence[LayerCard]) -> None:
        for layer in cards:
            if not layer.spatial and request.samples != "images":
                raise ProblemError(
                    "not-applicable",
                    f"{layer.name} has no map, so its units have no rows or positions; use samples=images "
                    f"with at least {FEWEST_SAMPLES} images, or a layer with a map.",
                )
            check_channels(request.channels, layer)
            if count_channels(request.channels, layer) > MOST_CHANNELS:
                raise ProblemError(
                    "too-expensive",
                    f"{layer.name} has {layer.channels} channels; a matrix may have {MOST_CHANNELS} rows. "
                    "Name fewer channels.",
                    cost=layer.channels,
                    limit=MOST_CHANNELS,
                )

    def _check_samples(self, request: CkaRequest, samples: str, cards: Sequence[LayerCard]) -> None:
        if request.image_set is not None:
            return
        images = len(request.all_images())
        for layer in cards:
            height, width = layer.shape[1:] if layer.spatial else (1, 1)
            n = {"rows": images * height, "positions": images * height * width, "images": images}[samples]
            if n < FEWEST_SAMPLES:
                raise ProblemError(
                    "not-applicable",
                    f"CKA needs at least {FEWEST_SAMPLES} samples; {images} image(s) with samples={samples} "
                    f"at {layer.name} give {n}. Send more images or an image_set.",
                )

    def cost(self, request: CkaRequest, card: ModelCard, images: int) -> Cost:
        if request.mode == "channels":
            cells = [count_channels(request.channels, card.layer(name)) ** 2 for name in request.layers or []]
        else:
            cells = [len(request.layers or []) * len(request.other_layers or request.layers or [])]
        arrays = 4 if request.intervals else 2
        return Cost(result_bytes=4 * arrays * sum(cells), forwards=images * (2.0 if request.other_model else 1.0))

    def working_bytes(self, request: CkaRequest, card: ModelCard, images: int, result_bytes: int) -> int:
        """The least that one batch takes: all layers' maps, the features of one of them, and its Grams if it has any.

        A batch has as many images as are asked for together, else as few as give enough samples.
        """
        area = relative_area(request, card)
        layers = [card.layer(name) for name in request.layers or []]
        each = [_samples_per_image(request, layer, area) for layer in layers]
        batch = min(max(request.batch_images or 1, ceil(FEWEST_SAMPLES / min(each, default=1))), max(images, 1))
        maps = [prod(layer.shape) * (area if layer.spatial else 1.0) * batch for layer in layers]
        features, grams = 0.0, 0.0
        for layer, per_image, numbers in zip(layers, each, maps, strict=True):
            samples, width = per_image * batch, prod(layer.shape) * (area if layer.spatial else 1.0)
            rows = count_channels(request.channels, layer) if request.mode == "channels" else len(layers)
            if request.mode == "channels":
                numbers *= rows / max(layer.channels, 1)
                width = numbers / max(samples * rows, 1)
            features = max(features, numbers)
            if (
                request.mode != "channels"
                or request.kernel == "rbf"
                or request.intervals
                or (samples * samples * (width + rows) <= samples * rows * width * width)
            ):
                grams = max(grams, rows * samples * samples)
        one = pass_bytes(request, card, gradient=False)
        return int(one + 4 * sum(maps) + COPIES_BYTES * (features + grams)) + 2 * result_bytes

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        kind, _, layer = array.partition("/")
        told = next((one for one in facts["matrices"] if one["array"].partition("/")[2] == layer), None)
        units = {"matrix": "CKA", "hsic": "HSIC", "interval_low": "CKA", "interval_high": "CKA"}
        if told is None or kind not in units:
            return None
        indices = {"row": told["rows"], "column": told["columns"]}
        return About(("row", "column"), units[kind], layer or None, indices)

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        drawn = []
        for matrix in facts["matrices"]:
            layer = matrix["array"].removeprefix("matrix").removeprefix("/")
            what = {
                "channels": f"{request['model']}  channels of {called(layer, facts)}",
                "layers": f"{request['model']}  layers",
                "models": f"{request['model']} (rows) × {request['other_model']} (columns)",
            }
            baseline = matrix["baseline"]["permutation_mean"]
            of = "maps" if request["mode"] == "channels" else "layers"
            unrelated = "" if baseline is None else f"; baseline of unrelated {of}: {baseline:.2f}"
            drawn.append(
                Picture(
                    name=layer or "matrix",
                    also=also_called(layer, facts),
                    heading=what[request["mode"]],
                    views=("matrix",),
                    matrix=Slice(matrix["array"]),
                    row_labels=tuple(matrix["rows"]),
                    column_labels=tuple(matrix["columns"]),
                    normalize="layer",
                    colormap="magma",
                    value_name=f"CKA, {facts['kernel']}, {facts['estimator']}, n = {matrix['samples']}{unrelated}",
                    value_range=(0.0, 1.0),
                )
            )
        return drawn


def _samples_per_image(request: CkaRequest, layer: LayerCard, area: float) -> float:
    if request.mode != "channels" or request.samples == "images" or not layer.spatial:
        return 1.0
    return layer.shape[1] * sqrt(area) if request.samples == "rows" else layer.shape[1] * layer.shape[2] * area


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


OPERATION = CkaOperation()
