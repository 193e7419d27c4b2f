"""cam: where in the image the evidence for a class lies, by any of thirteen methods from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from convscope.protocol.cards import ModelCard, OutputFacts
from convscope.protocol.operations.base import (
    About,
    Cost,
    NamedLayersFacts,
    Operation,
    called,
    check_applicable,
    layers_bytes,
)
from convscope.protocol.operations.rules import BENT_GATES
from convscope.protocol.operations.targets import (
    check_answer,
    image_target_text,
    probability_text,
    region_text,
    resolve_region,
    resolve_target,
)
from convscope.protocol.pictures import OUTLIERS, ArrayInfo, Cell, Picture, Slice, Tile
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import LayerName, RegionRequest, split_commas
from convscope.protocol.selections import count_of

Method = Literal[
    "cam", "gradcam", "gradcam++", "hirescam", "elementwise", "xgradcam", "layercam", "eigencam", "eigengradcam",
    "scorecam", "ablationcam", "fullgrad", "guided-gradcam",
]  # fmt: skip

INPUT_SIZED = frozenset({"fullgrad", "guided-gradcam"})
"""Methods whose map has the size of the network's input rather than of the layer."""

CLASSLESS = frozenset({"eigencam"})
"""Methods whose map is the same for every class."""

MOST_TOP = 32
"""Largest K of a target `top:K`."""

RULED = frozenset({"guided-gradcam"})


def _targets(value: object) -> object:
    """A form's `281,tabby,top:3` as a list; digits become class indices, a negative number the other side of one."""
    parts = split_commas(value)
    if isinstance(parts, int) and not isinstance(parts, bool):
        parts = [parts]
    if not isinstance(parts, list):
        return parts
    return [_target(part) for part in parts]


def _target(part: object) -> object:
    if isinstance(part, str) and part.isdecimal():
        return int(part)
    return str(part) if isinstance(part, int) and not isinstance(part, bool) and part < 0 else part


class CamRequest(RegionRequest):
    """Which methods, at which layer, for which classes."""

    methods: Annotated[list[Method], BeforeValidator(split_commas)] = Field(
        default=["gradcam"], min_length=1, max_length=13, description="All of them share one forward pass."
    )
    layer: LayerName | None = Field(None, description="Without it the last spatial map before global pooling.")
    targets: Annotated[
        list[Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1, max_length=200)]],
        BeforeValidator(_targets),
    ] = Field(
        default=["predicted"],
        min_length=1,
        max_length=32,
        description="Class indices, class names, `predicted`, `top:K` (the K most probable classes of each image), or "
        "`-N` (the other side of output N, where each stands by itself).",
    )
    upsampled: bool = Field(True, description="Also give each map at the size of the network's input.")
    nonstandard_gate: bool = Field(
        False, description="guided-gradcam: treat SiLU, GELU, Hardswish and their like as ReLUs; not in any paper."
    )

    @model_validator(mode="after")
    def _targets_are_words(self) -> Self:
        for target in self.targets:
            word = str(target)
            if word.startswith("top:") and not (word[4:].isdecimal() and 1 <= int(word[4:]) <= MOST_TOP):
                raise ValueError(f"top:K takes K from 1 to {MOST_TOP}")
        return self


class MapFacts(BaseModel):
    """One map: whose, of what, and its raw range."""

    method: str
    array: str
    item: int = Field(description="Index along the array's first axis.")
    image: int = Field(description="Which image of the request.")
    target: int = Field(description="Class index.")
    other_side: bool = Field(False, description="The target is the other side of that output.")
    name: str | None = Field(description="Class name.")
    logit: float = Field(description="Over a region the mean.")
    probability: float | None = Field(description="Null where the network gives values. Over a region the mean.")
    region_pixels: int | None = Field(None, description="Pixels of the network's answer that count.")
    minimum: float = Field(description="Of the raw signed map.")
    maximum: float
    all_negative: bool = Field(description="The map holds no positive evidence at all.")
    completeness_gap: float | None = Field(
        None, description="fullgrad: logit minus the sum of all terms, as a share of the logit."
    )
    forwards: int = Field(description="Forward passes of one image this map needed beyond the shared one.")


class CamFacts(NamedLayersFacts):
    """Facts of cam."""

    layer: str
    shape: list[int]
    output: OutputFacts
    region: str | list[int] | None = Field(None, description="Of a network that answers in maps: where classes count.")
    maps: list[MapFacts]
    transforms: list[dict[str, Any]] = Field(
        description="For each image, where the network's input lies in the upload."
    )
    notes: list[str] = Field(description="How not to read the maps.")


