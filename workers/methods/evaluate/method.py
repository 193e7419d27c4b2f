"""evaluate: how good explanations are here, beside a map that knows nothing.

A job is one state: it goes through the images in order and keeps of each a row of numbers. It is saved between any two
images; an image that was begun is begun again.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.contract import Grant, IterativeMethod, MethodError, Network, Outcome, Progress, Result, Row
from workers.methods.evaluate.explaining import random_of
from workers.methods.evaluate.figures import judged, notes_of
from workers.methods.evaluate.judging import Case, Figures, Judge, place_of_target
from workers.passes.class_targets import without_mask
from workers.passes.pace import SliceClock

if TYPE_CHECKING:
    from convscope.protocol.operations.evaluate import EvaluateRequest


@dataclass
class Evaluation:
    """A job's way through its images.

    Attributes:
        images: the set, each read when it is looked at.
        mask: of the one image, or None.
        rows: by name, N×K float32, the numbers of the images so far.
        place: of the next image.
        work: of the image that is under way.
    """

    request: EvaluateRequest
    images: Sequence[Tensor]
    mask: Tensor | None
    rows: dict[str, Tensor] = field(default_factory=dict)
    place: int = 0
    work: Generator[Progress, None, Figures] | None = field(default=None, repr=False)
    said: Progress = field(default_factory=lambda: Progress(0, 1))

    def advance(self, network: Network, grant: Grant) -> None:
        """Work for a slice.

        Raises:
            MethodError: an image cannot be judged.
        """
        clock = SliceClock(grant)
        try:
            while self.place < len(self.images):
                if self.work is None:
                    self.work = self._begin(network, grant)
                try:
                    self.said = next(self.work)
                except StopIteration as stop:
                    self._keep(stop.value)
                    self.work, self.said = None, Progress(0, 1)
                if clock.over():
                    return
        except BaseException:
            self.work = None  # the image is begun again, should this be tried again
            raise

    def _begin(self, network: Network, grant: Grant) -> Generator[Progress, None, Figures]:
        inputs, (transform,) = network.prepare([self.images[self.place]], self.request.preprocess)
        where = place_of_target(self.request, self.mask, self.place, transform)
        where = None if where is None else where.to(inputs.device)
        return Judge(network, self.request, grant).judge(Case(inputs, transform, self.place, where))

    def _keep(self, figures: Figures) -> None:
        for name, numbers in figures.items():
            if name not in self.rows:
                self.rows[name] = torch.full((len(self.images), len(numbers)), math.nan)
            self.rows[name][self.place] = torch.tensor(numbers)
        self.place += 1


class Evaluate(IterativeMethod["EvaluateRequest", Evaluation]):
    """The `evaluate` operation.

    Row: the images of a set, or some images, the mask last where there is one; request `methods`, `layer`, `target`,
    `metrics`, `steps`, `deletion_fill`, `insertion_fill`, `samples`, `radius`, `depths`, `boxes`, `nonstandard_gate`,
    `preprocess`, `seed`.

    Arrays, of N images; {map} is a method, or `random-maps` or `random-pixels`; NaN where an image has no such number:
        target: N int64, class indices; score: N, the answer to the whole image.
        deletion/{map}, insertion/{map}: N×(steps + 1), the answer after each step.
        confidence/{map}: N, the answer to the muted image.
        road-morf/{map}, road-lerf/{map}: N×9.
        infidelity/{map}, infidelity-scaled/{map}, sensitivity-max/{map}, sensitivity-mean/{map}: N.
        pointing/{map}, mass/{map}, object-area: N.
        cascading/{map}, independent/{map}, and both with -absolute and -ssim: N×depths.
    """

    def group_key(self, network: Network, request: EvaluateRequest) -> Hashable:
        return repr(request)

    def start(
        self, network: Network, row: Row[EvaluateRequest], grant: Grant
    ) -> Generator[Progress, None, list[Evaluation]]:
        yield from ()
        return [_trial(row)]

    def step(self, network: Network, states: Sequence[Evaluation], grant: Grant) -> list[MethodError | None]:
        errors: list[MethodError | None] = []
        for state in states:
            try:
                state.advance(network, grant)
                errors.append(None)
            except MethodError as error:
                errors.append(error)
        return errors

    def done(self, state: Evaluation) -> bool:
        return state.place >= len(state.images)

    def progress(self, states: Sequence[Evaluation], preview: bool) -> Progress:
        (state,) = states
        share = min(state.said.done / max(state.said.total, 1), 1.0)
        message = f"{state.place} of {len(state.images)} images"
        return Progress(state.place + 0.9 * share, len(state.images), message)

    def finish(
        self, network: Network, row: Row[EvaluateRequest], states: Sequence[Evaluation], grant: Grant
    ) -> Generator[Progress, None, Result]:
        yield from ()
        (state,) = states
        request, outputs = state.request, network.outputs
        arrays = {name: rows[:, 0].clone() if _is_single(name) else rows.clone() for name, rows in state.rows.items()}
        arrays["target"] = arrays["target"].to(torch.int64)
        randoms = {method: random_of(method) for method in request.methods}
        facts = {
            "layer": request.layer,
            "output": outputs.facts(),
            "measured": "value" if outputs.link == "value" else "probability",
            "images": len(state.images),
            "methods": [judged(method, randoms[method], state.rows, request, network) for method in request.methods],
            "notes": notes_of(request, state.rows),
        }
        return Outcome(arrays, facts)

    def save(self, states: Sequence[Evaluation]) -> dict[str, Tensor]:
        (state,) = states
        saved = {"place": torch.tensor(state.place), "images": torch.tensor(len(state.images))}
        return saved | {f"rows.{name}": rows.clone() for name, rows in state.rows.items()}

    def load(
        self, network: Network, row: Row[EvaluateRequest], saved: Mapping[str, Tensor], grant: Grant
    ) -> list[Evaluation]:
        state = _trial(row)
        if int(saved["images"]) != len(state.images):
            raise ValueError(f"the checkpoint is of {int(saved['images'])} images, not {len(state.images)}")
        state.place = int(saved["place"])
        state.rows = {name[5:]: rows.clone() for name, rows in saved.items() if name.startswith("rows.")}
        return [state]


def _trial(row: Row[EvaluateRequest]) -> Evaluation:
    row, mask = without_mask(row)
    boxes = row.request.boxes
    if boxes is not None and len(boxes) != len(row.images):
        raise MethodError(
            "invalid-request", f"{len(boxes)} boxes for {len(row.images)} images: one box an image is needed (/boxes)."
        )
    return Evaluation(row.request, row.images, mask)


_LONG = frozenset({"deletion", "insertion", "road-morf", "road-lerf", "cascading", "independent"})


def _is_single(name: str) -> bool:
    kind = name.partition("/")[0]
    return kind.removesuffix("-absolute").removesuffix("-ssim") not in _LONG


METHOD = Evaluate()
