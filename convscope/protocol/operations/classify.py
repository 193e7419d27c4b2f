"""classify: the strongest classes of each image, with logits and probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, Field

from convscope.protocol.cards import ModelCard, OutputFacts
from convscope.protocol.operations.base import About, Cost, Operation, check_preprocess
from convscope.protocol.operations.targets import check_answer, resolve_region
from convscope.protocol.operations.truth import Truth, check_truth, resolve_truth
from convscope.protocol.pictures import ArrayInfo, Picture, Slice, Tile
from convscope.protocol.problems import FieldError, ProblemError
from convscope.protocol.requests import RegionRequest


class ClassifyRequest(RegionRequest):
    """How many classes to name, and which are right."""

    top: int = Field(5, ge=1, le=1000, description="How many of the strongest classes to name for each image.")
    truth: Truth | None = None


class Prediction(BaseModel):
    """One class of one image."""

    index: int
    name: str = Field(description="The class's name; its index as text where the network has no names.")
    probability: float | None = Field(
        description="Softmax over all classes, or sigmoid of this one, as the network's outputs are; null where they "
        "are values. Over a region the mean."
    )
    logit: float | None = Field(
        description="What that is taken of, and what methods differentiate; null where the catalogue declares values."
    )
    value: float | None = Field(None, description="The number itself, where nothing says that it is a logit.")
    share: float | None = Field(
        None, description="Of a network that answers in maps: share of the region's pixels predicted as the class."
    )


class JudgedClass(BaseModel):
    """How one class is answered."""

    index: int
    name: str
    images: int = Field(description="That are of it.")
    predicted: int = Field(description="That are said to be of it.")
    right: int
    recall: float | None = Field(description="right / images; null where there is none of it.")
    precision: float | None = Field(description="right / predicted; null where none is said to be of it.")


class WrongAnswer(BaseModel):
    """An image that is answered wrongly."""

    image: int = Field(description="Which image of the request, or of the range of the set.")
    truth: int
    truth_name: str
    predicted: int
    predicted_name: str
    probability: float | None = Field(description="Of the predicted class.")


class CalibrationBin(BaseModel):
    """Images whose predicted class has a probability between two ends, the upper one included."""

    low: float
    high: float
    images: int
    confidence: float | None = Field(description="Mean probability of the predicted class; null where no image is.")
    accuracy: float | None


class Calibration(BaseModel):
    """Whether probabilities mean what they say: Guo et al. 2017, over 15 bins."""

    expected_error: float = Field(description="ECE: mean of |confidence − accuracy|, weighted by images.")
    largest_error: float = Field(description="MCE.")
    log_loss: float = Field(description="Mean of −log of the right class's probability.")
    brier: float = Field(description="Mean squared distance to the right answer, summed over classes.")
    bins: list[CalibrationBin]


class Judgement(BaseModel):
    """How often the network is right."""

    images: int
    right: int
    accuracy: float
    accuracy_top5: float | None = Field(description="The right class is among the strongest five; null for few.")
    accuracy_balanced: float = Field(description="Mean recall of the classes that there are images of.")
    classes: list[JudgedClass]
    confusion_classes: list[int] = Field(description="Rows (right) and columns (predicted) of the array `confusion`.")
    wrong: list[WrongAnswer] = Field(description="The surest first, 100 at most.")
    calibration: Calibration | None = Field(description="Null where the outputs are no softmax.")


class ClassifyFacts(BaseModel):
    """Facts of classify."""

    predictions: list[list[Prediction]] = Field(
        description="For each image, strongest first, or of the largest share; ties by lower index."
    )
    output: OutputFacts
    region: str | list[int] | None = Field(None, description="Of a network that answers in maps: where it was looked.")
    notes: list[str] = Field(default_factory=list, description="How not to read the numbers.")
    classes_shown: dict[str, str] = Field(
        default_factory=dict, description="Names of the numbers in `class_map`; −1 is no class."
    )
    judgement: Judgement | None = Field(None, description="How often the network is right, where `truth` says what is.")
    transforms: list[dict[str, Any]] = Field(
        description="For each image, where the network's input lies in the upload."
    )


class ClassifyOperation(Operation[ClassifyRequest]):
    """The strongest classes of each image; of a network that answers in maps, their shares and each pixel's class."""

    name = "classify"
    summary = "The strongest classes of each image, with logits and probabilities; of segmentations the class map."
    request = ClassifyRequest
    facts = ClassifyFacts
    sweeps = True
    set_images = 10_000
    example = MappingProxyType({"top": 3})
    bulky = frozenset({"logits", "values", "shares", "class_map", "confusion"})

    def resolve(self, request: ClassifyRequest, card: ModelCard) -> ClassifyRequest:
        check_answer(card)
        check_preprocess(request.preprocess, card)
        region = resolve_region(request.region, request.mask, card)
        if region == "predicted":
            detail = "/region: classify tells what is predicted where; give all, a place, a box or a mask."
            raise ProblemError("invalid-request", detail, errors=[FieldError("/region", detail)])
        return request.model_copy(
            update={
                "model": card.id,
                "top": min(request.top, max(card.class_count, 1)),
                "region": region,
                "truth": resolve_truth(request.truth, card),
                "image": None,
                "images": request.all_images(),
            }
        )

    def check_count(self, request: ClassifyRequest, images: int) -> None:
        check_truth(request.truth, images)

    def cost(self, request: ClassifyRequest, card: ModelCard, images: int) -> Cost:
        numbers = max(card.class_count, 1)
        if card.dense:
            size = (request.preprocess.size if request.preprocess is not None else None) or card.preprocess.size
            numbers += size[0] * size[1]
        return Cost(result_bytes=4 * numbers * images, forwards=float(images))

    def draws(self, card: ModelCard) -> bool:
        return card.dense

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        if array == "confusion":
            classes = facts["judgement"]["confusion_classes"]
            return About(("right class", "predicted class"), "images", None, {"right class": classes})
        return About(("image", "class"), "logit") if array == "logits" else None

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        if "class_map" not in arrays:
            return []  # api.md: there is no picture of an answer in words
        several = len(facts["predictions"]) > 1
        return [
            Picture(
                name=f"class_map/{number}" if several else "class_map",
                heading=f"{request['model']}  class of each pixel  {f'image {number}  ' if several else ''}"
                + ", ".join(
                    f"{one['name'].partition(',')[0]} {100 * one['share']:.0f} %"
                    for one in predictions[:3]
                    if one["share"] > 0
                ),
                views=("overlay", "picture", "tiles"),
                tiles=(Tile(parts=(Slice("class_map", (number,)),), titles={"index": "class of each pixel"}),),
                normalize="map",
                title="none",
                image=number,
                transform=facts["transforms"][number],
                value_name="class",
                categories={int(index): name for index, name in facts["classes_shown"].items()},
            )
            for number, predictions in enumerate(facts["predictions"])
        ]


OPERATION = ClassifyOperation()
