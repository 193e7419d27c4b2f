"""Model cards: what a worker tells everybody else about a network, so that requests are checked without torch."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cached_property
from math import prod
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from convscope.protocol.networks import UploadFacts
from convscope.protocol.problems import ProblemError


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessCard(_Model):
    """How an upload becomes the network's input: resize, centre crop, scale to [0, 1], normalise."""

    size: tuple[int, int] = Field(description="Height and width of the network's input, pixels.")
    resize: tuple[int, int] | int = Field(
        description="Resize target before cropping: shorter side, or height and width."
    )
    resize_mode: Literal["bilinear", "bicubic", "nearest", "lanczos"] = "bilinear"
    crop: Literal["center", "none"] = "center"
    mean: tuple[float, ...] = Field(description="Of each plane, in [0, 1] units.")
    std: tuple[float, ...] = Field(description="Of each plane, in [0, 1] units.")
    channels: int = Field(
        3,
        ge=1,
        description="Planes of the input. 1: uploads are converted to grey; other than 1 and 3: uploads are arrays.",
    )
    resizable: bool = Field(description="Whether the architecture accepts other input sizes.")
    minimum_size: int = Field(32, description="Smallest side the architecture accepts, pixels.")


class ReceptiveField(_Model):
    """The input box one unit sees, in pixels of the network's input, each as (vertical, horizontal).

    The box of unit (y, x) covers rows start[0] + y * jump[0] … + size[0] - 1, likewise for columns, before clipping.
    """

    size: tuple[int, int]
    jump: tuple[float, float]
    start: tuple[float, float]


class LayerCard(_Model):
    """One call of a module or functional operation, in execution order."""

    name: str
    aliases: tuple[str, ...] = ()
    kind: str = Field(description="Class of the module (`Conv2d`) or name of the function (`relu`).")
    order: int = Field(description="Position in execution order, from 0; a container comes after its children.")
    call: int = Field(1, description="1 for the first call of the module, 2 for the second, …")
    container: bool = False
    shape: tuple[int, ...] = Field(description="Shape of the output without the batch: (C, H, W) or (C,).")
    kernel_shape: tuple[int, ...] | None = Field(None, description="(O, I, kh, kw) for convolutions.")
    activation: str | None = Field(
        None, description="relu, relu6, prelu, leaky_relu, silu, gelu, hardswish, … if it is one."
    )
    receptive_field: ReceptiveField | None = None
    inputs: tuple[str, ...] = Field(
        (),
        description="Calls whose outputs this one was computed from with no other call between; `@input` is the "
        "network's input. A container that only hands on its last child's output has that child.",
    )
    methods: dict[str, str | None] = Field(
        default_factory=dict, description="Operation → null where it applies, else the reason why not."
    )

    @property
    def channels(self) -> int:
        """Number of channels (of features, for a layer without a spatial map)."""
        return self.shape[0] if self.shape else 0

    @property
    def spatial(self) -> bool:
        """Whether the output is a stack of two-dimensional maps."""
        return len(self.shape) == 3


class OutputFacts(_Model):
    """What the network answers to an image, and what the numbers mean."""

    read: str = Field("the output", description="Which tensor of what the network returns is read.")
    form: Literal["scores", "planes", "none"] = Field(
        "scores", description="scores: a number a class; planes: a map a class (segmentation); none: nothing readable."
    )
    count: int = Field(description="Classes.")
    outputs: Literal["softmax", "sigmoid", "value"] = Field(
        "softmax", description="What makes a probability of a logit; value: the numbers are no logits."
    )
    known: Literal["declared", "recognised", "assumed"] = Field(
        "assumed", description="Declared in the catalogue, recognised by how the network ends, or assumed."
    )
    ends_in: Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid"] | None = Field(
        None, description="In what the network itself ends; what that is given is then the logit."
    )


class OutputsCard(OutputFacts):
    """The same, or why nothing can be read."""

    problem: str | None = Field(None, description="Why no operation can read an answer, with what was found.")


class DefaultLayers(dict[str, tuple[str, ...]]):
    """Operation → its default layers. Asking for one that has none is a problem of the caller, not a fault of ours."""

    def __missing__(self, operation: str) -> tuple[str, ...]:
        raise ProblemError(
            "not-applicable", f"This network has no layer that {operation} takes by default; name one with layer."
        )


