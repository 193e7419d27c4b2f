"""What the engine, the networks and the methods agree on.

A method is a file in `workers/methods/` named as its operation (`feature_maps.py` for `feature-maps`) that defines
`METHOD`, an instance of `OneShotMethod` or `IterativeMethod`. It gets tensors and parameters and returns named tensors
and facts: no I/O, no queue, no choice of device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from workers.geometry import Box, Transform
from workers.normalization import Normalization

if TYPE_CHECKING:
    from convscope.protocol.requests import CommonRequest, Preprocess

Request = TypeVar("Request", bound="CommonRequest")
Request_co = TypeVar("Request_co", bound="CommonRequest", covariant=True)
State = TypeVar("State")
T = TypeVar("T")


def params(value: Any) -> Any:
    """A validated request's JSON as attribute objects: dicts become namespaces, all the way down.

    Methods see `request.layer`, `request.objective.channel`. The type that they declare is the operation's own request,
    which the service has validated; they import it for the type checker alone, as engine and methods run where only
    torch is installed, and pydantic is not.
    """
    if isinstance(value, dict):
        return SimpleNamespace(**{key: params(item) for key, item in value.items()})
    if isinstance(value, list):
        return [params(item) for item in value]
    return value


def resolved(value: T | None) -> T:
    """A property that callers may leave out, of a request in which the service has filled it in.

    Raises:
        ValueError: it has not.
    """
    if value is None:
        raise ValueError("the request is not resolved")
    return value


class MethodError(Exception):
    """One row's failure, told to its caller; the rest of the batch goes on.

    Args:
        problem: a name of convscope.protocol.problems (`not-applicable`, `numerical-error`, `out-of-memory`, …).
        detail: one sentence: what was wrong and what would be possible.
    """

    def __init__(self, problem: str, detail: str) -> None:
        super().__init__(f"{problem}: {detail}")
        self.problem = problem
        self.detail = detail


@dataclass(frozen=True)
class Layer:
    """One call of a module or functional operation; see `convscope.protocol.cards.LayerCard` for the fields."""

    name: str
    kind: str
    order: int
    shape: tuple[int, ...]
    call: int = 1
    container: bool = False
    aliases: tuple[str, ...] = ()
    activation: str | None = None
    kernel_shape: tuple[int, ...] | None = None
    box: Box | None = None
    inputs: tuple[str, ...] = ()

    @property
    def spatial(self) -> bool:
        """Whether the output is a stack of two-dimensional maps."""
        return len(self.shape) == 3


@dataclass(frozen=True)
class Outputs:
    """What a network answers to an image and what the numbers mean, decided once for each network.

    A logit is the number that methods differentiate and compare; `link` makes a probability of it.

    Attributes:
        form: `scores`, a number a class; `planes`, a map a class; `none` where nothing can be read.
        count: classes.
        member: keys and places that lead to the tensor that is read; empty for the output itself.
        read: which tensor that is, in words.
        link: `softmax` over the classes, `sigmoid` of each by itself, or `value`: the numbers are no logits.
        known: how that is known: `declared` in the catalogue, `recognised` by how the network ends, or `assumed`.
        ends_in: softmax, log_softmax, sigmoid or log_sigmoid where the network itself ends in it; None where its
            numbers are logits or values.
        ending: which of its calls of such functions is the last, counted from 0, and its input the logit; None where
            the logit is found from the probability.
        refusal: why nothing can be read, with what was found.
    """

    form: Literal["scores", "planes", "none"] = "scores"
    count: int = 1
    member: tuple[str | int, ...] = ()
    read: str = "the output"
    link: Literal["softmax", "sigmoid", "value"] = "softmax"
    known: Literal["declared", "recognised", "assumed"] = "assumed"
    ends_in: str | None = None
    ending: int | None = None
    refusal: str | None = None

    def sentence(self) -> str:
        """What is read and what it means, for people."""
        if self.refusal is not None:
            return self.refusal
        each = "one number" if self.form == "scores" else "one map"
        what = f"{self.count} classes, {each} each" if self.count > 1 else each
        meaning = {
            "softmax": "whose softmax is the probability",
            "sigmoid": "whose sigmoid is the probability",
            "value": "a value without a probability",
        }[self.link]
        known = {
            "declared": "as the catalogue declares",
            "recognised": f"the network itself ends in {self.ends_in}",
            "assumed": "nobody declared it (outputs = …)"
            if self.link == "value"
            else 'assumed, as is usual; where one image may be of several, say outputs = "sigmoid"',
        }[self.known]
        return f"reads {self.read}: {what}, {meaning}; {known}"

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        return {
            "read": self.read,
            "form": self.form,
            "count": self.count,
            "outputs": self.link,
            "known": self.known,
            "ends_in": self.ends_in,
        }


class Network(Protocol):
    """A network ready to run: evaluation mode, weights that require no gradient, on its device.

    Attributes:
        module: float32; never modified by a method.
        layers: every call in execution order by name, and by alias.
        mean, std: of the input normalisation, in [0, 1] units, one for each plane.
        input_size: default (height, width).
        classes: names by index; may be empty.
        most_images: images that one forward may take, where an image's answer depends on its company; None is any.
        planes: of its input: 3 for colours, 1 for grey, or others.
        random: whether two runs on one image differ, in evaluation mode.
        outputs: which of its tensors is its answer, and what the numbers mean.
    """

    id: str
    module: nn.Module
    layers: Mapping[str, Layer]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int]
    classes: Sequence[str]
    outputs: Outputs
    device: torch.device
    most_images: int | None
    planes: int
    random: bool

    def fast_module(self) -> nn.Module:
        """The same network for precision `fast`: the device's quicker arithmetic, weights cast once, channels_last.

        Takes and returns float32 tensors at its edges; inside it may be bfloat16.
        """
        ...

    def lean_module(self, fast: bool) -> nn.Module:
        """`module`, or `fast_module()`, with fewer multiplications, for methods that run it hundreds of times.

        Its values differ in the last digits: what is compared with plain PyTorch number by number uses `module`.
        """
        ...

    def notes(self, precision: str, *, answered: bool = False) -> Sequence[str]:
        """What of the network a reader of its results must know, a sentence each.

        Args:
            precision: `exact` or `fast`.
            answered: whether the result tells something of the network's answer, not of its layers alone.
        """
        ...

    def prepare(self, images: Sequence[Tensor], preprocess: Preprocess | None = None) -> tuple[Tensor, list[Transform]]:
        """Uploads (uint8, H×W×3, RGB) → the normalised input batch (float32, N×3×h×w, on the device) and transforms.

        `preprocess` overrides parts of the network's own (attributes size, crop, resize_mode, antialias, range, mean,
        std; None keeps).

        Raises:
            MethodError: `not-applicable` where the architecture does not accept the size.
        """
        ...

    def normalize(self, images: Tensor, preprocess: Preprocess | None = None) -> Tensor:
        """Float images in [0, 1] (N×3×h×w) → normalised input; with a request's `preprocess` as it wants it."""
        ...

    def normalization(self, preprocess: Preprocess | None = None) -> Normalization:
        """How pixels become input, with what a request's `preprocess` overrides."""
        ...


