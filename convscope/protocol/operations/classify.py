"""classify: the strongest classes of each image, with logits and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, Field

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations.base import About, Cost, Operation, check_preprocess
from convscope.protocol.pictures import ArrayInfo, Picture
from convscope.protocol.requests import ImagesRequest


class ClassifyRequest(ImagesRequest):
    """How many classes to name."""

    top: int = Field(5, ge=1, le=1000, description="How many of the strongest classes to name for each image.")


class Prediction(BaseModel):
    """One class of one image."""

    index: int
    name: str = Field(description="The class's name; its index as text where the network has no names.")
    probability: float = Field(description="Softmax over all classes.")
    logit: float


class ClassifyFacts(BaseModel):
    """Facts of classify."""

    predictions: list[list[Prediction]] = Field(description="For each image, strongest first; ties by lower index.")
    transforms: list[dict[str, Any]] = Field(
        description="For each image, where the network's input lies in the upload."
    )


class ClassifyOperation(Operation[ClassifyRequest]):
    """The strongest classes of each image."""

    name = "classify"
    summary = "The strongest classes of each image, with logits and probabilities."
    request = ClassifyRequest
    facts = ClassifyFacts
    example = MappingProxyType({"top": 3})
    has_picture = False
    bulky = frozenset({"logits"})

    def resolve(self, request: ClassifyRequest, card: ModelCard) -> ClassifyRequest:
        check_preprocess(request.preprocess, card)
        return request.model_copy(
            update={
                "model": card.id,
                "top": min(request.top, output_count(card)),
                "image": None,
                "images": request.all_images(),
            }
        )

    def cost(self, request: ClassifyRequest, card: ModelCard, images: int) -> Cost:
        return Cost(result_bytes=4 * output_count(card) * images, forwards=float(images))

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        del request, facts
        return About(("image", "class"), "logit") if array == "logits" else None

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        return []  # api.md: there is no picture of an answer in words


def output_count(card: ModelCard) -> int:
    """Number of the network's outputs: of its class names, else of its last layer's channels."""
    if card.classes:
        return len(card.classes)
    return max(card.layers[-1].channels, 1) if card.layers else 1


OPERATION = ClassifyOperation()
