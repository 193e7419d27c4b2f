"""kernels: the weights of a convolution, drawn as filters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import Field

from convscope.protocol.cards import LayerCard, ModelCard
from convscope.protocol.operations.base import (
    About,
    Cost,
    NamedLayersFacts,
    Operation,
    also_called,
    called,
    check_applicable,
)
from convscope.protocol.pictures import ArrayInfo, Picture, Slice, Tile
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import Channels, CommonRequest, LayerName
from convscope.protocol.selections import count_of

FIRST_FILTERS = "first:64"
MOST_TILES = 8192
"""Tiles of one picture; a deep layer has a hundred thousand (output, input) pairs."""


_WIDEST = 32
"""Inputs of a filter that make one row of tiles; more are wrapped."""


class KernelsRequest(CommonRequest):
    """Which convolution, which of its filters, and which of their inputs."""

    layer: LayerName | None = Field(None, description="A convolution; without it the first one.")
    filters: Channels = Field(
        FIRST_FILTERS, description="Which filters (output channels); `top:K` are those with the largest norm."
    )
    inputs: Channels = Field(
        "all", description="Which input channels of each filter; `top:K` are those with the largest norm in the layer."
    )


class KernelsFacts(NamedLayersFacts):
    """Facts of kernels."""

    layer: str
    shape: list[int] = Field(description="Of the layer's whole weight: O, I, kh, kw; I is of one group.")
    filters: list[int] = Field(description="The output channel of each row of `weights`.")
    inputs: list[int] = Field(description="The input channel, within its group, of each column of `weights`.")
    groups: int
    minimum: float = Field(description="Of the whole layer, as the maximum.")
    maximum: float
    norms: list[float] = Field(description="L2 norm of each chosen filter over all its inputs.")


class KernelsOperation(Operation[KernelsRequest]):
    """The weights of a convolution."""

    name = "kernels"
    summary = "The kernels of a convolution, as filters in colour or as one map for each pair of output and input."
    request = KernelsRequest
    facts = KernelsFacts
    example = MappingProxyType({"filters": "first:32"})
    has_matrix = True
    max_images = 0

    def resolve(self, request: KernelsRequest, card: ModelCard) -> KernelsRequest:
        default = card.default_layers.get(self.name)
        if request.layer is None and not default:
            raise ProblemError("not-applicable", f"{card.id} has no convolution, so it has no kernels to show.")
        layer = card.layer(request.layer or (default or ("",))[0])
        check_applicable(self.name, layer, card)
        outputs, inputs = _kernel_shape(layer)[:2]
        _check(request.filters, outputs, layer, "/filters", "filters")
        _check(request.inputs, inputs, layer, "/inputs", "inputs a filter")
        return request.model_copy(update={"model": card.id, "layer": layer.name})

    def cost(self, request: KernelsRequest, card: ModelCard, images: int) -> Cost:
        outputs, inputs, height, width = _kernel_shape(card.layer(request.layer or ""))
        numbers = count_of(request.filters, outputs) * count_of(request.inputs, inputs) * height * width
        return Cost(result_bytes=4 * numbers, forwards=0.0)

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        if array != "weights":
            return None
        indices = {"filter": facts["filters"], "input": facts["inputs"]}
        return About(("filter", "input", "row", "column"), "weight", facts["layer"], indices)

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        filters, inputs = facts["filters"], facts["inputs"]
        largest = max(abs(facts["minimum"]), abs(facts["maximum"]))
        heading = f"{request['model']}  {called(facts['layer'], facts)}  kernels {'×'.join(map(str, facts['shape']))}"
        if len(filters) < facts["shape"][0]:
            heading += f"  ({len(filters)} of {facts['shape'][0]} filters)"
        if facts["shape"][1] == 3 and inputs == [0, 1, 2]:
            tiles = [_tile((k,), str(channel)) for k, channel in enumerate(filters)]
            # One scale for all filters and colours, the layer's: each channel alone would show hues that are not there.
            scale: dict[str, Any] = {
                "normalize": "layer",
                "colormap": "gray",
                "value_range": (facts["minimum"], facts["maximum"]),
                "columns": 8,
            }
        elif facts["shape"][2:] == [1, 1] and len(inputs) > 1:
            # One number for each pair: as tiles they would be dots.
            tiles = []
            scale = {
                "normalize": "symmetric",
                "colormap": "RdBu_r",
                "signed": True,
                "value_range": (-largest, largest),
                "matrix": Slice("weights"),
                "row_labels": tuple(map(str, filters)),
                "column_labels": tuple(map(str, inputs)),
            }
        else:
            pairs = [
                ((k, m), f"{channel}, {source}") for k, channel in enumerate(filters) for m, source in enumerate(inputs)
            ]
            tiles = [_tile(*pair) for pair in pairs[:MOST_TILES]]
            scale = {"normalize": "symmetric", "colormap": "RdBu_r", "signed": True, "value_range": (-largest, largest)}
            if 1 < len(inputs) <= _WIDEST:
                scale["columns"] = len(inputs)  # a row for each filter
            if len(pairs) > MOST_TILES:
                heading += f"  (the first {MOST_TILES} of {len(pairs)} pairs)"
        return [
            Picture(
                name=facts["layer"],
                also=also_called(facts["layer"], facts),
                heading=heading,
                views=("matrix",) if "matrix" in scale else ("tiles",),
                tiles=tuple(tiles[:MOST_TILES]),
                value_name="weight",
                **scale,
            )
        ]


def _tile(index: tuple[int, ...], label: str) -> Tile:
    return Tile(parts=(Slice("weights", index),), titles={"index": label}, group="layer")


def _kernel_shape(layer: LayerCard) -> tuple[int, int, int, int]:
    outputs, inputs, height, width = layer.kernel_shape or (0, 0, 0, 0)
    return outputs, inputs, height, width


def _check(wish: list[int] | str, there: int, layer: LayerCard, pointer: str, what: str) -> None:
    wrong = [channel for channel in wish if channel >= there] if isinstance(wish, list) else []
    if wrong:
        raise ProblemError(
            "channel-out-of-range",
            f"{layer.name} has {there} {what}, 0 to {there - 1}; {pointer} asks for {wrong[0]}.",
            layer=layer.name,
            channels=there,
        )


OPERATION = KernelsOperation()
