"""occlusion: what a network answers while a square hides one part of the image after another."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from convscope.protocol.cards import ModelCard, OutputFacts
from convscope.protocol.operations.base import About, Cost, NamedLayersFacts, Operation, check_applicable
from convscope.protocol.operations.targets import (
    PREDICTED,
    check_answer,
    image_target_text,
    region_text,
    resolve_region,
    resolve_target,
    resolve_unit,
    target_text,
)
from convscope.protocol.pictures import ArrayInfo, Picture, Slice, Tile
from convscope.protocol.problems import invalid_field
from convscope.protocol.requests import LayerName, RegionRequest, StrictModel, Target, UnitTarget

WINDOW_SHARE, STRIDE_SHARE = 4, 16
"""Parts of the input's side that the default window and stride are."""


def _two_sides(value: object) -> object:
    """One number, or two, or `a,b` of a form, as (vertical, horizontal)."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return [value, value] if isinstance(value, (int, str)) else value


def _colour(value: object) -> object:
    """A form's `r,g,b` as three numbers."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    return [part.strip() for part in value.split(",")] if isinstance(value, str) and "," in value else value


Sides = Annotated[
    tuple[Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=1024)]], BeforeValidator(_two_sides)
]
Level = Annotated[float, Field(ge=0, le=255)]
Fill = Annotated[Literal["mean", "black", "grey", "white"] | tuple[Level, Level, Level], BeforeValidator(_colour)]


class WatchedUnit(StrictModel):
    """A map to watch: its total activation, or the value at (y, x)."""

    layer: LayerName | None = Field(None, description="Without it the last map before global pooling.")
    channel: int | None = Field(None, ge=0, description="Without it the map strongest in total on the whole image.")
    y: int | None = Field(None, ge=0)
    x: int | None = Field(None, ge=0)


class OcclusionRequest(RegionRequest):
    """The square, its steps and colour, and what is watched."""

    window: Sides | None = Field(None, description="Side of the square, pixels; default a quarter of the input.")
    stride: Sides | None = Field(None, description="Step between places, pixels; default a sixteenth of the input.")
    fill: Fill = Field("mean", description="Colour of the square: the data set's mean, a name, or r, g, b of 0 to 255.")
    target: Target = Field(
        PREDICTED, description="Class whose probability (or value) is mapped; a unit here is watched instead."
    )
    unit: WatchedUnit = Field(default_factory=lambda: WatchedUnit.model_validate({}))
    incremental: bool = Field(True, description="Recompute only what the square touches, where the network allows it.")


class OcclusionBaseline(BaseModel):
    """The network's answers to the whole image."""

    probability: float | None = Field(description="Null where the network gives values.")
    value: float | None = Field(None, description="Of the target, where the network gives values.")
    activation: float
    top_class: int


class LowestFacts(BaseModel):
    """Where a map is lowest; boxes are (top, left, bottom, right), half open."""

    value: float
    row: int
    column: int
    box: list[int] = Field(description="The square there, in pixels of the network's input.")
    box_in_upload: list[float]


class OcclusionFacts(NamedLayersFacts):
    """Facts of occlusion."""

    target: int = Field(description="Class whose probability is mapped, or its value where the network gives none.")
    other_side: bool = Field(False, description="The target is the other side of that output.")
    output: OutputFacts
    region: str | list[int] | None = Field(
        None, description="Of a network that answers in maps: where the class counts."
    )
    region_pixels: int | None = Field(None, description="Pixels of the network's answer that count.")
    target_name: str | None = Field(description="Its name, where it has one.")
    unit: dict[str, Any] = Field(description="Layer and channel (and position) whose activation is mapped.")
    baseline: OcclusionBaseline
    lowest_probability: LowestFacts | None = Field(description="Null where the network gives values.")
    lowest_value: LowestFacts | None = Field(None, description="Where the network gives values.")
    lowest_activation: LowestFacts
    top_classes: dict[str, str | None] = Field(
        description="Every class that is the most probable at some place, with its name."
    )
    window: list[int]
    stride: list[int]
    fill: str | list[float]
    grid: list[int] = Field(description="Places, vertical and horizontal.")
    incremental: bool = Field(description="Whether the shortcut was used.")
    transform: dict[str, Any]


