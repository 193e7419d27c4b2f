"""feature-maps: the activations of chosen channels of chosen layers, with statistics of each map."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations.base import (
    About,
    Cost,
    NamedLayersFacts,
    Operation,
    also_called,
    area_factor,
    called,
    check_applicable,
    check_channels,
    check_preprocess,
    count_channels,
    named_layers,
)
from convscope.protocol.pictures import ArrayInfo, Picture, Slice, Tile
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import Channels, ImagesRequest, LayerName, LayerNames

FIRST_CHANNELS = "first:64"


class FeatureMapsRequest(ImagesRequest):
    """Which maps to show: layers by name, or `layers=convolutions` for every convolution."""

    layer: LayerName | None = Field(None, description="One layer; without it the first convolution.")
    layers: LayerNames | None = Field(None, description="Several layers, or the one word `convolutions`.")
    channels: Channels | None = Field(None, description="Which maps; without it the first 64.")
    by: Annotated[str, Field(pattern="^(max|mean)$")] = Field("mean", description="What `top:K` ranks by.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.layer is not None and self.layers is not None:
            raise ValueError("give either layer or layers")
        return self


class LayerFacts(BaseModel):
    """Numbers of one layer's chosen maps, in the order of `channels`; per image where there are several (N×K lists)."""

    layer: str
    shape: list[int] = Field(description="Of the whole layer: C, H, W.")
    channels: list[list[int]] = Field(description="For each image, the channel of each map.")
    minimum: list[list[float]]
    mean: list[list[float]]
    maximum: list[list[float]]
    std: list[list[float]]
    zeros: list[list[float]] = Field(description="Share of exact zeros in each map.")
    dead_channels: list[list[int]] = Field(
        description="For each image, channels of the layer that are nowhere larger than a millionth of its largest."
    )


class FeatureMapsFacts(NamedLayersFacts):
    """Facts of feature-maps."""

    layers: list[LayerFacts]
    transforms: list[dict[str, Any]] = Field(
        description="For each image, where the network's input lies in the upload."
    )


class FeatureMapsOperation(Operation[FeatureMapsRequest]):
    """The activations of chosen channels of chosen layers."""

    name = "feature-maps"
    summary = "Feature maps of chosen channels of chosen layers, with statistics."
    request = FeatureMapsRequest
    facts = FeatureMapsFacts
    sweeps = True
    set_images = 1000
    example = MappingProxyType({"channels": "top:16"})

    def resolve(self, request: FeatureMapsRequest, card: ModelCard) -> FeatureMapsRequest:
        check_preprocess(request.preprocess, card)
        if request.layers or request.layer:
            names = request.layers or [str(request.layer)]
        else:
            names = list(card.default_layers.get(self.name, ()))
        if not names:
            raise ProblemError("not-applicable", f"{card.id} has no layer with maps to show by default; name one.")
        where = "/layers" if request.layers else "/layer"
        cards = named_layers(names, self.name, card, where)
        channels = request.channels if request.channels is not None else FIRST_CHANNELS
        for layer in cards:
            check_applicable(self.name, layer, card)
            check_channels(channels, layer)
        return request.model_copy(
            update={
                "model": card.id,
                "layer": None,
                "layers": [layer.name for layer in cards],
                "channels": channels,
                "image": None,
                "images": request.all_images(),
            }
        )

    def cost(self, request: FeatureMapsRequest, card: ModelCard, images: int) -> Cost:
        numbers, factor = 0.0, area_factor(request.preprocess, card)
        for name in request.layers or []:
            layer = card.layer(name)
            plane = layer.shape[1] * layer.shape[2] * factor if layer.spatial else 1.0
            numbers += count_channels(request.channels or "all", layer) * plane
        return Cost(result_bytes=int(4 * numbers * images), forwards=float(images))

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        layer = array.partition("/")[2]
        told = next((one for one in facts["layers"] if one["layer"] == layer), None)
        if told is None:
            return None
        axes = ("image", "channel", "row", "column")
        return About(axes, "activation", layer, {"image, channel": told["channels"]})

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        drawn = []
        for layer in facts["layers"]:
            array = f"maps/{layer['layer']}"
            for image in range(arrays[array].shape[0]):
                dead, shape = set(layer["dead_channels"][image]), "×".join(map(str, layer["shape"]))
                tiles = tuple(
                    Tile(
                        parts=(Slice(array, (image, k)),),
                        titles={
                            "index": f"{channel} dead" if channel in dead else str(channel),
                            "mean": f"{channel}: {layer['mean'][image][k]:.3g}",
                            "max": f"{channel}: {layer['maximum'][image][k]:.3g}",
                        },
                        group=layer["layer"],
                        dead=channel in dead,
                    )
                    for k, channel in enumerate(layer["channels"][image])
                )
                suffix = f"/{image}" if arrays[array].shape[0] > 1 else ""
                drawn.append(
                    Picture(
                        name=f"{layer['layer']}{suffix}",
                        also=tuple(f"{name}{suffix}" for name in also_called(layer["layer"], facts)),
                        heading=f"{request['model']}  {called(layer['layer'], facts)}  {shape}"
                        + (f"  image {image}" if suffix else ""),
                        views=("tiles", "overlay", "pca"),
                        tiles=tiles,
                        image=image,
                        transform=facts["transforms"][image],
                        value_name="activation",
                    )
                )
        return drawn


OPERATION = FeatureMapsOperation()
