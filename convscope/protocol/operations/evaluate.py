"""evaluate: how good explanations are on these images, beside a map that knows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from convscope.protocol.cards import ModelCard, OutputFacts
from convscope.protocol.operations import cam, saliency
from convscope.protocol.operations.base import (
    About,
    Cost,
    NamedLayersFacts,
    Operation,
    called,
    check_applicable,
    check_preprocess,
    input_size,
    pass_bytes,
)
from convscope.protocol.operations.rules import BENT_GATES
from convscope.protocol.operations.targets import PREDICTED, check_answer, resolve_target
from convscope.protocol.pictures import ArrayInfo, Line, Picture, Slice
from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.requests import ImageRef, ImagesRequest, LayerName, split_commas

SALIENCY_METHODS: tuple[str, ...] = get_args(saliency.Method)
CAM_METHODS: tuple[str, ...] = get_args(cam.Method)
Method = Literal[
    "gradient", "gradient-x-input", "guided", "smoothgrad", "vargrad", "integrated-gradients",
    "cam", "gradcam", "gradcam++", "hirescam", "elementwise", "xgradcam", "layercam", "eigencam", "eigengradcam",
    "scorecam", "ablationcam", "fullgrad", "guided-gradcam",
]  # fmt: skip
Metric = Literal[
    "deletion", "insertion", "confidence", "road", "infidelity", "sensitivity", "localisation", "randomisation"
]
Fill = Literal["black", "mean", "blur"]

CURVES_BY_DEFAULT: tuple[Metric, ...] = ("deletion", "insertion", "confidence", "road")
ROAD_SHARES = tuple(part / 10 for part in range(1, 10))
"""Shares of the pixels that ROAD takes away, as pytorch-grad-cam's ROADCombined."""
SOLVER_COPIES = 24
"""Of an image's size, while one imputation is solved."""
ROWS_COUNTED = 3
"""Images of one forward pass that memory is counted for; a pass has more where there is memory for more."""


def _boxes(value: object) -> object:
    """A form's `top,left,bottom,right;…` as a list of boxes, and one box as a list of it."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        return [[part.strip() for part in box.split(",")] for box in value.split(";") if box.strip()]
    if isinstance(value, list) and len(value) == 4 and all(isinstance(edge, int | float) for edge in value):
        return [value]
    return value


def _not_empty(box: list[float]) -> list[float]:
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError("a box is top, left, bottom, right, half open, and not empty")
    return box


Box = Annotated[
    list[Annotated[float, Field(ge=0, le=65_536)]], Field(min_length=4, max_length=4), AfterValidator(_not_empty)
]


class EvaluateRequest(ImagesRequest):
    """Which explanations are judged, by what, and how far."""

    methods: Annotated[list[Method], BeforeValidator(split_commas)] = Field(
        default=["gradcam"], min_length=1, max_length=8, description="Of `saliency` and of `cam`, by their names there."
    )
    layer: LayerName | None = Field(None, description="Of the CAMs; without it the last map before global pooling.")
    target: int | Annotated[str, Field(min_length=1, max_length=200)] = Field(
        PREDICTED, description="A class index, a class name, `predicted` (of each image), or `-N`."
    )
    metrics: Annotated[list[Metric], BeforeValidator(split_commas)] | None = Field(
        None,
        min_length=1,
        max_length=8,
        description="Default: deletion, insertion, confidence and road, and localisation where boxes or a mask come.",
    )
    steps: int = Field(20, ge=2, le=100, description="deletion, insertion: equal parts that the pixels go in.")
    deletion_fill: Fill = Field("mean", description="What deleted pixels become.")
    insertion_fill: Fill = Field("blur", description="What pixels are inserted into.")
    samples: int = Field(
        10, ge=1, le=256, description="infidelity: hidden squares; sensitivity: images with a little noise."
    )
    radius: float = Field(0.02, gt=0, le=1, description="sensitivity: largest change of a normalised input value.")
    depths: int = Field(
        4, ge=1, le=64, description="randomisation: how many layers, evenly from the last to the first."
    )
    boxes: Annotated[list[Box], BeforeValidator(_boxes)] | None = Field(
        None,
        max_length=10_000,
        description="Where the target is, a box an image: [top, left, bottom, right] in pixels of the upload.",
    )
    mask: ImageRef | None = Field(
        None, description="Where the target is in the one image: an image of its size, white on the target."
    )
    nonstandard_gate: bool = Field(False, description="guided, guided-gradcam: as in their operations.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mask is not None and self.boxes is not None:
            raise ValueError("give either boxes or a mask")
        if self.mask is not None and len(self.all_images()) != 1:
            raise ValueError("a mask goes with one image; boxes are there for several")
        if self.boxes is not None and self.image_set is None and len(self.boxes) != len(self.all_images()):
            raise ValueError(f"{len(self.boxes)} boxes for {len(self.all_images())} images: one box an image is needed")
        if self.metrics is not None and "localisation" in self.metrics and self.mask is None and self.boxes is None:
            raise ValueError("localisation needs boxes or a mask")
        return self


class FigureFacts(BaseModel):
    """One figure of a method, over the images, beside that of a random map."""

    figure: str
    mean: float | None = Field(description="Null where no image has it.")
    deviation: float | None = Field(description="Standard deviation over the images; null for one image.")
    random: float | None = Field(description="The mean of a random map of the same grain; null where it has none.")
    better: Literal["higher", "lower"]
    beats_random: bool | None
    images: int = Field(description="Images that have the figure.")


class DepthFacts(BaseModel):
    """How alike maps are before and after weights became random, means over the images."""

    layer: str = Field(description="Cascading: this layer and all behind it became random; independent: it alone.")
    rank_correlation: float | None = Field(description="Spearman's, of the signed maps.")
    rank_correlation_absolute: float | None = Field(description="Spearman's, of their magnitudes.")
    ssim: float | None = Field(description="Structural similarity of the maps scaled to [0, 1].")
    random: float | None = Field(description="Rank correlation of two random maps.")


class JudgedFacts(BaseModel):
    """One method's figures."""

    method: str
    random: str = Field(description="Which of the random maps stands beside it, as the arrays name it.")
    figures: list[FigureFacts]
    cascading: list[DepthFacts] = Field(description="From the last layer to the first.")
    independent: list[DepthFacts]


