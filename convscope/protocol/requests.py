"""The parts that requests are made of: images by reference, common properties, channels, targets, objectives.

Every value is a plain JSON type, so that a validated request travels to a worker as JSON and back unchanged.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

PRECISIONS = ("exact", "fast")
MOST_CHANNELS = 65_536
"""In one list; more than any layer has."""


class StrictModel(BaseModel):
    """A schema that refuses properties it does not know, numbers that are not finite, and true for a number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        # Python counts true as 1, and pydantic with it; JSON schema does not.
        if _holds_truth(value) and not _takes_truth(cls, str(info.field_name)):
            raise PydanticCustomError("truth_type", "true and false mean nothing here")
        return value


def _holds_truth(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))


@cache
def _takes_truth(model: type[BaseModel], name: str) -> bool:
    def within(annotation: Any) -> bool:
        return annotation is bool or any(map(within, get_args(annotation)))

    return within(model.model_fields[name].annotation)


def _both_sides(value: object) -> object:
    """One number for a square."""
    return [value, value] if isinstance(value, int | float) else value


def _alone(value: object) -> object:
    """One number for all planes."""
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


PlaneNumbers = Annotated[
    list[Annotated[float, Field(ge=-1e6, le=1e6)]],
    Field(min_length=1, max_length=64),
    BeforeValidator(_alone, json_schema_input_type=float | list[float]),
]


Side = Annotated[int, Field(ge=16, le=1024)]
Sides = Annotated[tuple[Side, Side], BeforeValidator(_both_sides, json_schema_input_type=Side | tuple[Side, Side])]


class ImageRef(StrictModel):
    """An image by reference: an uploaded one by `id`, or its file's bytes in `base64`."""

    id: str | None = Field(None, description="Id from POST /v1/images or from a result's `image_id`.", max_length=80)
    base64: str | None = Field(None, description="The bytes of an image file in base64.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.id is None) == (self.base64 is None):
            raise ValueError("give either id or base64")
        return self


def _reference(value: object) -> object:
    """An image's id as text is the image with that id."""
    return {"id": value} if isinstance(value, str) and IMAGE_ID.fullmatch(value) else value


IMAGE_ID = re.compile(r"img-[0-9A-Za-z_-]*")
"""What only an image's id looks like, be it a wrong one."""
Image = Annotated[
    ImageRef,
    BeforeValidator(
        _reference,
        json_schema_input_type=Annotated[str, Field(pattern=f"^{IMAGE_ID.pattern}$", max_length=80)] | ImageRef,
    ),
]


class Preprocess(StrictModel):
    """Overrides of the network's own preprocessing, where its architecture allows."""

    size: Sides | None = Field(
        None, description="Height and width of the network's input, pixels; one number for a square."
    )
    crop: Literal["center", "none"] | None = Field(
        None,
        description="center: keep the aspect ratio and crop; none: squeeze the whole upload into the input.",
    )
    resize_mode: Literal["bilinear", "bicubic", "nearest", "lanczos"] | None = None
    antialias: bool | None = Field(
        None,
        description="false: pixels between half-pixel centres, without a filter where the image shrinks, as torch's "
        "`F.interpolate` does on tensors; true, the default, as Pillow does.",
    )
    range: Literal["unit", "byte"] | None = Field(
        None,
        description="What white is to the network: 1 or 255. With it, `mean` and `std` are in that unit, and 0 and 1 "
        "unless given: range=byte alone feeds raw 0 to 255, range=unit alone plain 0 to 1.",
    )
    mean: PlaneNumbers | None = Field(None, description="Subtracted from each plane; one number for all planes.")
    std: PlaneNumbers | None = Field(None, description="Each plane is divided by it, above 0; one number for all.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if self.antialias is False and self.resize_mode == "lanczos":
            raise ValueError("resize_mode=lanczos has no form without antialias; take bilinear, bicubic or nearest")
        return self


Labels = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=128)]],
    Field(
        max_length=16,
        description="Up to 16 short strings for the caller's own use; no part of the computation.",
    ),
]


class CommonRequest(StrictModel):
    """What every operation takes beside its own properties."""

    model: str | None = Field(None, description="Catalogue id; without it the default network.", max_length=200)
    precision: Literal["exact", "fast"] = Field(
        "exact",
        description="exact: float32; on a CPU the same bits alone, beside other requests and under any load, of "
        "workers with the same settings; on other devices ascents have the same bits, other operations the same "
        "numbers to the last digits. fast: the device's quicker arithmetic, as good, not the same bits.",
    )
    seed: int = Field(0, ge=0, le=2**53 - 1, description="Of everything random in the computation.")
    labels: Labels = Field(default_factory=dict)
    deadline_s: float | None = Field(
        None, gt=0, le=86_400, description="Seconds from submission until the job expires."
    )
    preprocess: Preprocess | None = None