@dataclass
class Row(Generic[Request_co]):
    """One job's share of a batch: its parameters (see `params`) and its uploads on the CPU.

    An upload is uint8 H×W×3, RGB, or float32 H×W×C in [0, 1] where it came as an array. `first` is the place of the
    first of them in the job's images, of which a row may have a part: then it is not `whole`.
    """

    request: Request_co
    images: Sequence[Tensor] = ()
    first: int = 0
    whole: bool = True


@dataclass
class Outcome:
    """What a method found for one row: named arrays (CPU tensors) and facts (JSON values, no NaN or infinity)."""

    arrays: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Progress:
    """Said between two slices.

    Attributes:
        losses: of the pictures that are being made, those that a preview shows; None of one before its first step.
        preview: a uint8 H×W×3 picture, for iterative work.
    """

    done: float
    total: float
    message: str = ""
    preview: Tensor | None = None
    losses: Sequence[float | None] = ()


@dataclass(frozen=True)
class Grant:
    """What the engine grants: bytes of working memory, and how long one slice should take at most."""

    memory_bytes: int = 2 * 1024**3
    slice_s: float = 0.25
    networks: Mapping[str, Network] = field(default_factory=dict)
    """Further networks a request names, by catalogue id."""
    methods: Mapping[str, OneShotMethod[Any]] = field(default_factory=dict)
    """The worker's one-shot methods by operation, for work that judges what another method finds (`evaluate`)."""


Result = Outcome | MethodError