class EvaluateFacts(NamedLayersFacts):
    """Facts of evaluate."""

    layer: str | None = Field(description="Of the CAMs; null where there is none among the methods.")
    output: OutputFacts
    measured: Literal["probability", "value"] = Field(description="What the curves hold.")
    images: int
    methods: list[JudgedFacts]
    notes: list[str] = Field(description="How not to read the figures.")


class EvaluateOperation(Operation[EvaluateRequest]):
    """Explanations under tests."""

    name = "evaluate"
    summary = "How faithful, stable and specific saliency and CAM maps are on these images, beside random maps."
    request = EvaluateRequest
    facts = EvaluateFacts
    gradient = True
    example = MappingProxyType({"methods": ["gradcam", "gradient"], "metrics": ["deletion", "insertion"], "steps": 5})
    lane = "batch"
    sweeps = True
    quick = False

    def resolve(self, request: EvaluateRequest, card: ModelCard) -> EvaluateRequest:
        check_answer(card)
        check_preprocess(request.preprocess, card)
        methods: list[Method] = list(dict.fromkeys(request.methods))
        layer = self._layer(request, methods, card)
        self._check_rules(request, methods, card)
        metrics: list[Metric] = list(dict.fromkeys(request.metrics or self._metrics(request)))
        if (request.boxes or request.mask) and "localisation" not in metrics:
            raise invalid_field("/metrics", "boxes and a mask go with the metric localisation.")
        return request.model_copy(
            update={
                "model": card.id,
                "methods": methods,
                "layer": layer,
                "metrics": metrics,
                "target": resolve_target(request.target, card),
                "image": None,
                "images": request.all_images() if request.image_set is None else [],
            }
        )

    def _metrics(self, request: EvaluateRequest) -> Sequence[Metric]:
        located: tuple[Metric, ...] = ("localisation",) if request.boxes or request.mask else ()
        return (*CURVES_BY_DEFAULT, *located)

    def _layer(self, request: EvaluateRequest, methods: Sequence[str], card: ModelCard) -> str | None:
        if not set(methods) & set(CAM_METHODS):
            if request.layer is not None:
                raise invalid_field("/layer", "A layer is of CAM methods, and none is among /methods.")
            return None
        layer = card.layer(request.layer or card.default_layers["cam"][0])
        check_applicable("cam", layer, card)
        return layer.name

    def _check_rules(self, request: EvaluateRequest, methods: Sequence[str], card: ModelCard) -> None:
        ruled = [one for one in methods if one in ("guided", "guided-gradcam")]
        bent = sorted({str(one.activation) for one in card.layers if one.activation in BENT_GATES})
        if ruled and bent and not request.nonstandard_gate:
            raise ProblemError(
                "not-applicable",
                f"{ruled[0]} needs the guided rule, which is not defined for {', '.join(bent)} of {card.id}. "
                "Possible: the other methods, or nonstandard_gate=true.",
                possible=["nonstandard_gate=true"],
            )

    def cost(self, request: EvaluateRequest, card: ModelCard, images: int) -> Cost:
        metrics = request.metrics or []
        subjects = len(request.methods) + 2  # random maps of two grains at most
        rows = 1.0
        rows += sum(subjects * request.steps for one in metrics if one in ("deletion", "insertion"))
        rows += subjects * 2 * len(ROAD_SHARES) * ("road" in metrics) + subjects * ("confidence" in metrics)
        rows += request.samples * ("infidelity" in metrics)
        explained = 1 + request.samples * ("sensitivity" in metrics) + 2 * request.depths * ("randomisation" in metrics)
        each = sum(_forwards(method, request, card) for method in request.methods)
        numbers = subjects * (2 * (request.steps + 1) + 2 * len(ROAD_SHARES) + 8 + 6 * request.depths) + 2
        return Cost(result_bytes=8 * numbers * images, forwards=images * (rows + explained * each))

    def working_bytes(self, request: EvaluateRequest, card: ModelCard, images: int, result_bytes: int) -> int:
        """As of any operation, and a copy of the network whose weights become random, and imputations."""
        height, width = input_size(request, card)
        copy = 4 * card.parameters if "randomisation" in (request.metrics or []) else 0
        numbers = height * width * card.preprocess.channels
        subjects = len(request.methods) + 2
        imputed = 4 * numbers * (2 * len(ROAD_SHARES) * subjects + SOLVER_COPIES)
        several = ROWS_COUNTED * pass_bytes(request, card, gradient=False)
        own = super().working_bytes(request, card, 1, result_bytes)
        return own + copy + several + (imputed if "road" in (request.metrics or []) else 0)

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        kind = array.partition("/")[0]
        measured = facts["measured"]
        shares = [part / request["steps"] for part in range(request["steps"] + 1)]
        depths = {kind: [one["layer"] for one in facts["methods"][0][kind]] for kind in ("cascading", "independent")}
        curves = {"deletion": shares, "insertion": shares, "road-morf": ROAD_SHARES, "road-lerf": ROAD_SHARES}
        if kind in curves:
            return About(("image", "share"), measured, None, {"share": list(curves[kind])})
        test, _, similarity = kind.partition("-")
        if test in depths:
            return About(("image", "layer"), similarity or "rank correlation", None, {"layer": depths[test]})
        units = {"target": "class", "score": measured, "confidence": measured, "pointing": "hit or miss"}
        return About(("image",), units.get(kind, kind))

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        what = {
            "deletion": (f"{facts['measured']} as pixels are deleted, the most important first", "share deleted"),
            "insertion": (f"{facts['measured']} as pixels are inserted, the most important first", "share inserted"),
            "road-morf": (f"ROAD: {facts['measured']} as the most important are imputed", "share imputed"),
            "road-lerf": (f"ROAD: {facts['measured']} as the least important are imputed", "share imputed"),
            "cascading": ("rank correlation as layers become random, from the last on", "layers that are random"),
            "independent": ("rank correlation as one layer is random", "layer, from the last"),
        }
        drawn = []
        for kind, (heading, axis) in what.items():
            lines = [self._line(kind, one["method"], facts, arrays, dashed=False) for one in facts["methods"]]
            randoms = dict.fromkeys(one["random"] for one in facts["methods"])
            lines += [self._line(kind, name, facts, arrays, dashed=True) for name in randoms]
            there = tuple(line for line in lines if line is not None)
            if not there:
                continue
            at = "" if facts["layer"] is None else f"  {called(facts['layer'], facts)}"
            images = f"{facts['images']} images" if facts["images"] > 1 else "one image"
            drawn.append(
                Picture(
                    name=kind,
                    heading=f"{request['model']}{at}  {heading}  {images}",
                    views=("lines",),
                    lines=there,
                    value_name=axis,
                    title="none",
                )
            )
        return drawn

    def _line(
        self, kind: str, subject: str, facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo], *, dashed: bool
    ) -> Line | None:
        array = f"{kind}/{subject}"
        if array not in arrays:
            return None
        count = arrays[array].shape[1]
        if kind in ("deletion", "insertion"):
            places = tuple(part / (count - 1) for part in range(count))
        else:
            places = ROAD_SHARES if kind.startswith("road") else tuple(float(part + 1) for part in range(count))
        figure: Literal["area", "mean"] = "area" if kind in ("deletion", "insertion") else "mean"
        return Line(subject, Slice(array), places, dashed, figure)


def _forwards(method: str, request: EvaluateRequest, card: ModelCard) -> float:
    """Forward passes of one explanation, a backward counting two."""
    if method in ("scorecam", "ablationcam") and request.layer is not None:
        return 3.0 + card.layer(request.layer).channels
    return {"smoothgrad": 96.0, "vargrad": 96.0, "integrated-gradients": 150.0}.get(method, 3.0)


OPERATION = EvaluateOperation()
