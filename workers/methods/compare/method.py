"""compare: what is different between two networks on the same images.

A job is one state: it goes through the images batch by batch and keeps a row of numbers for each image, HSICs for each
batch, and the range of each channel. It is saved between two batches; a batch that was begun is begun again.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.contract import Grant, IterativeMethod, MethodError, Network, Outcome, Progress, Result, Row, resolved
from workers.methods.compare.alignment import align, batch_edges, hsics
from workers.methods.compare.explaining import Explained, agreement, explain
from workers.methods.compare.figures import COLUMNS, facts_of, shown_images
from workers.methods.compare.looking import Seen, Side, joined_ranges
from workers.passes.pace import SliceClock

if TYPE_CHECKING:
    from convscope.protocol.operations.compare import CompareRequest

_PREDICTED = "predicted"


@dataclass
class Trial:
    """A job's way through its images.

    Attributes:
        rows: N×columns float64 (`figures.COLUMNS`), the numbers of the images so far.
        hsics: of each batch so far, L×3.
        ranges: by network (0, 1) and layer, C×2.
        batch: the next one.
        work: of the batch that is under way.
    """

    request: CompareRequest
    images: Sequence[Tensor]
    edges: list[int]
    rows: Tensor
    hsics: list[Tensor] = field(default_factory=list)
    ranges: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    batch: int = 0
    work: Generator[Progress, None, None] | None = field(default=None, repr=False)
    said: Progress = field(default_factory=lambda: Progress(0, 1))

    @property
    def batches(self) -> int:
        """How many there are."""
        return len(self.edges) - 1

    def advance(self, network: Network, grant: Grant) -> None:
        """Work for a slice.

        Raises:
            MethodError: an image has no answer or no map.
        """
        clock = SliceClock(grant)
        try:
            while self.batch < self.batches:
                if self.work is None:
                    self.work = self._look([network, other_of(self.request, grant)], grant)
                try:
                    self.said = next(self.work)
                except StopIteration:
                    self.work, self.said = None, Progress(0, 1)
                    self.batch += 1
                if clock.over():
                    return
        except BaseException:
            self.work = None  # the batch is begun again, should this be tried again
            raise

    def _look(self, networks: Sequence[Network], grant: Grant) -> Generator[Progress, None, None]:
        """A whole batch; what it found is kept at its end, all at once."""
        request, begin = self.request, self.edges[self.batch]
        images = self.images[begin : self.edges[self.batch + 1]]
        layers = (resolved(request.layers), resolved(request.other_layers))
        seen: list[Seen] = []
        for place, network in enumerate(networks):
            work = Side(network, request, layers[place], resolved(request.channel_layers)).look(images, grant)
            while True:
                try:
                    share = next(work)
                except StopIteration as stop:
                    seen.append(stop.value)
                    break
                yield Progress(0.3 * (place + share), 1, "forward passes")
        targets = targets_of(request, seen[0].confidences.argmax(dim=1))
        explained: list[Explained] = yield from explain(networks, request, images, targets, grant)
        rows = [numbers_of(seen, k, one) for k, one in enumerate(explained)]
        self.rows[begin : begin + len(rows)] = torch.tensor(rows, dtype=torch.float64)
        if seen[0].grams and seen[1].grams:
            self.hsics.append(hsics(seen[0].grams, seen[1].grams))
        for place, one in enumerate(seen):
            for layer, ranges in one.ranges.items():
                self.ranges[place, layer] = joined_ranges(self.ranges.get((place, layer)), ranges)


def other_of(request: CompareRequest, grant: Grant) -> Network:
    """The second network of a request."""
    return grant.networks[request.other_model]


def targets_of(request: CompareRequest, predicted: Tensor) -> list[int | str]:
    """Whose evidence is compared, an image each: the class asked for, or what the first network predicts."""
    if request.target == _PREDICTED:
        return [int(one) for one in predicted]
    return [request.target] * len(predicted)


def numbers_of(seen: Sequence[Seen], k: int, explained: Explained) -> list[float]:
    """One image's row, in the order of `figures.COLUMNS`."""
    ours, theirs = (one.confidences[k] for one in seen)
    tops = int(ours.argmax()), int(theirs.argmax())
    furthest = float((seen[0].logits[k].double() - seen[1].logits[k].double()).abs().max())
    correlation, moved = agreement(*explained.on_one_grid())
    return [*map(float, tops), float(ours[tops[0]]), float(theirs[tops[1]]), furthest, correlation, moved]