def _range_of_text(value: object) -> object:
    """`8:16` as [8, 16]."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        ends = [part.strip() for part in value.split(":" if ":" in value else ",")]
        if len(ends) == 2 and all(end.isdecimal() for end in ends):
            return [int(end) for end in ends]
        raise ValueError(_RANGE)
    return value


def _not_empty(value: tuple[int, int]) -> tuple[int, int]:
    if not value[0] < value[1]:
        raise ValueError(_RANGE)
    return value


_RANGE = "a range of a set is start:stop, places from 0, half open and not empty: 0:64 are its first 64 images"
_Place = Annotated[int, Field(ge=0, le=2**31)]
ImageRange = Annotated[
    tuple[_Place, _Place],
    BeforeValidator(
        _range_of_text,
        json_schema_input_type=tuple[_Place, _Place] | Annotated[str, Field(pattern=r"^[0-9]{1,9}[:,][0-9]{1,9}$")],
    ),
    AfterValidator(_not_empty),
]
"""Places of a set, half open."""


class SetChoice(StrictModel):
    """A stored set of images, or a range of it, instead of images that are named one by one."""

    image_set: str | None = Field(None, description="Id from POST /v1/image-sets, instead of images.", max_length=80)
    image_range: ImageRange | None = Field(
        None, description="Which images of the set: `start:stop` or [start, stop], places from 0, half open."
    )

    @model_validator(mode="after")
    def _range_of_a_set(self) -> Self:
        if self.image_range is not None and self.image_set is None:
            raise ValueError("image_range is of an image_set; give its id")
        return self


class ImagesRequest(CommonRequest, SetChoice):
    """An operation on one or more images: `image` for one, `images` for several, or a stored set.

    Resolved to `images` unless they are of a set.
    """

    image: Image | None = Field(None, description="One image, by its id or as an object.")
    images: list[Image] = Field(default_factory=list, max_length=64, description="Several images.")

    @model_validator(mode="after")
    def _some_image(self) -> Self:
        if self.image is not None and self.images:
            raise ValueError("give either image or images")
        if self.image_set is not None and (self.image is not None or self.images):
            raise ValueError("give either images or image_set")
        if self.image is None and not self.images and self.image_set is None:
            raise ValueError(
                'an image is needed: a file part `image`, or as `image` "img-…", {"id": "img-…"} or {"base64": "…"}'
            )
        if self.image_set is not None and getattr(self, "mask", None) is not None:
            raise ValueError("a mask is of one image and does not go with image_set; give images")
        return self

    def all_images(self) -> list[ImageRef]:
        """The images, whichever way they were given."""
        return [self.image] if self.image is not None else list(self.images)


def split_commas(value: object) -> object:
    """A form's `a,b,c` as a list; lists of such strings flattened."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [part.strip() for item in value for part in item.split(",") if part.strip()]
    return value


_CHANNELS = (
    "channels are a list of indices, which count from 0, `all`, `first:K`, `top:K` (K from 1 to 99999) or `strongest`"
)
_CHANNEL_WORD = re.compile(r"all|strongest|(top|first):[1-9][0-9]{0,4}")


def _channels_from_form(value: object) -> object:
    if isinstance(value, str) and not _CHANNEL_WORD.fullmatch(value):
        value = [value]
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], str) and _CHANNEL_WORD.fullmatch(value[0]):
            return value[0]
        parts = split_commas(value)
        if isinstance(parts, list):
            if any(isinstance(part, str) and not part.isdecimal() for part in parts):
                raise ValueError(_CHANNELS)
            return [int(part) if isinstance(part, str) else part for part in parts]
    return value


def _channel_word(value: list[int] | str) -> list[int] | str:
    if isinstance(value, str) and not _CHANNEL_WORD.fullmatch(value):
        raise ValueError(_CHANNELS)
    if isinstance(value, list) and not value:
        raise ValueError("at least one channel is needed")
    return value


LayerName = Annotated[str, Field(min_length=1, max_length=200)]
LayerNames = Annotated[list[LayerName], BeforeValidator(split_commas), Field(min_length=1, max_length=256)]
Channels = Annotated[
    Annotated[list[Annotated[int, Field(ge=0, lt=1_000_000)]], Field(max_length=MOST_CHANNELS)]
    | Annotated[str, Field(pattern=r"^(all|strongest|(top|first):[1-9][0-9]{0,4})$")],
    BeforeValidator(_channels_from_form),
    AfterValidator(_channel_word),
    Field(description="Channel indices, `all`, `first:K`, `top:K` (the K strongest) or `strongest` (= top:1)."),
]


class UnitTarget(StrictModel):
    """One unit of a layer: the value at (y, x) of a channel's map; without y and x, the map's mean."""

    layer: LayerName
    channel: int = Field(ge=0)
    y: int | None = Field(None, ge=0)
    x: int | None = Field(None, ge=0)


Target = Annotated[
    int | UnitTarget | Annotated[str, Field(min_length=1, max_length=200)],
    Field(
        description="A class index, a class name, `predicted`, `-N` (the other side of output N, where each stands by "
        "itself), or a unit {layer, channel, y, x}."
    ),
]


def _place_from_form(value: object) -> object:
    parts = split_commas(value)
    if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], str) and not parts[0].isdecimal():
        return parts[0]
    if isinstance(parts, list):
        return [int(part) if isinstance(part, str) and part.isdecimal() else part for part in parts]
    return value


def _point_or_box(value: list[int]) -> list[int]:
    if len(value) not in (2, 4):
        raise ValueError("a region is y, x, or top, left, bottom, right; or all, predicted, mask")
    if len(value) == 4 and not (value[0] < value[2] and value[1] < value[3]):
        raise ValueError("a box is top, left, bottom, right, half open, and not empty")
    return value


Region = Annotated[
    Literal["all", "predicted", "mask"]
    | Annotated[
        list[Annotated[int, Field(ge=0, le=4096)]], Field(min_length=2, max_length=4), AfterValidator(_point_or_box)
    ],
    BeforeValidator(_place_from_form),
]
"""Where a class counts, of a network that answers in maps; places are in pixels of the network's input."""


class RegionRequest(ImagesRequest):
    """An operation on classes, which of a network that answers in maps are taken over a region."""

    region: Region | None = Field(
        None,
        description="Of networks that answer in maps: `all` pixels (default), those `predicted` as the class, the "
        "white of the `mask`, `y,x` or `top,left,bottom,right` in pixels of the network's input.",
    )
    mask: ImageRef | None = Field(None, description="An image of the upload's size, white where the class counts.")