class OcclusionOperation(Operation[OcclusionRequest]):
    """Probability, activation and top class over the places of an occluding square."""

    name = "occlusion"
    summary = "Class probability, activation of a map and top class while a square hides one part after another."
    request = OcclusionRequest
    facts = OcclusionFacts
    example = MappingProxyType({"window": [56, 56], "stride": [28, 28]})
    max_images = 1

    def resolve(self, request: OcclusionRequest, card: ModelCard) -> OcclusionRequest:
        check_answer(card)
        size = _input_size(request, card)
        target = resolve_target(request.target, card)
        unit = request.unit
        if isinstance(target, UnitTarget):
            if unit != WatchedUnit.model_validate({}):
                detail = "Give the unit to watch as target or as unit, not both."
                raise invalid_field("/unit", detail)
            unit, target = WatchedUnit.model_validate(target.model_dump()), PREDICTED
        layer = card.layer(unit.layer or card.default_layers[self.name][0], "/unit/layer")
        check_applicable(self.name, layer, card)
        if unit.channel is None and unit.y is not None:
            detail = "A position needs a channel."
            raise invalid_field("/unit/channel", detail)
        if unit.channel is not None:
            whole = UnitTarget(layer=layer.name, channel=unit.channel, y=unit.y, x=unit.x)
            resolve_unit(whole, card, "/unit")
        window = request.window or (max(size[0] // WINDOW_SHARE, 1), max(size[1] // WINDOW_SHARE, 1))
        if window[0] > size[0] or window[1] > size[1]:
            detail = (
                f"A window of {window[0]}×{window[1]} does not fit into the input of {card.id}, {size[0]}×{size[1]} "
                f"pixels (/window). Possible: up to {size[0]},{size[1]}; without it a quarter of each side."
            )
            raise invalid_field("/window", detail)
        return request.model_copy(
            update={
                "model": card.id,
                "target": target,
                "region": resolve_region(request.region, request.mask, card),
                "unit": unit.model_copy(update={"layer": layer.name}),
                "window": window,
                "stride": request.stride or (max(size[0] // STRIDE_SHARE, 1), max(size[1] // STRIDE_SHARE, 1)),
                "image": None,
                "images": request.all_images(),
            }
        )

    def cost(self, request: OcclusionRequest, card: ModelCard, images: int) -> Cost:
        size = _input_size(request, card)
        window, stride = request.window or (1, 1), request.stride or (1, 1)
        places = 1
        for i in (0, 1):
            places *= (size[i] - window[i]) // stride[i] + 1
        return Cost(result_bytes=12 * places * images, forwards=float(images * (1 + places)))

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        axes = ("image", "row", "column")
        if array == "activation":
            unit = facts["unit"]
            return About(axes, "activation", unit["layer"], {"channel": unit["channel"]})
        units = {"probability": "probability", "top_class": "class index"}
        return About(axes, units[array], None, {"class": facts["target"]}) if array in units else None

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        unit = facts["unit"]
        target = image_target_text(facts) + region_text(facts.get("region"))
        plain = (facts.get("output") or {}).get("outputs") == "value"
        values = {
            **({"value": f"value of {target}"} if plain else {"probability": f"probability of {target}"}),
            "activation": f"activation of {target_text(unit)}",
            "top_class": "most probable class",
        }
        names = {
            int(index): (name or f"class {index}").partition(",")[0] for index, name in facts["top_classes"].items()
        }
        sides = "×".join(map(str, facts["window"]))
        return [
            Picture(
                name=name,
                heading=f"{request['model']}  occlusion {sides}  {meaning}",
                views=("overlay", "tiles", "picture"),
                tiles=(Tile(parts=(Slice(name, (0,)),), titles={"index": meaning}, group=name),),
                # Names have no scale; numbers are drawn about the answer to the whole image.
                normalize="map" if name == "top_class" else "symmetric",
                colormap="viridis" if name == "top_class" else "RdBu_r",
                centre=None if name == "top_class" else facts["baseline"][name],
                centre_name="whole image",
                title="none",
                image=0,
                transform=_transform_of_places(facts),
                crop=facts["transform"],
                value_name=meaning,
                categories=names if name == "top_class" else None,
            )
            for name, meaning in values.items()
        ]


def _input_size(request: OcclusionRequest, card: ModelCard) -> tuple[int, int]:
    asked = request.preprocess.size if request.preprocess is not None else None
    return asked or card.preprocess.size


def _transform_of_places(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Where the map lies in the upload: each place is a cell of one stride about the middle of its square."""
    transform = dict(facts["transform"])
    window, stride, grid = facts["window"], facts["stride"], facts["grid"]
    scale, offset = transform["scale"], transform["offset"]
    transform["offset"] = [offset[i] + scale[i] * (window[i] - stride[i]) / 2 for i in (0, 1)]
    transform["input_size"] = [grid[i] * stride[i] for i in (0, 1)]
    return transform


OPERATION = OcclusionOperation()
