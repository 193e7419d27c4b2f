"""What an operation declares, so that routes, forms, rendering, limits and documents find everything in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from convscope.protocol.cards import LayerCard, ModelCard
from convscope.protocol.pictures import ArrayInfo, Picture
from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.requests import CommonRequest, Preprocess
from convscope.protocol.selections import count_of

R = TypeVar("R", bound=CommonRequest)


Lane = Literal["interactive", "batch"]

WORKING_COPIES = 4
"""Of a layer's output: itself, what it is made of, and what the arithmetic works in."""


OF_A_SET = 64
"""Images of a set that a worker has in memory together, at most."""

COLOURS = "colour"
"""The axis of red, green and blue."""
SRGB = "sRGB, 0 to 255"


CONVOLUTIONS = "convolutions"
"""The word that stands for all convolutions where layers are named."""


class NamedLayersFacts(BaseModel):
    """Facts of an operation on layers."""

    aliases: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Further names of the layers asked for, where the network's literature has some (`block1_conv1`).",
    )


def called(layer: str, facts: Mapping[str, Any]) -> str:
    """A layer's name as headings say it: with its further names."""
    further = also_called(layer, facts)
    return f"{layer} ({', '.join(further)})" if further else layer


def also_called(layer: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """A layer's further names."""
    return tuple((facts.get("aliases") or {}).get(layer, ()))


@dataclass(frozen=True)
class About:
    """What the numbers of a result array are, for whoever has the array without the job.

    Args:
        axes: what each axis counts, outermost first.
        unit: what the numbers measure.
        layer: of which layer they are, where they are of one.
        indices: which of the layer's or the network's each place along an axis is, `{"channel": [3, 5]}`; of two axes
            together where the inner one differs along the outer one, `{"image, channel": [[3, 5], [1, 5]]}`.
    """

    axes: tuple[str, ...]
    unit: str
    layer: str | None = None
    indices: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a request will cost, as far as it is known before it runs."""

    result_bytes: int = 0
    forwards: float = 1.0
    """Forward passes of one image, a backward counting two."""


class Operation(ABC, Generic[R]):
    """One operation: its schema, its defaults, its cost, its pictures."""

    name: ClassVar[str]
    """As in the address: `feature-maps`."""
    summary: ClassVar[str]
    """One sentence for documents and listings."""
    request: ClassVar[type[CommonRequest]]
    facts: ClassVar[type[BaseModel]]
    """Schema of the facts, for the OpenAPI document and for tests."""
    example: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """A request that shows what the operation is for, without its images; documents show it and tests send it."""
    lane: ClassVar[Lane] = "interactive"
    quick: ClassVar[bool] = True
    """Quick operations wait up to 30 s for their answer when the request states no preference."""
    max_images: ClassVar[int] = 64
    """0: the operation takes no image."""
    sweeps: ClassVar[bool] = False
    """Whether it goes through an image set; others take as many images of a set as they take by name."""
    set_images: ClassVar[int | None] = None
    """Most images of a set, where each has facts of its own; None is any number."""
    has_picture: ClassVar[bool] = True
    has_matrix: ClassVar[bool] = False
    """Whether pictures may be matrices, which can be SVG."""
    bulky: ClassVar[frozenset[str]] = frozenset()
    """Arrays that stand in a JSON answer only where they are asked for, however small: few callers read them there."""
    gradient: ClassVar[bool] = False
    """Whether it goes backward through the network as well, which keeps every activation."""
    image_array: ClassVar[str | None] = None
    """Name of a uint8 K×H×W×3 result array whose pictures become images of their callers, as uploads are; their ids go
    into `facts["pictures"][k]["image_id"]`. A picture whose facts say `withheld` is left out."""

    @abstractmethod
    def resolve(self, request: R, card: ModelCard) -> R:
        """The request with every default filled in and every name made canonical.

        Raises:
            ProblemError: unknown-layer, channel-out-of-range, not-applicable, invalid-request.
        """

    def check_count(self, request: R, images: int) -> None:
        """Refuse a resolved request whose lists do not fit the number of its images.

        Raises:
            ProblemError: `invalid-request`.
        """

    @abstractmethod
    def cost(self, request: R, card: ModelCard, images: int) -> Cost:
        """The cost of a resolved request on `images` images."""

    def working_bytes(self, request: R, card: ModelCard, images: int, result_bytes: int) -> int:
        """Memory that a worker needs for a resolved request at the least, beside networks and uploads.

        All inputs as they are prepared, float32; one of them on its way through the network; the result, and a copy of
        it on its way out. Methods take as many images into one pass as the memory granted allows.
        """
        height, width = input_size(request, card)
        if getattr(request, "image_set", None) is not None:
            images = min(images, OF_A_SET)  # the others lie on the worker's disk
        inputs = 4 * card.preprocess.channels * height * width * images
        return inputs + pass_bytes(request, card, gradient=self.gradient) + 2 * result_bytes

    def models(self, request: R) -> Sequence[str]:
        """Catalogue ids of further networks that the request names."""
        return ()

    def resolve_others(self, request: R, cards: Mapping[str, ModelCard]) -> R:
        """The resolved request checked against the cards of `models(request)` as well, by catalogue id.

        The card of the request's own network is among them.
        """
        return request

    def draws(self, card: ModelCard) -> bool:
        """Whether its results on that network have a picture."""
        return self.has_picture

    def about(self, request: Mapping[str, Any], facts: Mapping[str, Any], array: str) -> About | None:
        """What the numbers of an array of a result are; None where the operation does not say."""
        return None

    @abstractmethod
    def pictures(
        self, request: Mapping[str, Any], facts: Mapping[str, Any], arrays: Mapping[str, ArrayInfo]
    ) -> list[Picture]:
        """The pictures of a result. `request` is the resolved request as JSON; gives [] where there is none to draw."""


def input_size(request: CommonRequest, card: ModelCard) -> tuple[int, int]:
    """Height and width of what goes through the network."""
    size = request.preprocess.size if request.preprocess is not None else None
    size = size or getattr(request, "size", None) or card.preprocess.size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def relative_area(request: CommonRequest, card: ModelCard) -> float:
    """How many times the network's own input area that is; maps grow by it."""
    height, width = input_size(request, card)
    return height * width / (card.preprocess.size[0] * card.preprocess.size[1])


def pass_bytes(request: CommonRequest, card: ModelCard, *, gradient: bool) -> int:
    """Memory of one input on its way through the network, float32: a few copies of the largest layer; with a gradient
    all layers' activations too.
    """
    largest = max((prod(layer.shape) for layer in card.layers if not layer.container), default=0)
    passing = int(4 * WORKING_COPIES * largest * relative_area(request, card))
    return passing + (layers_bytes(request, card) if gradient else 0)


def layers_bytes(request: CommonRequest, card: ModelCard) -> int:
    """Memory of the outputs of all layers for one input, float32."""
    once = {layer.order: prod(layer.shape) for layer in card.layers if not layer.container}
    return int(4 * sum(once.values()) * relative_area(request, card))


def check_channels(channels: list[int] | str, layer: LayerCard, pointer: str = "/channels") -> None:
    """Refuse channels that the layer does not have.

    `first:K` and `top:K` may ask for more than there are and then give all of them.

    Raises:
        ProblemError: `channel-out-of-range`, with the range.
    """
    wrong = [] if isinstance(channels, str) else [channel for channel in channels if channel >= layer.channels]
    if wrong:
        raise ProblemError(
            "channel-out-of-range",
            f"{layer.name} has {layer.channels} channels, 0 to {layer.channels - 1}; {pointer} asks for {wrong[0]}.",
            layer=layer.name,
            channels=layer.channels,
        )


def count_channels(channels: list[int] | str, layer: LayerCard) -> int:
    """How many channels a selection gives at that layer."""
    return count_of(channels, layer.channels)


def check_applicable(operation: str, layer: LayerCard, card: ModelCard) -> None:
    """Refuse a layer at which the operation has no meaning.

    Raises:
        ProblemError: `not-applicable`, with the reason and some layers where it does apply.
    """
    reason = layer.methods.get(operation)
    if reason is not None:
        possible = [other.name for other in card.layers if other.methods.get(operation, "") is None]
        raise ProblemError(
            "not-applicable",
            f"{operation} cannot be used at {layer.name} of {card.id}: {reason}. "
            f"Possible for instance: {', '.join(possible[-5:]) or 'no layer of this network'}.",
            possible=possible,
        )


def named_layers(names: Sequence[str], operation: str, card: ModelCard, pointer: str = "/layers") -> list[LayerCard]:
    """The layers of a list of names, each once; the one word `convolutions` means all at which the operation applies.

    Raises:
        ProblemError: `unknown-layer`; `not-applicable` where there is no such convolution.
    """
    if list(names) == [CONVOLUTIONS]:
        found = [one for one in card.layers if one.kernel_shape and one.methods.get(operation) is None]
        if not found:
            raise ProblemError("not-applicable", f"{card.id} has no convolution at which {operation} can be used.")
        return found
    return list({layer.name: layer for layer in (card.layer(name, pointer) for name in names)}.values())


def check_preprocess(wish: Preprocess | None, card: ModelCard) -> None:
    """Refuse an input size that the architecture does not accept.

    Raises:
        ProblemError: `not-applicable`, with the sizes that are possible.
    """
    if wish is None or wish.size is None or tuple(wish.size) == card.preprocess.size:
        return
    own = "×".join(map(str, card.preprocess.size))
    if not card.preprocess.resizable:
        raise ProblemError("not-applicable", f"{card.id} takes inputs of {own} pixels only (/preprocess/size).")
    least = card.preprocess.minimum_size
    if min(wish.size) < least:
        raise ProblemError("not-applicable", f"{card.id} needs inputs of at least {least} pixels (/preprocess/size).")


def check_normalization(wish: Preprocess | None, card: ModelCard) -> None:
    """Refuse as many means or deviations as the network has no planes.

    Raises:
        ProblemError: `invalid-request`, with how many are right.
    """
    for name in ("mean", "std"):
        given = getattr(wish, name, None)
        planes = card.preprocess.channels
        if given is not None and len(given) not in (1, planes):
            counts = "one number" if planes == 1 else f"one number or {planes}"
            raise invalid_field(f"/preprocess/{name}", f"{card.id} takes {counts}, not {len(given)}.")


def area_factor(wish: Preprocess | None, card: ModelCard) -> float:
    """How many times the network's own input area the wished one is; maps grow by that."""
    if wish is None or wish.size is None:
        return 1.0
    return (wish.size[0] * wish.size[1]) / (card.preprocess.size[0] * card.preprocess.size[1])
