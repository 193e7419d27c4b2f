"""Objectives of `maximize` in a request: a class, channel, unit, layer, direction, or a weighted sum of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer

from convscope.protocol.cards import LayerCard, ModelCard
from convscope.protocol.operations.base import check_applicable, check_channels
from convscope.protocol.operations.targets import region_text, resolve_region, resolve_target, resolve_unit, target_text
from convscope.protocol.problems import FieldError, ProblemError, invalid_request
from convscope.protocol.requests import MOST_CHANNELS, ImageRef, LayerName, Region, StrictModel, UnitTarget

Reduce = Literal["mean", "max", "center"]


class ClassObjective(StrictModel):
    """The logit of a class, by index or name; of a network that answers in maps its mean over a region."""

    # `class` is no name that Python allows, so it is an alias both ways.
    model_config = ConfigDict(serialize_by_alias=True)

    class_: int | Annotated[str, Field(min_length=1, max_length=200)] = Field(
        alias="class", description="Index or name; `-N` is the other side of output N, where each stands by itself."
    )
    region: Region | None = Field(
        None,
        description="Of networks that answer in maps: `all` pixels (default), those `predicted` as the class at each "
        "step, the white of the request's `mask`, or a place [y, x] or box [top, left, bottom, right].",
    )

    @model_serializer(mode="wrap")
    def _without_no_region(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        return {name: value for name, value in plain.items() if name != "region" or value is not None}


class ChannelObjective(StrictModel):
    """A channel of a layer: the mean of its map, its largest value, or the value at its centre."""

    layer: LayerName
    channel: int = Field(ge=0)
    reduce: Reduce = "mean"


class UnitObjective(StrictModel):
    """One position of a channel's map."""

    unit: UnitTarget


class LayerObjective(StrictModel):
    """A whole layer: the mean of its squared activations, as in DeepDream."""

    layer: LayerName


class DirectionObjective(StrictModel):
    """A direction among a layer's channels: mean over positions of dot · max(0.1, cosine)^cosine_power."""

    layer: LayerName
    direction: list[Annotated[float, Field(ge=-1e6, le=1e6)]] = Field(min_length=1, max_length=MOST_CHANNELS)
    cosine_power: float = Field(1.0, ge=0, le=8)


def _term_kind(value: Any) -> str:
    keys = value.keys() if isinstance(value, Mapping) else getattr(type(value), "model_fields", {}).keys()
    for key in ("sum", "class", "unit", "direction", "channel"):
        if key in keys or f"{key}_" in keys:
            return key
    return "layer"


Simple = (
    Annotated[ClassObjective, Tag("class")]
    | Annotated[UnitObjective, Tag("unit")]
    | Annotated[DirectionObjective, Tag("direction")]
    | Annotated[ChannelObjective, Tag("channel")]
    | Annotated[LayerObjective, Tag("layer")]
)
SimpleObjective = Annotated[Simple, Discriminator(_term_kind)]


class WeightedObjective(StrictModel):
    """One term of a sum; a negative weight minimizes."""

    weight: float = Field(1.0, ge=-1e6, le=1e6)
    of: SimpleObjective


class SumObjective(StrictModel):
    """A weighted sum of simple objectives."""

    sum: list[WeightedObjective] = Field(min_length=1, max_length=16)


Objective = Annotated[Annotated[SumObjective, Tag("sum")] | Simple, Discriminator(_term_kind)]
AnyObjective = SumObjective | ClassObjective | UnitObjective | DirectionObjective | ChannelObjective | LayerObjective


def resolve_objective(
    objective: AnyObjective,
    card: ModelCard,
    pointer: str,
    *,
    maps_as_told: bool = False,
    mask: ImageRef | None = None,
) -> AnyObjective:
    """The objective with names made canonical: layers, and a class as its index.

    Args:
        mask: of the request, for classes over it.
        maps_as_told: whether maps will have the sizes that the card tells; else the worker checks positions in them.

    Raises:
        ProblemError: unknown-layer, channel-out-of-range, not-applicable, invalid-request.
    """
    if isinstance(objective, SumObjective):
        terms = [
            term.model_copy(
                update={
                    "of": resolve_objective(
                        term.of, card, f"{pointer}/sum/{number}/of", maps_as_told=maps_as_told, mask=mask
                    )
                }
            )
            for number, term in enumerate(objective.sum)
        ]
        return objective.model_copy(update={"sum": terms})
    if isinstance(objective, ClassObjective):
        where = f"{pointer}/class"
        if objective.class_ == "predicted":
            raise _refuse(where, "there is no image to predict a class of; name a class")
        masked = mask if objective.region in (None, "mask") else None
        return objective.model_copy(
            update={
                "class_": resolve_target(objective.class_, card, where),
                "region": resolve_region(objective.region, masked, card, f"{pointer}/region"),
            }
        )
    if isinstance(objective, UnitObjective):
        unit = objective.unit
        layer = _applicable(unit.layer, card, f"{pointer}/unit/layer")
        if (unit.y is None) != (unit.x is None):
            raise _refuse(f"{pointer}/unit", "needs both y and x, or neither for the mean of the map")
        somewhere = unit if maps_as_told else unit.model_copy(update={"y": None, "x": None})
        checked = resolve_unit(somewhere, card, f"{pointer}/unit")
        return objective.model_copy(
            update={"unit": checked.model_copy(update={"layer": layer.name, "y": unit.y, "x": unit.x})}
        )
    layer = _applicable(objective.layer, card, f"{pointer}/layer")
    if isinstance(objective, ChannelObjective):
        check_channels([objective.channel], layer, f"{pointer}/channel")
    if isinstance(objective, DirectionObjective) and len(objective.direction) != layer.channels:
        raise _refuse(
            f"{pointer}/direction",
            f"{layer.name} has {layer.channels} channels, so a direction has as many numbers, "
            f"not {len(objective.direction)}",
        )
    return objective.model_copy(update={"layer": layer.name})


def first_layer(objective: AnyObjective) -> str | None:
    """The layer that an objective, or the first term of a sum that has one, reads; None for classes."""
    if isinstance(objective, SumObjective):
        return next((layer for term in objective.sum if (layer := first_layer(term.of)) is not None), None)
    if isinstance(objective, ClassObjective):
        return None
    return objective.unit.layer if isinstance(objective, UnitObjective) else objective.layer


def objective_text(objective: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """A resolved objective (as JSON) in a few words, for titles.

    Args:
        names: of classes, by index as text.
    """
    if "sum" in objective:
        signs = [(term["weight"], objective_text(term["of"], names)) for term in objective["sum"]]
        parts = [f"{'−' if weight < 0 else '+'} {abs(weight):g}·{text}" for weight, text in signs]
        return " ".join(parts).removeprefix("+ ").removeprefix("1·")
    if "class" in objective:
        index = str(objective["class"])
        return target_text(objective["class"], (names or {}).get(index)) + region_text(objective.get("region"))
    if "unit" in objective:
        return target_text(objective["unit"])
    if "direction" in objective:
        return f"{objective['layer']} direction"
    if "channel" in objective:
        reduce = "" if objective["reduce"] == "mean" else f" {objective['reduce']}"
        return f"{objective['layer']} channel {objective['channel']}{reduce}"
    return f"{objective['layer']}"


def _applicable(name: str, card: ModelCard, pointer: str) -> LayerCard:
    layer = card.layer(name, pointer)
    check_applicable("maximize", layer, card)
    return layer


def _refuse(pointer: str, detail: str) -> ProblemError:
    return invalid_request([FieldError(pointer, detail)])
