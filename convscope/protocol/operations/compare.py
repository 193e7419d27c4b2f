"""compare: what is different between two networks on the same images, in figures that a pipeline can act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, prod
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from convscope.protocol.cards import LayerCard, ModelCard, OutputFacts
from convscope.protocol.operations.base import (
    About,
    Cost,
    NamedLayersFacts,
    Operation,
    check_applicable,
    check_preprocess,
    layers_bytes,
    named_layers,
    relative_area,
)
from convscope.protocol.operations.targets import PREDICTED, check_answer, resolve_target
from convscope.protocol.operations.truth import Truth, check_truth, resolve_truth
from convscope.protocol.pictures import ArrayInfo, Cell, Line, Picture, Slice, Tile
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import ImagesRequest, LayerName, LayerNames

Method = Literal[
    "cam", "gradcam", "gradcam++", "hirescam", "elementwise", "xgradcam", "layercam", "eigencam", "eigengradcam",
    "scorecam", "ablationcam", "fullgrad",
]  # fmt: skip
SIDES = ("model", "other")


class CompareRequest(ImagesRequest):
    """Which other network, at which layers, by which maps."""

    other_model: str = Field(max_length=200, description="Catalogue id of the network that `model` is compared with.")
    layers: LayerNames | None = Field(
        None, description="Layers whose representations are compared, or `convolutions`; without it every stage."
    )
    other_layers: LayerNames | None = Field(
        None, description="The other network's, in the same order; without it those of the same names, or its stages."
    )
    features: Literal["flatten", "pool"] = Field(
        "flatten", description="CKA: every number of the map, or each channel's mean."
    )
    batch_images: int = Field(16, ge=4, le=64, description="CKA: images compared at once, at most.")
    intervals: int = Field(200, ge=0, le=1000, description="CKA: resamples for the 95 % interval; 0 for none.")
    channel_layers: LayerNames | None = Field(
        None, description="Layers of both whose channels are watched; without it all rectifications they share."
    )
    method: Method | None = Field(None, description="Whose maps are compared, a method of `cam`; without it gradcam.")
    cam_layer: LayerName | None = Field(None, description="Without it the last spatial map before global pooling.")
    other_cam_layer: LayerName | None = Field(None, description="The other network's; likewise.")
    target: int | Annotated[str, Field(min_length=1, max_length=200)] = Field(
        PREDICTED, description="Whose evidence: a class index, a class name, or what `model` predicts of each image."
    )
    truth: Truth | None = None
    shown: int = Field(
        10, ge=1, le=32, description="How many images whose evidence moved most are shown, and how many flips."
    )


class AlignedLayerFacts(BaseModel):
    """CKA of one pair of layers."""

    layer: str
    other_layer: str
    cka: float | None = Field(description="Debiased; null where a side does not vary, or there are too few images.")
    low: float | None = Field(description="Lower end of the 95 % interval; null where there are too few batches.")
    high: float | None


class FlipFacts(BaseModel):
    """An image of which the networks predict different classes."""

    image: int
    class_: int = Field(alias="class")
    name: str | None
    confidence: float
    other_class: int
    other_name: str | None
    other_confidence: float


class MovedImageFacts(FlipFacts):
    """An image whose maps are among the arrays."""

    item: int = Field(description="Place along the first axis of maps/model and maps/other.")
    moved: bool = Field(description="Among those whose evidence moved most.")
    flipped: bool
    target: str = Field(description="Class index whose evidence the maps show.")
    target_name: str | None
    mass_moved: float | None
    rank_correlation: float | None
    transforms: list[dict[str, Any]] = Field(description="Where the input of either network lies in the upload.")


class SilentChannelFacts(BaseModel):
    """Channels of one layer that never change over all images and positions."""

    layer: str
    channels: int
    died: list[int] = Field(description="Silent in `other_model` only.")
    woke: list[int] = Field(description="Silent in `model` only.")
    silent_in_both: int


class CompareFacts(NamedLayersFacts):
    """Facts of compare."""

    images: int
    output: OutputFacts
    other_output: OutputFacts
    measured: list[Literal["probability", "value"]] = Field(description="What a confidence is, of either network.")
    figures: dict[str, float | None] = Field(
        description="All figures by name; null where there is none to give, which no requirement should pass."
    )
    layers: list[AlignedLayerFacts]
    cka_batches: int = Field(description="Batches of images whose HSICs were summed.")
    flips: list[FlipFacts] = Field(description="The surest first, 100 at most; `figures.flips` counts all.")
    channels: list[SilentChannelFacts]
    shown: list[MovedImageFacts]
    notes: list[str] = Field(description="How not to read the figures.")


class CompareOperation(Operation[CompareRequest]):
    """Two networks, one verdict."""

    name = "compare"
    summary = "What differs between two networks on the same images: predictions, representations, evidence, channels."
    request = CompareRequest
    facts = CompareFacts
    gradient = True
    example = MappingProxyType({"other_model": "efficientnet_lite0-random"})
    lane = "batch"
    sweeps = True
    quick = False

    def models(self, request: CompareRequest) -> Sequence[str]:
        return [request.other_model]

    def resolve(self, request: CompareRequest, card: ModelCard) -> CompareRequest:
        _check_classes(card)
        check_preprocess(request.preprocess, card)
        if request.layers is None and not card.stages:
            raise ProblemError("not-applicable", f"{card.id} has no stages; name layers.")
        layers = named_layers(request.layers or list(card.stages), "cka", card)
        for layer in layers:
            check_applicable("cka", layer, card)
        cam_layer = card.layer(request.cam_layer or card.default_layers["cam"][0], "/cam_layer")
        check_applicable("cam", cam_layer, card)
        channels = request.channel_layers and named_layers(request.channel_layers, "cka", card, "/channel_layers")
        target = resolve_target(request.target, card)
        assert isinstance(target, int | str)
        return request.model_copy(
            update={
                "model": card.id,
                "layers": [layer.name for layer in layers],
                "channel_layers": channels and [layer.name for layer in channels],
                "method": request.method or "gradcam",
                "cam_layer": cam_layer.name,
                "truth": resolve_truth(request.truth, card),
                "target": target,
                "image": None,
                "images": request.all_images() if request.image_set is None else [],
            }
        )

    def resolve_others(self, request: CompareRequest, cards: Mapping[str, ModelCard]) -> CompareRequest:
        """The other network's layers beside those of the first.

        Raises:
            ProblemError: not-applicable: the classes differ in number, or layers have no partner.
        """
        other = cards[request.other_model]
        own = cards[request.model or ""]
        _check_classes(other)
        if own.class_count != other.class_count:
            raise ProblemError(
                "not-applicable",
                f"{own.id} has {own.class_count} classes and {other.id} has {other.class_count}; compare takes two "
                "networks of the same classes. Their layers alone can be compared with cka, mode=models.",
            )
        check_preprocess(request.preprocess, other)
        cam_layer = other.layer(request.other_cam_layer or other.default_layers["cam"][0], "/other_cam_layer")
        check_applicable("cam", cam_layer, other)
        resolve_target(request.target, other)
        layers = _partners(request, other)
        for layer in layers:
            check_applicable("cka", layer, other)
        return request.model_copy(
            update={
                "other_model": other.id,
                "other_layers": [layer.name for layer in layers],
                "other_cam_layer": cam_layer.name,
                "channel_layers": _watched(request, own, other),
            }
        )

    def check_count(self, request: CompareRequest, images: int) -> None:
        check_truth(request.truth, images)

    def cost(self, request: CompareRequest, card: ModelCard, images: int) -> Cost:
        layers = len(request.layers or [])
        layer = card.layer(request.cam_layer or card.default_layers["cam"][0])
        numbers = images * 9 + layers * (request.intervals + 3)
        numbers += sum(4 * card.layer(name).channels for name in request.channel_layers or [])
        pixels = prod(card.preprocess.size) if request.method == "fullgrad" else prod(layer.shape[1:])
        numbers += int(4 * request.shown * pixels * relative_area(request, card))
        each = 3.0 + (layer.channels if request.method in ("scorecam", "ablationcam") else 0)
        return Cost(result_bytes=4 * numbers, forwards=2 * (images + min(images, 2 * request.shown)) * (1.0 + each))

    def working_bytes(self, request: CompareRequest, card: ModelCard, images: int, result_bytes: int) -> int:
        """As of any operation on a batch of images, with all layers of one image and the compared ones of a batch."""
        batch = min(request.batch_images, max(images, 1))
        area = relative_area(request, card)
        layers = [card.layer(name) for name in request.layers or []]
        features = 4 * batch * sum(prod(one.shape) * (area if one.spatial else 1.0) for one in layers)
        own = super().working_bytes(request, card, batch, result_bytes)
        return own + layers_bytes(request, card) + int(features)

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        kind, _, rest = array.partition("/")
        layers = {"layer": [one["layer"] for one in facts["layers"]]}
        shown = {"map": [{"image": one["image"], "class": one["target"]} for one in facts["shown"]]}
        sides = [request["model"], request["other_model"]]
        known = {
            "prediction": About(("image",), "class"),
            "confidence": About(("image",), facts["measured"][rest == "other"]),
            "logits_difference": About(("image",), "logit"),
            "rank_correlation": About(("image",), "Spearman's correlation"),
            "mass_moved": About(("image",), "share of the evidence"),
            "cka": About(("layer",), "CKA", None, layers),
            "cka_interval": About(("layer", "end"), "CKA", None, {**layers, "end": ["2.5 %", "97.5 %"]}),
            "cka_resamples": About(("resample", "layer"), "CKA", None, layers),
            "channels": About(
                ("network", "channel", "end"),
                "activation",
                rest,
                {"network": sides, "end": ["lowest", "highest"]},
            ),
            "maps": About(
                ("map", "row", "column"),
                "evidence, signed",
                request["cam_layer"] if rest == "model" else request["other_cam_layer"],
                shown,
            ),
        }
        return known.get(kind)

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        drawn = [_map(request, one, side) for one in facts["shown"] for side in (0, 1)]
        if "cka_resamples" in arrays and facts["layers"]:
            drawn.append(_curve(request, facts))
        return drawn


def _map(request: Mapping[str, Any], one: Mapping[str, Any], side: int) -> Picture:
    """One network's map of one image; its row is the image, its column the network."""
    model = (request["model"], request["other_model"])[side]
    index, name = (("class", "name"), ("other_class", "other_name"))[side]
    predicted = one[name] or f"class {one[index]}"
    moved = "" if one["mass_moved"] is None else f"  {one['mass_moved']:.0%} moved"
    what = one["target_name"] or f"class {one['target']}"
    evidence = "" if one["target"] == str(one[index]) else f", evidence for {what}"
    heading = f"{request['model']} and {request['other_model']}"
    return Picture(
        name=f"{one['image']}/{SIDES[side]}",
        heading=f"{model}  {request['method']}  {what}  image {one['image']}",
        views=("overlay", "tiles"),
        tiles=(Tile(parts=(Slice(f"maps/{SIDES[side]}", (one["item"],)),), titles={"index": what}),),
        normalize="layer",
        colormap="turbo",
        title="none",
        image=one["image"],
        transform=one["transforms"][side],
        value_name="evidence",
        value_range=(0.0, inf),
        cell=Cell(
            row=f"image {one['image']}{moved}",
            # Of one network compared with itself there are two columns all the same.
            column=model if side == 0 else f"other: {model}",
            heading=f"{heading}  {request['method']}",
            caption=f"predicts {predicted}{evidence}",
        ),
    )