class Compare(IterativeMethod["CompareRequest", Trial]):
    """The `compare` operation.

    Row: the images of a set, or some images; request `other_model`, `layers`, `other_layers`, `features`,
    `batch_images`, `intervals`, `channel_layers`, `method`, `cam_layer`, `other_cam_layer`, `target`, `truth`,
    `shown`, `preprocess`, `seed`.

    Arrays, of N images, L pairs of layers and K images shown:
        prediction/model, prediction/other: N int64; confidence/model, confidence/other: N float32, of the prediction.
        logits_difference, rank_correlation, mass_moved: N float32.
        cka: L float32; cka_interval: L×2 float32; cka_resamples: R×L float32.
        channels/{layer}: 2×C×2 float32: of both networks, each channel's lowest and highest value.
        maps/model, maps/other: K×h×w float32.
    """

    def models(self, request: CompareRequest) -> Sequence[str]:
        return [request.other_model]

    def group_key(self, network: Network, request: CompareRequest) -> Hashable:
        return repr(request)

    def start(self, network: Network, row: Row[CompareRequest], grant: Grant) -> Generator[Progress, None, list[Trial]]:
        yield from ()
        return [_trial(row)]

    def step(self, network: Network, states: Sequence[Trial], grant: Grant) -> list[MethodError | None]:
        errors: list[MethodError | None] = []
        for state in states:
            try:
                state.advance(network, grant)
                errors.append(None)
            except MethodError as error:
                errors.append(error)
        return errors

    def done(self, state: Trial) -> bool:
        return state.batch >= state.batches

    def progress(self, states: Sequence[Trial], preview: bool) -> Progress:
        (state,) = states
        at = state.edges[min(state.batch, state.batches)]
        share = 0.0
        if state.batch < state.batches:
            share = min(state.said.done / max(state.said.total, 1), 0.9) * (state.edges[state.batch + 1] - at)
        return Progress(at + share, len(state.images), f"{at} of {len(state.images)} images")

    def finish(
        self, network: Network, row: Row[CompareRequest], states: Sequence[Trial], grant: Grant
    ) -> Generator[Progress, None, Result]:
        (state,) = states
        request, networks = state.request, (network, other_of(state.request, grant))
        shown = shown_images(state.rows, request.shown)
        targets = targets_of(request, state.rows[:, COLUMNS.index("prediction/model")])
        explained = []
        for done, one in enumerate(shown):
            yield Progress(done, len(shown), "images that moved most")
            place = one["image"]
            explained += yield from explain(networks, request, [state.images[place]], [targets[place]], grant)
        aligned = align(torch.stack(state.hsics), request.intervals, request.seed) if state.hsics else None
        arrays = {name: _column(state.rows, name) for name in COLUMNS}
        if aligned is not None:
            arrays["cka"], arrays["cka_resamples"] = aligned.cka.float(), aligned.resamples.float()
            if aligned.low is not None and aligned.high is not None:
                arrays["cka_interval"] = torch.stack([aligned.low, aligned.high], dim=1).float()
        for layer in resolved(request.channel_layers):
            arrays[f"channels/{layer}"] = torch.stack([state.ranges[place, layer] for place in (0, 1)])
        for place, name in enumerate(("model", "other") if explained else ()):
            arrays[f"maps/{name}"] = torch.stack([one.maps[place] for one in explained])
        for one, maps in zip(shown, explained, strict=True):
            one["transforms"] = list(maps.transforms)
        facts = facts_of(networks, request, state.rows, aligned, len(state.hsics), state.ranges, shown, targets)
        return Outcome(arrays, facts)

    def save(self, states: Sequence[Trial]) -> dict[str, Tensor]:
        (state,) = states
        saved = {"batch": torch.tensor(state.batch), "rows": state.rows.clone()}
        if state.hsics:
            saved["hsics"] = torch.stack(state.hsics)
        return saved | {f"ranges.{place}.{layer}": one.clone() for (place, layer), one in state.ranges.items()}

    def load(
        self, network: Network, row: Row[CompareRequest], saved: Mapping[str, Tensor], grant: Grant
    ) -> list[Trial]:
        state = _trial(row)
        if saved["rows"].shape != state.rows.shape:
            raise ValueError(f"the checkpoint is of {len(saved['rows'])} images, not {len(state.images)}")
        state.batch, state.rows = int(saved["batch"]), saved["rows"].clone()
        state.hsics = list(saved["hsics"]) if "hsics" in saved else []
        for name, ranges in saved.items():
            if name.startswith("ranges."):
                _, place, layer = name.split(".", 2)
                state.ranges[int(place), layer] = ranges.clone()
        return [state]


def _trial(row: Row[CompareRequest]) -> Trial:
    count = len(row.images)
    truth = row.request.truth
    if truth is not None and len(truth) != count:
        detail = f"{len(truth)} classes for {count} images: one an image is needed (/truth)."
        raise MethodError("invalid-request", detail)
    edges = batch_edges(count, row.request.batch_images)
    return Trial(row.request, row.images, edges, torch.full((count, len(COLUMNS)), math.nan, dtype=torch.float64))


def _column(rows: Tensor, name: str) -> Tensor:
    column = rows[:, COLUMNS.index(name)]
    return column.to(torch.int64) if name.startswith("prediction/") else column.float()


METHOD = Compare()
