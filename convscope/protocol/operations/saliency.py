"""saliency: how each input value contributes to a class or a unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from convscope.protocol.cards import ModelCard, OutputFacts
from convscope.protocol.operations.base import About, Cost, NamedLayersFacts, Operation
from convscope.protocol.operations.rules import check_rule
from convscope.protocol.operations.targets import (
    PREDICTED,
    image_target_text,
    refuse_region,
    region_text,
    resolve_region,
    resolve_target,
)
from convscope.protocol.pictures import OUTLIERS, ArrayInfo, Picture, Slice, Tile
from convscope.protocol.requests import RegionRequest, Target, UnitTarget

Method = Literal["gradient", "gradient-x-input", "guided", "smoothgrad", "vargrad", "integrated-gradients"]


MAGNITUDES = frozenset({"gradient", "smoothgrad", "vargrad"})
"""Methods whose papers show each pixel's largest magnitude over the colours (Simonyan 2013, section 3.1)."""


class SaliencyRequest(RegionRequest):
    """Which target, by which method, with that method's parameters."""

    method: Method = "gradient"
    target: Target = PREDICTED
    samples: int = Field(32, ge=1, le=1024, description="smoothgrad, vargrad: noisy copies of the image.")
    noise: float = Field(0.1, ge=0, le=2, description="smoothgrad, vargrad: standard deviation over (max − min).")
    steps: int = Field(50, ge=1, le=1024, description="integrated-gradients: Gauss–Legendre points of the first try.")
    max_steps: int = Field(400, ge=1, le=2048, description="integrated-gradients: points of the last try.")
    tolerance: float = Field(
        0.01, gt=0, le=1, description="integrated-gradients: completeness gap above which more steps are taken."
    )
    baseline: Literal["black", "mean", "blur"] = Field(
        "black", description="integrated-gradients: black, the data set's mean colour, or the image blurred."
    )
    nonstandard_gate: bool = Field(False, description="guided: treat SiLU, GELU and their like as ReLUs.")

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        if self.method == "vargrad" and self.samples < 2:
            raise ValueError("vargrad is a variance over samples: samples must be at least 2")
        return self

    @model_validator(mode="after")
    def _steps_in_order(self) -> Self:
        if self.max_steps < self.steps and self.max_steps != 400:
            raise ValueError("max_steps must not be below steps")
        return self


class CompletenessFacts(BaseModel):
    """How well the attribution adds up to the target's change from baseline to image."""

    gap: float | None = Field(description="Relative; null where target and baseline do not differ.")
    gap_absolute: float
    difference: float
    baseline: str
    baseline_logit: float
    steps: int = Field(description="Points of the last try.")
    within_tolerance: bool


class SaliencyImageFacts(BaseModel):
    """Facts of one image's attribution."""

    target: int | UnitTarget = Field(description="The class index, or the unit.")
    other_side: bool = Field(False, description="The target is the other side of that output.")
    target_name: str | None = Field(description="Name of the class, where it has one.")
    logit: float = Field(
        description="Value of the target on the image: a logit, over a region the mean, or the unit's activation."
    )
    probability: float | None = Field(None, description="Of a class; null where the network gives values.")
    region_pixels: int | None = Field(None, description="Pixels of the network's answer that count.")
    minimum: float
    maximum: float
    transform: dict[str, Any]
    rectifications: int | None = Field(description="guided: rectifications that the rule was applied to.")
    completeness: CompletenessFacts | None = Field(description="integrated-gradients only.")


class SaliencyFacts(NamedLayersFacts):
    """Facts of saliency."""

    method: str
    output: OutputFacts | None = Field(None, description="The network's answer; null for a unit.")
    region: str | list[int] | None = Field(None, description="Of a network that answers in maps: where classes count.")
    images: list[SaliencyImageFacts]


class SaliencyOperation(Operation[SaliencyRequest]):
    """Attributions of a target to the input."""

    name = "saliency"
    summary = "Signed contribution of each input value to a class or a unit, in six gradient methods."
    request = SaliencyRequest
    facts = SaliencyFacts
    sweeps = True
    set_images = 1000
    gradient = True
    example = MappingProxyType({"method": "integrated-gradients", "steps": 20})

    def resolve(self, request: SaliencyRequest, card: ModelCard) -> SaliencyRequest:
        target = resolve_target(request.target, card)
        if isinstance(target, UnitTarget):
            refuse_region(request.region, request.mask)
            region = None
        else:
            region = resolve_region(request.region, request.mask, card)
        if request.method == "guided":
            layer = card.layer(target.layer) if isinstance(target, UnitTarget) else card.layers[-1]
            _check_guided(layer.name, card, request.nonstandard_gate)
        return request.model_copy(
            update={
                "model": card.id,
                "target": target,
                "region": region,
                "max_steps": max(request.steps, request.max_steps),
                "image": None,
                "images": request.all_images(),
            }
        )

    def cost(self, request: SaliencyRequest, card: ModelCard, images: int) -> Cost:
        asked = request.preprocess.size if request.preprocess is not None else None
        height, width = asked or card.preprocess.size
        points = {
            "smoothgrad": request.samples,
            "vargrad": request.samples,
            "integrated-gradients": _points_at_most(request),
        }
        return Cost(
            result_bytes=4 * card.preprocess.channels * height * width * images,
            forwards=images * (1.0 + 3.0 * points.get(request.method, 1)),
        )

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        if array != "attribution":
            return None
        targets = [one["target"] for one in facts["images"]]
        return About(("image", "plane", "row", "column"), "attribution, signed", None, {"image": targets})

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        several = len(facts["images"]) > 1
        where = region_text(facts.get("region"))
        varies = request["method"] == "vargrad"  # a variance has no sign
        targets = [image_target_text(image) + where for image in facts["images"]]
        which = [f"  image {number}" if several else "" for number in range(len(targets))]
        return [
            Picture(
                name=f"attribution/{number}" if several else "attribution",
                heading=f"{request['model']}  {request['method']}  {targets[number]}{which[number]}",
                views=("picture", "overlay", "tiles"),
                tiles=(
                    Tile(
                        parts=(Slice("attribution", (number,)),),
                        titles={
                            "index": targets[number],
                            "max": f"{image['maximum']:.3g}",
                        },
                        group=str(number),
                    ),
                ),
                normalize="layer" if varies else "symmetric",
                colormap="inferno" if varies else "viridis",
                value_range=(0.0, math.inf) if varies else None,
                title="none",
                signed=not varies,
                magnitude=request["method"] in MAGNITUDES,
                image=number,
                transform=image["transform"],
                value_name="attribution",
                outliers=OUTLIERS,
            )
            for number, image in enumerate(facts["images"])
        ]


def _points_at_most(request: SaliencyRequest) -> int:
    """Points of all tries of integrated gradients, each of twice as many, where none but the last is good enough."""
    points = tried = request.steps
    while tried < request.max_steps:
        tried = min(2 * tried, request.max_steps)
        points += tried
    return points


def _check_guided(name: str, card: ModelCard, nonstandard_gate: bool) -> None:
    """The guided rule at the target's layer; a dense layer is as good a start as a map."""
    layer = card.layer(name)
    check_rule("saliency", layer.model_copy(update={"methods": {}}), card, "guided", nonstandard_gate)


OPERATION = SaliencyOperation()