class CamOperation(Operation[CamRequest]):
    """Class activation maps."""

    name = "cam"
    summary = "Class activation maps by thirteen methods for several classes from one forward pass."
    request = CamRequest
    facts = CamFacts
    sweeps = True
    set_images = 1000
    gradient = True
    example = MappingProxyType({"methods": ["gradcam", "layercam"], "targets": ["top:2"]})

    def resolve(self, request: CamRequest, card: ModelCard) -> CamRequest:
        check_answer(card)
        layer = card.layer(request.layer or _default_layer(card))
        check_applicable(self.name, layer, card)
        if RULED & set(request.methods) and not request.nonstandard_gate:
            bent = sorted({one.activation for one in card.layers if one.activation in BENT_GATES})
            if bent:
                raise ProblemError(
                    "not-applicable",
                    f"guided-gradcam needs the guided rule, which is not defined for {', '.join(map(str, bent))} of "
                    f"{card.id}. Possible: the other methods, or nonstandard_gate=true.",
                    possible=["nonstandard_gate=true"],
                )
        return request.model_copy(
            update={
                "model": card.id,
                "layer": layer.name,
                "region": resolve_region(request.region, request.mask, card),
                "methods": list(dict.fromkeys(request.methods)),
                "targets": list(dict.fromkeys(_class(target, card) for target in request.targets)),
                "image": None,
                "images": request.all_images(),
            }
        )

    def cost(self, request: CamRequest, card: ModelCard, images: int) -> Cost:
        layer = card.layer(request.layer or card.default_layers[self.name][0])
        channels, height, width = layer.shape
        size = request.preprocess.size if request.preprocess and request.preprocess.size else card.preprocess.size
        pixels = size[0] * size[1]
        targets = sum(count_of(str(t), MOST_TOP) for t in request.targets)
        numbers, forwards = 0, images * (1.0 + 2.0 * targets)
        for method in request.methods:
            own = {"guided-gradcam": card.preprocess.channels * pixels, "fullgrad": pixels}.get(method, height * width)
            numbers += own + (pixels if request.upsampled and method not in INPUT_SIZED else 0)
            forwards += images * {"scorecam": channels, "ablationcam": channels}.get(method, 0)
        return Cost(result_bytes=4 * numbers * targets * images, forwards=forwards)

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        maps = [one for one in facts["maps"] if one["array"] == array.removesuffix("/full")]
        if not maps:
            return None
        targets = {"map": [{"image": one["image"], "class": one["target"]} for one in maps]}
        axes = ("map", "plane", "row", "column") if maps[0]["method"] == "guided-gradcam" else ("map", "row", "column")
        return About(axes, "evidence, signed", facts["layer"], targets)

    def working_bytes(self, request: CamRequest, card: ModelCard, images: int, result_bytes: int) -> int:
        """As of every operation; `fullgrad` has the gradients of all layers besides."""
        own = super().working_bytes(request, card, images, result_bytes)
        return own + (layers_bytes(request, card) if "fullgrad" in request.methods else 0)

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        drawn = []
        several = len(facts["transforms"]) > 1
        for one in facts["maps"]:
            name = one["name"] or image_target_text({**one, "target_name": None})
            sure = "" if one["probability"] is None else f"  {probability_text(one['probability'])}"
            sure += region_text(facts.get("region"))
            side = "-" if one.get("other_side") else ""
            projected = one["method"] == "guided-gradcam"
            # Where all evidence is negative, a scale from zero would be one colour.
            signed = projected or one["all_negative"]
            where = "all layers" if one["method"] == "fullgrad" else called(facts["layer"], facts)
            what = "no class" if one["method"] in CLASSLESS else f"{name}{sure}"
            which = f"  image {one['image']}" if several else ""
            note = "  all evidence is negative" if one["all_negative"] else ""
            drawn.append(
                Picture(
                    name=f"{one['method']}/{side}{one['target']}" + (f"/{one['image']}" if several else ""),
                    heading=f"{request['model']}  {one['method']}  {what}  {where}{which}{note}",
                    views=("picture", "overlay", "tiles") if projected else ("overlay", "tiles"),
                    tiles=(Tile(parts=(Slice(one["array"], (one["item"],)),), titles={"index": name}),),
                    normalize="symmetric" if signed else "layer",
                    colormap="RdBu_r" if signed else "turbo",
                    title="none",
                    signed=signed,
                    image=one["image"],
                    transform=facts["transforms"][one["image"]],
                    value_name="evidence",
                    # Only positive evidence is drawn by default; ?normalize=symmetric shows both.
                    value_range=None if signed else (0.0, math.inf),
                    outliers=OUTLIERS if projected else 0.0,
                    cell=Cell(
                        row=one["method"],
                        column="  ".join(filter(None, (which.strip(), f"{name}{sure}"))),
                        heading=f"{request['model']}  {called(facts['layer'], facts)}",
                        caption=_remark(one),
                    ),
                )
            )
        return drawn


def _default_layer(card: ModelCard) -> str:
    """The layer of a request that names none.

    Raises:
        ProblemError: `not-applicable`, where no map lies near the classes.
    """
    if "cam" in card.default_layers or "deconv" not in card.default_layers:
        return card.default_layers["cam"][0]
    last = card.default_layers["deconv"][0]
    raise ProblemError(
        "not-applicable",
        f"{card.id} works on tokens after {last}, its last layer with a map, which is far from the classes: evidence "
        f"there is of patches, not of the class. Possible: layer={last} if that is meant, saliency, or occlusion.",
        possible=[f"layer={last}", "saliency", "occlusion"],
    )


def _remark(one: Mapping[str, Any]) -> str:
    """What a map's headers do not say of it, or say wrongly."""
    of = {"fullgrad": "of all layers", "eigencam": "of no class"}.get(one["method"])
    return ", ".join(filter(None, (of, "all negative" if one["all_negative"] else None)))


def _class(target: int | str, card: ModelCard) -> int | str:
    """A class as its index; `predicted` and `top:K` are found on each image."""
    if isinstance(target, str) and target.startswith("top:"):
        return target
    resolved = resolve_target(target, card, "/targets")
    assert isinstance(resolved, int | str)
    return resolved


OPERATION = CamOperation()