class OneShotMethod(ABC, Generic[Request]):
    """Work that runs once, in slices.

    `run` is a generator: it yields Progress after each slice (one forward and backward, about `grant.slice_s`), so
    that the engine can serve others in between, and returns one Result a row, in order. Short methods yield nothing.
    The engine closes the generator when every row is cancelled; whatever it holds must be released in `finally`.
    Nothing of the thread's state (`torch.no_grad`, a mode) may be set while it yields: others compute meanwhile.
    """

    @abstractmethod
    def group_key(self, request: Request) -> Hashable | None:
        """Rows with equal keys (and equal network and precision) share one `run`; None runs alone."""

    @abstractmethod
    def run(
        self, network: Network, rows: Sequence[Row[Request]], grant: Grant
    ) -> Generator[Progress, None, list[Result]]:
        """Compute all rows. A row that cannot be computed gets a MethodError in its place."""

    def models(self, request: Request) -> Sequence[str]:
        """Catalogue ids of further networks the request needs (they arrive in `grant.networks`)."""
        return ()

    def of_set(self) -> Method:
        """What computes a request about a set, whose images lie in files: this, or a method with a state."""
        return self


class SingleMethod(OneShotMethod[Request]):
    """One-shot work whose rows have nothing to share: each has its own images and fills batches by itself."""

    @abstractmethod
    def compute(self, network: Network, row: Row[Request], grant: Grant) -> Generator[Progress, None, Outcome]:
        """Compute one row, in slices.

        Raises:
            MethodError: the row cannot be computed.
        """

    def group_key(self, request: Request) -> None:
        """None: every row runs alone."""

    def run(
        self, network: Network, rows: Sequence[Row[Request]], grant: Grant
    ) -> Generator[Progress, None, list[Result]]:
        """Compute the rows one after the other; a row that fails has its error in its place."""
        results: list[Result] = []
        for row in rows:
            try:
                results.append((yield from self.compute(network, row, grant)))
            except MethodError as error:
                results.append(error)
        return results


class IterativeMethod(ABC, Generic[Request, State]):
    """Work in many steps whose rows join, leave, are checkpointed and resumed between steps.

    A state belongs to one job and may hold several rows (pictures). `step` advances one tile of states by one step.
    With precision `exact` the engine pads every tile to one size with copies of a state (`load` of `save`), which it
    steps along and throws away.

    `start` and `finish` are generators, as `OneShotMethod.run` is: they yield Progress after each slice but the last.
    """

    @abstractmethod
    def group_key(self, network: Network, request: Request) -> Hashable:
        """States with equal keys may be stepped in one tile."""

    def models(self, request: Request) -> Sequence[str]:
        """Catalogue ids of further networks the request needs (they arrive in `grant.networks`)."""
        return ()

    def room(self, network: Network, request: Request) -> tuple[int, int]:
        """How many states a job will have, at most, and the bytes that each holds while it is saved."""
        return 1, 0

    @abstractmethod
    def start(self, network: Network, row: Row[Request], grant: Grant) -> Generator[Progress, None, list[State]]:
        """The states of one job, one for each picture, before their first step."""

    @abstractmethod
    def step(self, network: Network, states: Sequence[State], grant: Grant) -> list[MethodError | None]:
        """Advance every state by one step, in place; a state that failed gets its error.

        When it raises (out of memory), the states are as they were before: the engine tries a smaller tile, then each
        job alone.
        """

    @abstractmethod
    def done(self, state: State) -> bool:
        """Whether the state needs no further step."""

    @abstractmethod
    def progress(self, states: Sequence[State], preview: bool) -> Progress:
        """Progress of one job from its states; with `preview`, a picture of where they stand."""

    @abstractmethod
    def finish(
        self, network: Network, row: Row[Request], states: Sequence[State], grant: Grant
    ) -> Generator[Progress, None, Result]:
        """The job's result, from its finished states."""

    @abstractmethod
    def save(self, states: Sequence[State]) -> dict[str, Tensor]:
        """Everything needed to go on, as named CPU tensors (numbers as 0-d tensors)."""

    @abstractmethod
    def load(self, network: Network, row: Row[Request], saved: Mapping[str, Tensor], grant: Grant) -> list[State]:
        """The states of a job from what `save` gave."""


Method = OneShotMethod[Any] | IterativeMethod[Any, Any]
"""Of any operation."""
