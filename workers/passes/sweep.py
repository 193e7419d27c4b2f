"""An image set through a method that answers image by image: part by part, saved between any two parts.

The result is that of one request with all images, bit for bit under `exact` on a CPU, where each runs alone anyway.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch import Tensor

from workers.contract import (
    Grant,
    IterativeMethod,
    MethodError,
    Network,
    OneShotMethod,
    Outcome,
    Progress,
    Request,
    Result,
    Row,
)
from workers.passes.batches import is_fast, one_by_one
from workers.passes.pace import SliceClock, most_together

if TYPE_CHECKING:
    from convscope.protocol.requests import CommonRequest

End = Callable[[Network, Any, Outcome], Result]
"""What is found only from all images together: takes the row, and takes and gives its outcome."""
Join = Callable[[Sequence[Outcome]], Outcome]
"""What consecutive parts of the images gave, as one outcome. Associative: parts that were joined join further ones."""

_TOGETHER_CPU, _TOGETHER_GPU = 8, 32
"""Images of one part where rows of a pass may be of several."""
_FACTS, _PLACE, _IMAGES = "facts", "place", "images"


@dataclass
class SetSweep(Generic[Request]):
    """A job's way through its images.

    Attributes:
        row: the whole request, whose images are each read when a part looks at them.
        parts: what the images so far gave.
        place: of the next image.
        work: of the part that is under way.
    """

    row: Row[Request]
    parts: list[Outcome] = field(default_factory=list)
    place: int = 0
    work: Generator[Progress, None, list[Result]] | None = field(default=None, repr=False)
    said: Progress = field(default_factory=lambda: Progress(0, 1))

    @property
    def total(self) -> int:
        """Images of the request."""
        return len(self.row.images)

    def advance(self, method: OneShotMethod[Request], network: Network, grant: Grant) -> None:
        """Work for a slice.

        Raises:
            MethodError: an image has no answer.
        """
        clock = SliceClock(grant)
        try:
            while self.place < self.total:
                images = self.row.images[self.place : self.place + _together(network, self.row.request)]
                if self.work is None:
                    part = Row(self.row.request, images, first=self.row.first + self.place, whole=False)
                    self.work = method.run(network, [part], grant)
                try:
                    self.said = next(self.work)
                except StopIteration as stop:
                    self._keep(stop.value[0], len(images))
                if clock.over():
                    return
        except BaseException:
            self.work = None  # the part is begun again, should this be tried again
            raise

    def _keep(self, result: Result, images: int) -> None:
        if isinstance(result, MethodError):
            where = f"images {self.place} to {self.place + images - 1}" if images > 1 else f"image {self.place}"
            raise MethodError(result.problem, f"{where} of the range: {result.detail}")
        self.parts.append(result)
        self.place += images
        self.work, self.said = None, Progress(0, 1)


class ImageSweep(IterativeMethod[Request, "SetSweep[Request]"]):
    """A one-shot method over an image set of any size.

    Args:
        method: what each part goes through; its rows must not depend on each other.
        join: makes one outcome of those of consecutive parts.
        end: adds to the outcome of the whole.
    """

    def __init__(self, method: OneShotMethod[Request], join: Join, end: End | None = None) -> None:
        self._method = method
        self._join = join
        self._end = end

    def group_key(self, network: Network, request: Request) -> Hashable:
        return repr(request)

    def start(
        self, network: Network, row: Row[Request], grant: Grant
    ) -> Generator[Progress, None, list[SetSweep[Request]]]:
        yield from ()
        return [SetSweep(row)]

    def step(self, network: Network, states: Sequence[SetSweep[Request]], grant: Grant) -> list[MethodError | None]:
        errors: list[MethodError | None] = []
        for state in states:
            try:
                state.advance(self._method, network, grant)
                errors.append(None)
            except MethodError as error:
                errors.append(error)
        return errors

    def done(self, state: SetSweep[Request]) -> bool:
        return state.place >= state.total

    def progress(self, states: Sequence[SetSweep[Request]], preview: bool) -> Progress:
        (state,) = states
        share = min(state.said.done / max(state.said.total, 1), 1.0)
        return Progress(state.place + 0.9 * share, state.total, f"{state.place} of {state.total} images")

    def finish(
        self, network: Network, row: Row[Request], states: Sequence[SetSweep[Request]], grant: Grant
    ) -> Generator[Progress, None, Result]:
        yield from ()
        (state,) = states
        whole = self._join(state.parts)
        return whole if self._end is None else self._end(network, row, whole)

    def save(self, states: Sequence[SetSweep[Request]]) -> dict[str, Tensor]:
        (state,) = states
        if len(state.parts) > 1:
            state.parts = [self._join(state.parts)]
        saved = {_PLACE: torch.tensor(state.place), _IMAGES: torch.tensor(state.total)}
        for part in state.parts:
            text = json.dumps(part.facts, separators=(",", ":")).encode()
            saved[_FACTS] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
            saved |= {f"array.{name}": array for name, array in part.arrays.items()}
        return saved

    def load(
        self, network: Network, row: Row[Request], saved: Mapping[str, Tensor], grant: Grant
    ) -> list[SetSweep[Request]]:
        if int(saved[_IMAGES]) != len(row.images):
            raise ValueError(f"the checkpoint is of {int(saved[_IMAGES])} images, not {len(row.images)}")
        state = SetSweep(row, place=int(saved[_PLACE]))
        if _FACTS in saved:
            facts = json.loads(saved[_FACTS].numpy().tobytes())
            arrays = {
                name.removeprefix("array."): array.clone() for name, array in saved.items() if name.startswith("array.")
            }
            state.parts = [Outcome(arrays, facts)]
        return [state]


def joined_arrays(parts: Sequence[Outcome]) -> dict[str, Tensor]:
    """Arrays of all parts, each along its first axis, that of images; one that some parts lack is of the others."""
    names = dict.fromkeys(name for part in parts for name in part.arrays)
    return {name: torch.cat([part.arrays[name] for part in parts if name in part.arrays]) for name in names}


def joined_lists(parts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """Facts that are lists with an entry an image, of all parts."""
    return {name: [entry for part in parts for entry in part[name]] for name in names}


def joined_notes(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences of all parts, each once."""
    return list(dict.fromkeys(note for part in parts for note in part["notes"]))


def _together(network: Network, request: CommonRequest) -> int:
    """Images of a part: one where each runs alone, else as many as a pass or two take; always the same number."""
    if one_by_one(network, request):
        return 1
    on_cpu = network.device.type == "cpu" and is_fast(request)
    return most_together(network, _TOGETHER_CPU if on_cpu else _TOGETHER_GPU)