def _curve(request: Mapping[str, Any], facts: Mapping[str, Any]) -> Picture:
    count = len(facts["layers"])
    places = tuple(float(place + 1) for place in range(count))
    names = " → ".join(one["layer"] for one in facts["layers"]) if count <= 8 else f"{count} layers"
    return Picture(
        name="cka",
        heading=f"{request['model']} and {request['other_model']}  CKA by layer  {names}",
        views=("lines",),
        lines=(Line("CKA, debiased", Slice("cka_resamples"), places),),
        value_name="layer, the first first",
        title="none",
    )


def _check_classes(card: ModelCard) -> None:
    check_answer(card)
    if card.dense:
        raise ProblemError(
            "not-applicable",
            f"{card.id} answers by a map for each class; compare takes networks of one answer an image.",
        )
    if card.class_count < 2:
        raise ProblemError(
            "not-applicable", f"{card.id} gives one number; compare needs two classes at least, to tell what flips."
        )


def _watched(request: CompareRequest, card: ModelCard, other: ModelCard) -> list[str]:
    """Layers whose channels are watched: those named, or the rectifications that both networks have, gates left out.

    Raises:
        ProblemError: `unknown-layer`; `not-applicable`: a layer that was named has other channels there.
    """
    if request.channel_layers is None:
        own = [one for one in card.layers if one.activation in card.rectifications and not one.container]
        return [one.name for one in own if _has(other, one.name) and other.layer(one.name).channels == one.channels]
    for name in request.channel_layers:
        theirs = other.layer(name, "/channel_layers")
        if theirs.channels != card.layer(name).channels:
            raise ProblemError(
                "not-applicable",
                f"{name} has {card.layer(name).channels} channels in {card.id} and {theirs.channels} in {other.id}; "
                "channels are watched where there are as many (/channel_layers).",
            )
    return request.channel_layers


def _partners(request: CompareRequest, other: ModelCard) -> list[LayerCard]:
    """The other network's layers, one for each of the first's.

    Raises:
        ProblemError: `not-applicable`: there are not as many.
    """
    layers = request.layers or []
    if request.other_layers is not None:
        found = named_layers(request.other_layers, "cka", other, "/other_layers")
    elif all(_has(other, name) for name in layers):
        found = [other.layer(name) for name in layers]
    else:
        found = [other.layer(name) for name in other.stages]
    if len(found) != len(layers):
        raise ProblemError(
            "not-applicable",
            f"{len(layers)} layers of {request.model} have {len(found)} of {other.id} beside them. "
            "Name as many in layers and other_layers.",
        )
    return found


def _has(card: ModelCard, name: str) -> bool:
    try:
        card.layer(name)
    except ProblemError:
        return False
    return True


OPERATION = CompareOperation()
