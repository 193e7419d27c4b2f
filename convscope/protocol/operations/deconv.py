"""deconv: what in the image made an activation, projected back to pixels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from convscope.protocol.cards import LayerCard, ModelCard
from convscope.protocol.operations.base import (
    COLOURS,
    SRGB,
    About,
    Cost,
    NamedLayersFacts,
    Operation,
    also_called,
    called,
    check_channels,
    count_channels,
    named_layers,
)
from convscope.protocol.operations.rules import Rule, check_rule
from convscope.protocol.pictures import OUTLIERS, ArrayInfo, Picture, Slice, Tile
from convscope.protocol.requests import Channels, ImagesRequest, LayerName, LayerNames
from convscope.protocol.selections import count_of

_SEED_UNIT = r"^(max|channel|layer|top:[1-9][0-9]{0,3})$"


def _seed_unit(value: object) -> object:
    if isinstance(value, str) and not re.match(_SEED_UNIT, value):
        raise ValueError("is `max`, `channel`, `layer` or `top:n` with n from 1 to 9999")
    return value


class DeconvRequest(ImagesRequest):
    """Which units to project, and by which rule."""

    layer: LayerName | None = Field(
        None, description="One layer; without it the deepest stage whose units see half of the input or less."
    )
    layers: LayerNames | None = Field(None, description="Several layers, in one forward pass, or `convolutions`.")
    channels: Channels = Field("strongest", description="Which channels to project.")
    by: Literal["max", "mean"] = Field("max", description="What `top:K` and `strongest` rank by.")
    seed_unit: Annotated[str, BeforeValidator(_seed_unit)] = Field(
        "max",
        description="max: a channel's strongest unit; channel: its whole map; layer: all maps of the layer together; "
        "top:n: a channel's n strongest units, one by one.",
        pattern=_SEED_UNIT,
    )
    rule: Rule | None = Field(
        None, description="At rectifications. Default: deconvnet, and guided for networks without max-pools."
    )
    switches: Literal["sum", "last"] = Field(
        "sum", description="A pixel that is the switch of several pooling windows gets their sum, or the last's signal."
    )
    nonstandard_gate: bool = Field(
        False, description="Treat SiLU, GELU, Hardswish and their like as ReLUs on the way back; not in any paper."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.layer is not None and self.layers is not None:
            raise ValueError("give either layer or layers")
        if self.seed_unit == "layer" and self.channels not in ("strongest", "all"):
            raise ValueError("seed_unit=layer projects all channels together; leave channels away")
        return self


class ProjectionFacts(BaseModel):
    """Facts of one projection; boxes are (top, left, bottom, right), half open."""

    channel: int | None = Field(description="Null when the whole layer is projected.")
    y: int | None = Field(description="Row of the unit in its map; null when a whole map is projected.")
    x: int | None
    activation: float = Field(description="Of the unit; of the strongest one when whole maps are projected.")
    dead: bool = Field(description="The unit is not active, so its projection is zero.")
    box: list[int] = Field(description="Receptive field in pixels of the network's input, clipped to it.")
    box_in_upload: list[float]
    window: list[int] = Field(description="What `patch` shows: the receptive field, not clipped.")
    rectifications: int = Field(description="Rectifications on the way that the rule was applied to.")
    rectification_kinds: dict[str, int]
    switches: int = Field(description="Max-pools on the way, whose switches were used.")
    image_independent: bool = Field(
        description="Nothing on the way back depends on the image: another image would give the same up to a factor."
    )
    largest: float = Field(description="Largest magnitude of the projection.")


class DeconvLayerFacts(BaseModel):
    """Facts of one layer's projections, in the order of the arrays."""

    layer: str
    shape: list[int]
    rule: str
    projections: list[ProjectionFacts]


class DeconvFacts(NamedLayersFacts):
    """Facts of deconv."""

    layers: list[DeconvLayerFacts]
    transform: dict[str, Any] = Field(description="Where the network's input lies in the upload.")
    caution: str | None = Field(description="How not to read the picture.")


