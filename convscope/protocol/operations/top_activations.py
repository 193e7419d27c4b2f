"""top-activations: the images of a set that excite each channel most, and how the set excites it as a whole."""

from __future__ import annotations

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
    check_applicable,
    check_channels,
    check_preprocess,
    count_channels,
    named_layers,
)
from convscope.protocol.operations.rules import check_rule
from convscope.protocol.pictures import OUTLIERS, ArrayInfo, Picture, Slice, Tile
from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.requests import Channels, ImagesRequest, LayerName, LayerNames, split_commas

Projection = Literal["deconvnet", "guided", "none"]
MOST_STRONGEST = 100


class TopActivationsRequest(ImagesRequest):
    """Which channels, how many of their strongest units, and what is shown of these."""

    layer: LayerName | None = Field(None, description="One layer; without it the last map before global pooling.")
    layers: LayerNames | None = Field(None, description="Several layers, in one sweep, or the one word `convolutions`.")
    channels: Channels = Field("first:16", description="Indices, `all` or `first:K`.")
    k: int = Field(9, ge=1, le=MOST_STRONGEST, description="How many of a channel's strongest units are kept.")
    by: Literal["max", "mean"] = Field(
        "max", description="max: single units; mean: whole maps, which then count once an image."
    )
    per_image: int = Field(1, ge=1, le=MOST_STRONGEST, description="Units of one image at most, for each channel.")
    patches: bool = Field(True, description="Cut out of the images what the units see.")
    projection: Projection | None = Field(
        None,
        description="What stands beside each patch. Default: deconvnet, guided for networks without max-pools, none "
        "where neither rule is defined or no patches are wanted.",
    )

    groups: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=200)]],
            BeforeValidator(split_commas),
            Field(min_length=1, max_length=100_000),
        ]
        | None
    ) = Field(
        None,
        description="A name for each image, in the images' order; the one word `folders`: that of the folder in which "
        "each image of the set lies. Then each channel tells which groups excite it most.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.layer is not None and self.layers is not None:
            raise ValueError("give either layer or layers")
        if self.by == "mean" and self.per_image != 1:
            raise ValueError("per_image goes with by=max; an image has one mean for each channel")
        if isinstance(self.channels, str) and not self.channels.startswith(("all", "first")):
            raise ValueError(f"channels={self.channels} ranks by one image; name channels, all or first:K")
        if not self.patches and self.projection not in (None, "none"):
            raise ValueError("a projection stands beside a patch; patches=false goes with projection=none")
        return self


class GroupMean(BaseModel):
    """How one group of images excites a channel."""

    group: str
    mean: float = Field(description="Over its images, of the strongest unit in each (of the mean, with by=mean).")


class Group(BaseModel):
    """A group of images."""

    name: str
    images: int


class ChannelFacts(BaseModel):
    """How the images excite one channel: figures of its strongest unit in each image (of its mean, with by=mean)."""

    channel: int
    dead: bool = Field(description="Not above zero on any image.")
    active: float = Field(description="Share of the images on which it is above zero.")
    mean: float
    quantiles: dict[str, float] = Field(
        description="Of the images' values, by share; told to a part in sixteen, the largest exactly."
    )
    best: list[float] = Field(description="The k strongest, strongest first.")
    groups: list[GroupMean] | None = Field(None, description="The three that excite it most, where there are groups.")
    selectivity: float | None = Field(
        None,
        description="Of the first of these: (its mean − the others') / (both together), Morcos 2018; null where a mean "
        "is below zero.",
    )


class SweptLayerFacts(BaseModel):
    """Facts of one layer, its channels in the order of the arrays."""

    layer: str
    shape: list[int]
    images: int
    dead_channels: list[int]
    dead_share: float
    projection: str
    channels: list[ChannelFacts]


class TopActivationsFacts(NamedLayersFacts):
    """Facts of top-activations."""

    by: str
    images: int = Field(description="How many were looked at.")
    layers: list[SweptLayerFacts]
    groups: list[Group] | None = Field(None, description="Columns of `group_means`, where there are groups.")
    caution: str | None = Field(description="How not to read the projections.")


class TopActivationsOperation(Operation[TopActivationsRequest]):
    """The strongest images of every channel."""

    name = "top-activations"
    summary = "The images of a set that excite each channel most, cut to what the unit sees, with its projection."
    request = TopActivationsRequest
    facts = TopActivationsFacts
    gradient = True
    example = MappingProxyType({"channels": "first:4", "k": 1})
    lane = "batch"
    sweeps = True
    quick = False

    def resolve(self, request: TopActivationsRequest, card: ModelCard) -> TopActivationsRequest:
        check_preprocess(request.preprocess, card)
        names = request.layers or [request.layer or card.default_layers["deconv"][0]]
        where = "/layers" if request.layers else "/layer"
        layers = named_layers(names, self.name, card, where)
        for layer in layers:
            check_applicable(self.name, layer, card)
            check_channels(request.channels, layer)
        return request.model_copy(
            update={
                "model": card.id,
                "layer": None,
                "layers": [layer.name for layer in layers],
                "projection": self._projection(request, layers, card),
                "image": None,
                "images": request.all_images() if request.image_set is None else [],
            }
        )

    def _projection(self, request: TopActivationsRequest, layers: list[LayerCard], card: ModelCard) -> Projection:
        """The rule asked for, if it is defined at every layer; where none was, the best that is."""
        if not request.patches:
            return "none"
        rule: Projection = request.projection or ("deconvnet" if card.max_pools else "guided")
        if rule == "none":
            return rule
        try:
            for layer in layers:
                check_rule("deconv", layer, card, rule, nonstandard_gate=False)
        except ProblemError:
            if request.projection is not None:
                raise
            return "none"
        return rule

    def check_count(self, request: TopActivationsRequest, images: int) -> None:
        if request.groups is not None and len(request.groups) != images:
            raise invalid_field("/groups", f"{len(request.groups)} names for {images} images; one an image is needed.")

    def cost(self, request: TopActivationsRequest, card: ModelCard, images: int) -> Cost:
        height, width = card.preprocess.size
        if request.preprocess is not None and request.preprocess.size is not None:
            height, width = request.preprocess.size
        numbers, shown = 0, 0
        for name in request.layers or []:
            layer = card.layer(name)
            units = count_channels(request.channels, layer) * request.k
            box = layer.receptive_field.size if layer.receptive_field is not None else (height, width)
            window = min(box[0], height) * min(box[1], width)
            numbers += units * (4 + 8 + 16)
            numbers += 4 * count_channels(request.channels, layer) * len(set(request.groups or []))
            if request.patches:
                shown += units
                projected = 4 * card.preprocess.channels if request.projection != "none" else 0
                numbers += units * window * (3 + projected)
        passes = 2.0 * shown if request.projection != "none" else 0.0
        return Cost(result_bytes=numbers, forwards=images + min(shown, images) + passes)

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        kind, _, layer = array.partition("/")
        told = next((one for one in facts["layers"] if one["layer"] == layer), None)
        kinds = {
            "values": ((), "activation"),
            "images": ((), "place in the image set"),
            "units": (("row, column",), "position in the map"),
            "group_means": ((), "mean activation"),
            "patch": (("row", "column", COLOURS), SRGB),
            "projection": (("plane", "row", "column"), "projected activation, signed"),
        }
        if told is None or kind not in kinds:
            return None
        axes, unit = kinds[kind]
        if kind == "group_means":
            names = [one["name"] for one in facts["groups"]]
            return About(("channel", "group"), unit, layer, {"group": names})
        indices = {"channel": [one["channel"] for one in told["channels"]]}
        return About(("channel", "rank", *axes), unit, layer, indices)

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        if not request["patches"]:
            return []
        return [
            Picture(
                name=layer["layer"],
                also=also_called(layer["layer"], facts),
                heading=_heading(request, layer, called(layer["layer"], facts)),
                views=("tiles",),
                tiles=tuple(
                    _tile(layer, place, number)
                    for place, channel in enumerate(layer["channels"])
                    for number in range(len(channel["best"]))
                ),
                normalize="symmetric",
                title="none",
                signed=layer["projection"] != "none",
                columns=min(request["k"], max((len(one["best"]) for one in layer["channels"]), default=1)),
                value_name="projection",
                outliers=OUTLIERS,
            )
            for layer in facts["layers"]
        ]


def _heading(request: Mapping[str, Any], layer: Mapping[str, Any], name: str) -> str:
    what = "strongest images" if request["by"] == "mean" else "strongest units"
    beside = "" if layer["projection"] == "none" else f", {layer['projection']} projections beside them"
    return f"{request['model']}  {name}  {what} of {layer['images']} images{beside}"


def _tile(layer: Mapping[str, Any], place: int, number: int) -> Tile:
    """A patch, and the projection beside it, as in Zeiler & Fergus 2013, figure 2."""
    channel = layer["channels"][place]
    value = channel["best"][number]
    parts = [Slice(f"patch/{layer['layer']}", (place, number))]
    if layer["projection"] != "none":
        parts.append(Slice(f"projection/{layer['layer']}", (place, number)))
    return Tile(
        parts=tuple(parts),
        titles={"index": str(channel["channel"]), "max": f"{channel['channel']}: {value:.3g}"},
        caption=(f"channel {channel['channel']}", f"{value:.3g}"),
        group=f"{layer['layer']}/{place}",
    )


OPERATION = TopActivationsOperation()