def _with_reason(layers: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return DefaultLayers({operation: names for operation, names in layers.items() if names})


class BehaviourCard(_Model):
    """What the network can bear, tried on noise at its own input size."""

    channels_last: bool = Field(
        description="Whether it runs, with the same answer, on maps whose channels lie next to each other in memory; "
        "one that does not is given contiguous ones."
    )
    alone: str | None = Field(
        None, description="Why each image is given to it by itself; null where an image's answer is its own."
    )
    random: bool = Field(
        False, description="Whether two runs on one image differ: each job has a seed of its own, and none is cached."
    )
    fast: Literal["bfloat16", "float32"] = Field("float32", description="The arithmetic of precision `fast`.")
    fast_reason: str | None = Field(None, description="Why that is float32 although the device has bfloat16.")


class ModelCard(_Model):
    """A network of the catalogue: weights, preprocessing, classes, layers, and the defaults of each operation."""

    id: str
    title: str
    source: str = Field(description="Where the architecture comes from: torchvision:NAME, timm:NAME, zfnet, …")
    weights: str = Field(description="Which weights: a published name, file:…, package:…, or random with its seed.")
    entry_digest: str = Field(
        description="SHA-256 of what identifies source, weights and preprocessing; part of cache keys."
    )
    parameters: int
    preprocess: PreprocessCard
    classes: tuple[str, ...] = ()
    outputs: OutputsCard | None = Field(None, description="The network's answer; null where nobody has looked.")
    layers: tuple[LayerCard, ...] = ()
    default_layers: Annotated[dict[str, tuple[str, ...]], AfterValidator(_with_reason)] = Field(
        default_factory=DefaultLayers, description="Operation → the layers used when the request names none."
    )
    stages: tuple[str, ...] = Field((), description="One layer for each resolution stage, shallow to deep.")
    max_pools: int = Field(0, description="Max-pool calls, the places where a deconvnet has switches.")
    rectifications: dict[str, int] = Field(default_factory=dict, description="Activation kind → calls of it.")
    behaviour: BehaviourCard | None = Field(
        None, description="What the network can bear; null where its weights are not at hand, and it was not tried."
    )
    upload: UploadFacts | None = Field(None, description="Of a network that a caller brought; null for the operator's.")

    @property
    def class_count(self) -> int:
        """Classes that the network answers about."""
        if self.outputs is not None:
            return self.outputs.count
        return len(self.classes) or (self.layers[-1].channels if self.layers else 0)

    @property
    def dense(self) -> bool:
        """Whether the network answers by a map for each class."""
        return self.outputs is not None and self.outputs.form == "planes"

    @cached_property
    def _by_name(self) -> dict[str, LayerCard]:
        table = {alias: layer for layer in self.layers for alias in layer.aliases}
        table.update({layer.name: layer for layer in self.layers})
        return table

    @cached_property
    def multiplications(self) -> float:
        """Multiplications of the convolutions of one forward pass at the network's own input size."""
        once = {layer.order: layer for layer in self.layers if layer.kernel_shape and not layer.container}
        return float(
            sum(prod(layer.shape) * prod(layer.kernel_shape[1:]) for layer in once.values() if layer.kernel_shape)
        )

    def layer(self, name: str, pointer: str = "/layer") -> LayerCard:
        """The layer of that name or alias.

        Raises:
            ProblemError: `unknown-layer`, with near names.
        """
        found = self._by_name.get(name)
        if found is None:
            near = get_close_matches(name, self._by_name, n=5, cutoff=0.4)
            hint = f" Near names: {', '.join(near)}." if near else ""
            raise ProblemError(
                "unknown-layer",
                f"{self.id} has no layer {name!r} ({pointer}).{hint} "
                f"GET /v1/models/{self.id}/layers lists all {len(self.layers)}.",
                near=near,
            )
        return found


class ModelSummary(_Model):
    """A line of GET /v1/models: a network of the catalogue, described or not yet, usable or why not."""

    id: str
    title: str
    source: str
    weights: str
    default: bool = False
    available: bool | None = Field(None, description="Whether the weights are at hand; null when nobody has looked.")
    problem: str | None = Field(None, description="Why the entry cannot be used.")
    problem_type: str = Field("weights-unavailable", description="Name of the problem that requests for it get.")
    entry_digest: str | None = Field(None, description="Of an operator's entry: changes when anything in it does.")
    upload: UploadFacts | None = Field(None, description="Of a network that a caller brought; null for the operator's.")