class DeconvOperation(Operation[DeconvRequest]):
    """Projections of units to pixels."""

    name = "deconv"
    summary = "Projections of chosen units back to pixels by deconvnet, guided backpropagation or gradient."
    request = DeconvRequest
    facts = DeconvFacts
    gradient = True
    example = MappingProxyType({"channels": "top:4"})
    max_images = 1

    def resolve(self, request: DeconvRequest, card: ModelCard) -> DeconvRequest:
        names = request.layers or [request.layer or _default_layer(card)]
        where = "/layers" if request.layers else "/layer"
        layers = named_layers(names, self.name, card, where)
        rule: Rule = request.rule or ("deconvnet" if card.max_pools else "guided")
        for layer in layers:
            check_rule(self.name, layer, card, rule, request.nonstandard_gate)
            check_channels(request.channels, layer)
        return request.model_copy(
            update={
                "model": card.id,
                "channels": "all" if request.seed_unit == "layer" else request.channels,
                "layer": None,
                "layers": [layer.name for layer in layers],
                "rule": rule,
                "image": None,
                "images": request.all_images(),
            }
        )

    def cost(self, request: DeconvRequest, card: ModelCard, images: int) -> Cost:
        height, width = (
            request.preprocess.size if request.preprocess and request.preprocess.size else card.preprocess.size
        )
        projections, numbers, planes = 0, 0, card.preprocess.channels
        for name in request.layers or []:
            layer = card.layer(name)
            count = count_projections(request.channels, request.seed_unit, layer)
            box = layer.receptive_field.size if layer.receptive_field is not None else (height, width)
            projections += count
            window = min(box[0], height) * min(box[1], width)
            numbers += count * (4 * planes * (height * width + window) + 3 * window)
        return Cost(result_bytes=numbers * images, forwards=images + 2.0 * projections)

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        kind, _, layer = array.partition("/")
        told = next((one for one in facts["layers"] if one["layer"] == layer), None)
        if told is None or kind not in ("projection", "patch_projection", "patch"):
            return None
        indices = {"projection": [one["channel"] for one in told["projections"]]}
        if kind == "patch":
            return About(("projection", "row", "column", COLOURS), SRGB, layer, indices)
        return About(("projection", "plane", "row", "column"), "projected activation, signed", layer, indices)

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        return [
            Picture(
                name=layer["layer"],
                also=also_called(layer["layer"], facts),
                heading=f"{request['model']}  {called(layer['layer'], facts)}  {layer['rule']}",
                views=("tiles", "picture"),
                tiles=tuple(_tile(layer["layer"], k, one) for k, one in enumerate(layer["projections"])),
                normalize="symmetric",
                title="none",
                signed=True,
                image=0,
                value_name="projection",
                outliers=OUTLIERS,
                whole_colours=True,
            )
            for layer in facts["layers"]
        ]


def _tile(layer: str, k: int, facts: Mapping[str, Any]) -> Tile:
    """Patch beside projection, as in Zeiler & Fergus 2013, figure 2, with what it is written under it."""
    strength = f"{facts['activation']:.3g}"
    whole = Slice(f"projection/{layer}", (k,))
    if facts["channel"] is None:
        parts = (Slice(f"patch/{layer}", (k,)), Slice(f"patch_projection/{layer}", (k,)))
        said = ("all channels", f"strongest {strength}")
        return Tile(parts, {"index": "all", "max": f"all: {strength}"}, said, group=f"{layer}/{k}", whole=(whole,))
    unit = "whole map" if facts["y"] is None else f"unit ({facts['y']}, {facts['x']})"
    return Tile(
        parts=(Slice(f"patch/{layer}", (k,)), Slice(f"patch_projection/{layer}", (k,))),
        titles={"index": str(facts["channel"]), "max": f"{facts['channel']}: {strength}"},
        caption=(f"channel {facts['channel']}", unit, f"activation {strength}"),
        group=f"{layer}/{k}",
        whole=(whole,),
    )


def _default_layer(card: ModelCard) -> str:
    """The deepest stage whose units see no more than half of the input; without any the layer that the card names.

    Further on every patch is the photograph, whichever unit is projected.
    """
    sides = card.preprocess.size
    for name in reversed(card.stages):
        layer = card.layer(name)
        field = layer.receptive_field
        small = field is not None and all(2 * seen <= side for seen, side in zip(field.size, sides, strict=True))
        if small and layer.methods.get("deconv") is None:
            return name
    return card.default_layers["deconv"][0]


def count_projections(channels: list[int] | str, seed_unit: str, layer: LayerCard) -> int:
    """Projections of a layer."""
    return 1 if seed_unit == "layer" else count_channels(channels, layer) * count_units(seed_unit, layer)


def count_units(seed_unit: str, layer: LayerCard) -> int:
    """Projections for each channel."""
    plane = layer.shape[1] * layer.shape[2] if layer.spatial else 1
    return count_of(seed_unit, plane)


OPERATION = DeconvOperation()
