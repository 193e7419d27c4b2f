"""maximize: pictures that make a channel, a unit, a layer, a direction or a class as strong as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations.base import (
    COLOURS,
    SRGB,
    About,
    Cost,
    Operation,
    called,
    check_applicable,
    check_channels,
    count_channels,
)
from convscope.protocol.operations.maximize_facts import MaximizeFacts
from convscope.protocol.operations.objectives import (
    AnyObjective,
    ChannelObjective,
    Objective,
    first_layer,
    objective_text,
    resolve_objective,
)
from convscope.protocol.operations.presets import CONSTANTS, FIELDS, OPTIMIZERS, PRESETS, SHARES
from convscope.protocol.pictures import ArrayInfo, Picture, Slice, Tile
from convscope.protocol.problems import FieldError, ProblemError, invalid_request
from convscope.protocol.requests import Channels, CommonRequest, Image, ImageRef, LayerName, SetChoice

MOST_PICTURES = 512
SMALLEST_SIDE, LARGEST_SIDE = 16, 1024
MOST_STEPS = 10_000
MOST_JITTER = 64
"""Pixels."""

Side = Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]


class MaximizeRequest(CommonRequest, SetChoice):
    """What is maximized, by which preset, and every number of the preset that shall be another."""

    image: Image | None = Field(None, description="A picture to start from, instead of noise.")
    images: list[Image] = Field(
        default_factory=list,
        max_length=64,
        description="Photographs to compare the finished pictures with; with start=image the first is the start.",
    )
    objective: Objective | Annotated[list[Objective], Field(min_length=1, max_length=MOST_PICTURES)] | None = Field(
        None, description="An objective, or a list of them that makes one picture each."
    )
    layer: LayerName | None = Field(None, description="Short for one channel objective for each of `channels`.")
    channels: Channels | None = Field(
        None, description="Channels of `layer`; without it the first four. `top:K` ranks on the start image."
    )
    mask: ImageRef | None = Field(
        None, description="Of networks that answer in maps: white where a class counts, stretched to the pictures."
    )
    preset: Literal["pixel", "flashtorch", "yosinski", "lucid", "smooth", "maco"] = "smooth"
    size: Side | tuple[Side, Side] | None = Field(
        None, description="Side, or height and width, of the picture; without it the network's own input size."
    )
    steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    stop_at: float | None = Field(None, description="A picture is finished when its objective reaches this value.")
    stop_after_update: bool = Field(
        False, description="stop_at: the picture is the one after the step that found the value, not before it."
    )
    start: Literal["noise", "image"] | None = Field(None, description="Default: the image, if `image` is given.")
    start_level: float | None = Field(None, ge=0, le=255, description="pixel: of the noise; null: the mean colour.")
    start_spread: float | None = Field(None, ge=0, le=255, description="Width of the noise, in the preset's own unit.")
    start_distribution: Literal["uniform", "normal"] | None = Field(None, description="pixel: of the noise.")
    parameterization: Literal["pixel", "fourier", "maco"] | None = None
    pixel_space: Literal["byte", "unit", "normalized"] | None = Field(
        None, description="pixel: what a parameter of 1 is: a 255th, white, or a standard deviation of the input."
    )
    decay_power: float | None = Field(None, ge=0, le=4, description="fourier: coefficients are scaled by 1/f^this.")
    decorrelate: bool | None = Field(None, description="fourier: decorrelate colours.")
    optimizer: Literal["adam", "keras-adam", "nadam", "ascent", "rms"] | None = Field(
        None, description="keras-adam: Adam as Keras computes it, whose epsilon stands beside the uncorrected root."
    )
    learning_rate: float | None = Field(None, gt=0, le=1e4)
    epsilon: float | None = Field(None, gt=0, le=1, description="adam, keras-adam, nadam, rms: beside the root.")
    beta1: float | None = Field(None, ge=0, lt=1, description="adam, keras-adam, nadam: of the first moment.")
    beta2: float | None = Field(None, ge=0, lt=1, description="adam, keras-adam, nadam: of the second moment.")
    jitter: int | None = Field(None, ge=0, le=MOST_JITTER, description="Pixels of the first random crop.")
    scale: float | None = Field(None, ge=0, le=0.5, description="Random scale 1 ± this, in eleven steps.")
    rotate: int | None = Field(None, ge=0, le=180, description="Random rotation ± this many degrees.")
    jitter_after: int | None = Field(None, ge=0, le=MOST_JITTER, description="Pixels of the last random crop.")
    crops: int | None = Field(None, ge=1, le=64, description="Views of the picture in every step.")
    crop_from: float | None = Field(None, ge=0.05, le=1, description="Side of a view at the first step, in pictures.")
    crop_to: float | None = Field(None, ge=0.05, le=1, description="Side of a view at the last step, in pictures.")
    crop_size_sd: float | None = Field(None, ge=0, le=0.5, description="Spread of the sides of views.")
    crop_center_sd: float | None = Field(None, ge=0, le=0.5, description="Spread of the centres of views.")
    noise: float | None = Field(None, ge=0, le=1, description="Normal noise on every view, pixels in [0, 1].")
    noise_uniform: float | None = Field(None, ge=0, le=1, description="Uniform noise ± this on every view.")
    redirect_steps: int | None = Field(
        None, ge=0, le=MOST_STEPS, description="First steps in which a row without any gradient gets a redirected one."
    )
    tv: float | None = Field(None, ge=0, le=1e6, description="Weight of the total variation.")
    l2: float | None = Field(None, ge=0, le=1e6, description="Weight of the squared distance from grey.")
    decay: float | None = Field(None, ge=0, lt=1, description="Share of the parameters lost in every step.")
    blur: float | None = Field(None, ge=0, le=16, description="pixel: sigma of a blur every `blur_every` steps.")
    blur_every: int | None = Field(None, ge=0, le=MOST_STEPS)
    clip_each_step: bool | None = Field(None, description="pixel: clip after every step, not only at the end.")
    diversity: float | None = Field(
        None, ge=0, le=1e6, description="Weight by which the job's pictures of one layer are pushed apart."
    )
    average: float | None = Field(
        None, ge=0, le=1, description="Share of the steps, the last ones, whose mean is the picture; 0: the last step."
    )
    display: Literal["clip", "flashtorch"] | None = Field(
        None,
        description="How a picture becomes 8 bits. clip: what leaves the range is cut off; flashtorch: standardised "
        "over all planes, with FlashTorch's saturation (0.15) and brightness (0.7).",
    )
    float_pictures: bool | None = Field(
        None,
        description="Whether the arrays hold the pictures also as they were made: float, nothing cut off.",
    )

    @model_validator(mode="before")
    @classmethod
    def _start_from_image(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("start") is None and data.get("image") is not None:
            return {**data, "start": "image"}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.objective is not None and (self.layer is not None or self.channels is not None):
            raise ValueError("give either objective, or layer and channels")
        sources = [self.image is not None, bool(self.images), self.image_set is not None]
        if sum(sources) > 1:
            raise ValueError("give one of image, images and image_set; with start=image the first of images is it")
        if self.mask is not None and self.image_set is not None:
            raise ValueError("a mask does not go with image_set; give images")
        if self.start == "image" and not any(sources):
            raise ValueError("start=image needs an image")
        return self

    def all_images(self) -> list[ImageRef]:
        """The images, whichever way they were given."""
        return [self.image] if self.image is not None else list(self.images)

    def objectives(self) -> list[AnyObjective]:
        """The objectives as a list; empty where `layer` and `channels` stand for them."""
        if self.objective is None:
            return []
        return list(self.objective) if isinstance(self.objective, list) else [self.objective]


class MaximizeOperation(Operation[MaximizeRequest]):
    """Activation maximization."""

    name = "maximize"
    summary = "Pictures that maximize a channel, unit, layer, direction or class, by gradient ascent."
    request = MaximizeRequest
    facts = MaximizeFacts
    gradient = True
    example = MappingProxyType({"channels": [3, 8], "steps": 128})
    lane = "batch"
    sweeps = True
    quick = False
    image_array = "images"
    bulky = frozenset({"pictures"})

    def resolve(self, request: MaximizeRequest, card: ModelCard) -> MaximizeRequest:
        preset = PRESETS[request.preset]
        constants = OPTIMIZERS[request.optimizer or preset["optimizer"]]
        filled = {name: preset[name] if getattr(request, name) is None else getattr(request, name) for name in FIELDS}
        if "start_level" in request.model_fields_set:  # the one number whose null means something
            filled["start_level"] = request.start_level
        filled |= {name: _constant(request, name, constants) for name in CONSTANTS}
        shares = SHARES.get(request.preset, {})
        shares = {name: share for name, share in shares.items() if getattr(request, name) is None}
        request = request.model_copy(update=filled)
        size = self._size(request, preset.get("size"), card)
        pixels = {name: min(MOST_JITTER, round(share * min(size))) for name, share in shares.items()}
        resolved = request.model_copy(
            update={
                **self._what(request, card, size),
                **pixels,
                "model": card.id,
                "size": size,
                "start": request.start or "noise",
                "image": None,
                "images": request.all_images() if request.image_set is None else [],
            }
        )
        _check_numbers(resolved)
        _check_preprocess(resolved)
        return resolved

    def _what(self, request: MaximizeRequest, card: ModelCard, size: tuple[int, int]) -> dict[str, Any]:
        """Objectives, layer and channels of the resolved request, whose pictures have that size."""
        given = request.objectives()
        # Maps have the sizes that the card tells where the network sees inputs of its own size, as boxes always are.
        as_told = size == tuple(card.preprocess.size) or _crops(request)
        if given:
            several = isinstance(request.objective, list)
            pointers = [f"/objective/{number}" if several else "/objective" for number in range(len(given))]
            pairs = zip(given, pointers, strict=True)
            checked = [
                resolve_objective(one, card, pointer, maps_as_told=as_told, mask=request.mask) for one, pointer in pairs
            ]
            return {"objective": checked}
        layer = card.layer(request.layer or card.default_layers[self.name][0])
        check_applicable(self.name, layer, card)
        channels = request.channels or "first:4"
        check_channels(channels, layer)
        count = count_channels(channels, layer)
        if count > MOST_PICTURES:
            raise ProblemError(
                "too-expensive",
                f"{layer.name} has {layer.channels} channels; one job makes {MOST_PICTURES} pictures.",
                cost=count,
                limit=MOST_PICTURES,
            )
        if isinstance(channels, str) and not channels.startswith(("all", "first")):
            if request.start != "image":
                raise _invalid("/channels", f"{channels} ranks channels on an image; give one to start from")
            return {"layer": layer.name, "channels": channels}
        chosen = list(range(count)) if isinstance(channels, str) else channels
        objectives = [ChannelObjective(layer=layer.name, channel=channel) for channel in chosen]
        return {"objective": objectives, "layer": None, "channels": None}

    def _size(self, request: MaximizeRequest, preset: tuple[int, int] | None, card: ModelCard) -> tuple[int, int]:
        own = tuple(card.preprocess.size)
        if request.preprocess is not None and request.preprocess.size is not None:
            raise _invalid("/preprocess/size", "the size of the pictures is `size`")
        size = request.size or preset or own
        size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if size == own or _crops(request):
            return size
        if not card.preprocess.resizable:
            if request.size is None:
                return int(own[0]), int(own[1])
            raise ProblemError("not-applicable", f"{card.id} takes inputs of {own[0]}×{own[1]} pixels only (/size).")
        if min(size) < card.preprocess.minimum_size:
            raise ProblemError(
                "not-applicable", f"{card.id} needs pictures of at least {card.preprocess.minimum_size} pixels (/size)."
            )
        return size

    def cost(self, request: MaximizeRequest, card: ModelCard, images: int) -> Cost:
        height, width = _pair(request.size)
        given = request.objectives()
        pictures = len(given)
        if not given:
            pictures = count_channels(request.channels or "first:4", card.layer(request.layer or ""))
        layers = [first_layer(one) for one in given] or [request.layer]
        channels = max((card.layer(name).channels if name else card.class_count or 1000) for name in layers)
        own = card.preprocess.size
        area = 1.0 if _crops(request) else height * width / (own[0] * own[1])
        floats = 4 * height * width * (request.parameterization == "maco")
        floats += 4 * card.preprocess.channels * height * width * bool(request.float_pictures)
        steps = request.steps or 1
        return Cost(
            result_bytes=pictures * (3 * height * width + floats + 4 * steps + 4 * channels),
            forwards=area * (3.0 * pictures * steps * (request.crops or 1) + pictures + images),
        )

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        pictures = facts["pictures"]
        indices = {"picture": [one["channel"] for one in pictures]}
        layers = {one["layer"] for one in pictures}
        layer = layers.pop() if len(layers) == 1 else None
        kinds = {
            "images": (("picture", "row", "column", COLOURS), SRGB),
            "planes": (("picture", "plane", "row", "column"), "input, 0 to 1"),
            "pictures": (("picture", "plane", "row", "column"), "input, 0 to 1, not clipped"),
            "alpha": (("picture", "row", "column"), "opacity, 0 to 1"),
            "loss": (("picture", "step"), "objective"),
            "channel_means": (("picture", "channel"), "activation"),
        }
        return About(*kinds[array], layer, indices) if array in kinds else None

    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        names = facts.get("class_names") or {}
        tiles = [_tile(request, told, number, names) for number, told in enumerate(facts["pictures"])]
        layers = list(dict.fromkeys(told["layer"] or "classes" for told in facts["pictures"]))
        where = called(layers[0], facts) if len(layers) == 1 else f"{len(layers)} layers"
        ids = [told.get("image_id") for told in facts["pictures"]]
        return [
            Picture(
                name="images",
                heading=f"{request['model']}  {where}  maximized ({request['preset']}, {request['steps']} steps)",
                views=("tiles", "picture"),
                tiles=tuple(tiles),
                title="loss",
                image_id=ids[0] if len(ids) == 1 else None,
            )
        ]


def _tile(request: Mapping[str, Any], told: Mapping[str, Any], number: int, names: Mapping[str, str]) -> Tile:
    if told["kind"] == "channel":
        short = f"{told['channel']}"
    else:
        given = request.get("objective")
        short = objective_text(given[number], names) if isinstance(given, Sequence) else f"{told['channel']}"
    if told["dead"] or told.get("withheld"):
        why = f"{short}: {'dead' if told['dead'] else 'diverged'}"
        return Tile((Slice("images", (number,)),), dict.fromkeys(("index", "loss", "loss_last", "mean", "max"), why))
    # Of the picture that is shown: the last step's loss is of a view of it, or where steps are averaged of another one.
    shown = short if told["value"] is None else f"{short}: objective {told['value']:.4g}"
    last = short if told["loss_last"] is None else f"{short}: last step {told['loss_last']:.4g}"
    titles = {"index": short, "loss": shown, "loss_last": last, "mean": shown, "max": shown}
    return Tile((Slice("images", (number,)),), titles)


def _constant(request: MaximizeRequest, name: str, constants: Mapping[str, float]) -> float | None:
    """One constant of the optimizer.

    Raises:
        ProblemError: invalid-request, where it has none of that name.
    """
    given: float | None = getattr(request, name)
    if given is not None and name not in constants:
        having = ", ".join(optimizer for optimizer, own in OPTIMIZERS.items() if name in own)
        raise _invalid(f"/{name}", f"goes with an optimizer that has it: {having}")
    return constants.get(name) if given is None else given


def _crops(request: MaximizeRequest) -> bool:
    return min(request.crop_from or 1.0, request.crop_to or 1.0) < 1.0


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _check_numbers(request: MaximizeRequest) -> None:
    """Numbers that make no sense together.

    Raises:
        ProblemError: invalid-request, with which.
    """
    pixels = request.parameterization == "pixel"
    for name in ("blur", "blur_every", "clip_each_step"):
        if getattr(request, name) and not pixels:
            raise _invalid(f"/{name}", f"goes with parameterization=pixel, not {request.parameterization}")
    if pixels and request.pixel_space is None:
        raise _invalid("/pixel_space", "parameterization=pixel needs it: byte, unit or normalized")
    if _crops(request) and (request.jitter or request.scale or request.rotate or request.jitter_after):
        raise _invalid("/crop_from", "views are either boxes, or the whole picture jittered, scaled and rotated")
    if not _crops(request) and (request.crop_size_sd or request.crop_center_sd):
        raise _invalid("/crop_size_sd", "goes with crop_from or crop_to below 1")
    if request.diversity:
        if request.crops != 1:
            raise _invalid("/diversity", "goes with crops=1")
        if len(request.objectives()) == 1:
            raise _invalid("/diversity", "pushes the pictures of a job apart; there is one only")
        if any(first_layer(one) is None for one in request.objectives()):
            raise _invalid("/diversity", "compares the maps of a layer; a class has none")


def _check_preprocess(request: MaximizeRequest) -> None:
    """What says how photographs are prepared makes no sense where none is looked at.

    Raises:
        ProblemError: invalid-request.
    """
    wish = request.preprocess
    if request.mask is not None and all(first_layer(one) is not None for one in request.objectives()):
        raise _invalid("/mask", "is where a class counts; no class is maximized")
    compared = request.image_set is not None or len(request.images) > (request.start == "image")
    asked = wish is not None and (wish.crop or wish.resize_mode or wish.antialias is not None)
    if asked and not compared and request.channels is None:
        raise _invalid(
            "/preprocess",
            "is how photographs are prepared that pictures are compared with, or channels ranked on; a start image is "
            "cropped to the proportions of `size`",
        )


def _invalid(pointer: str, detail: str) -> ProblemError:
    return invalid_request([FieldError(pointer, detail)])


OPERATION = MaximizeOperation()
