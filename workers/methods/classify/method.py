"""classify: the network's own answer, for all images of all rows in one batch."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workers.contract import Grant, Method, MethodError, Network, OneShotMethod, Outcome, Progress, Result, Row
from workers.geometry import Transform
from workers.methods.classify.judging import judged
from workers.passes.batches import gather, module_for, preprocess_key, slices
from workers.passes.class_targets import NO_CLASS, claimed, inside_region, mask_in_input, read_region, without_mask
from workers.passes.scores import logits_of, probabilities
from workers.passes.sweep import ImageSweep, joined_arrays, joined_lists

if TYPE_CHECKING:
    from convscope.protocol.operations.classify import ClassifyRequest


@dataclass(frozen=True)
class _Answer:
    """What one image was answered: of each class a logit, a probability, and its share of a map's pixels.

    Attributes:
        order: classes, strongest first.
        class_map: h×w int32, of a network that answers in maps.
    """

    logits: Tensor
    probabilities: Tensor | None
    order: Tensor
    shares: Tensor | None = None
    class_map: Tensor | None = None


class Classify(OneShotMethod["ClassifyRequest"]):
    """The strongest classes of each image; of a network that answers in maps, the class of each pixel.

    Probabilities are the softmax of the logits, or the sigmoid of each, as the network's outputs are, in float64; where
    the network itself ends in one of them, its own output up to rounding. Numbers that are no logits have none. Classes
    with equal logits come by lower index.

    Of maps, logits and probabilities are means over the region's pixels, and classes come by their share of them.

    Result: arrays `logits` (or `values`, N×classes, float32), of maps `class_map` (N×h×w, int32, −1 for no class) and
    `shares` (N×classes, float32); facts `predictions`, for each image the `top` strongest classes, and `transforms`.
    """

    def group_key(self, request: ClassifyRequest) -> Hashable:
        """Rows with the same input size and precision share a batch."""
        return preprocess_key(request)

    def run(
        self, network: Network, rows: Sequence[Row[ClassifyRequest]], grant: Grant
    ) -> Generator[Progress, None, list[Result]]:
        """Compute all rows; a row whose logits are not finite gets `numerical-error`."""
        given = [without_mask(row) for row in rows]
        batch = gather(network, [row for row, _ in given])
        owners = [(row, place) for row in range(len(rows)) for place, _ in enumerate(batch.of(row))]
        errors: list[MethodError | None] = list(batch.errors)
        found: list[list[_Answer]] = [[] for _ in rows]
        module, done = module_for(network, rows[0].request), 0
        for part in slices(network, batch.inputs, rows[0].request, grant):
            try:
                with torch.no_grad():
                    logits = logits_of(module, part, network.outputs)
            except MethodError as error:
                return [errors[row] or error for row in range(len(rows))]
            for own, (row, place) in zip(logits, owners[done : done + len(part)], strict=True):
                if errors[row] is None:
                    try:
                        where, mask = batch.placed(row)[place], given[row][1]
                        found[row].append(_look(network, rows[row].request, own, where, mask))
                    except MethodError as error:
                        errors[row] = error
            done += len(part)
            if done < len(batch.inputs):
                yield Progress(done, len(batch.inputs), "images")
        return [
            errors[row] or _result(network, rows[row], found[row], batch.transforms_of(row)) for row in range(len(rows))
        ]

    def of_set(self) -> Method:
        """Part by part, saved in between."""
        return ImageSweep(self, _joined, _with_judgement)


def _result(
    network: Network, row: Row[ClassifyRequest], answers: Sequence[_Answer], transforms: list[dict[str, Any]]
) -> Result:
    """A row's result; of a part of one, what is found from all images is not there yet."""
    outcome = _outcome(network, row.request, answers, transforms)
    return _with_judgement(network, row, outcome) if row.whole else outcome


def _with_judgement(network: Network, row: Row[ClassifyRequest], outcome: Outcome) -> Result:
    """The outcome with how often it is right, where the request says what is."""
    truth: list[int] | None = getattr(row.request, "truth", None)  # classes as indices, once resolved
    if truth is None:
        return outcome
    numbers = outcome.arrays["values" if network.outputs.link == "value" else "logits"]
    if len(truth) != len(numbers):
        return MethodError("invalid-request", f"truth has {len(truth)} classes for {len(numbers)} images")
    try:
        confusion, told = judged(network.outputs, numbers, truth, network.classes)
    except MethodError as error:
        return error
    return Outcome({**outcome.arrays, "confusion": confusion}, {**outcome.facts, "judgement": told})


def _joined(parts: Sequence[Outcome]) -> Outcome:
    """Outcomes of consecutive images as one."""
    facts = [part.facts for part in parts]
    joined = {**facts[0], **joined_lists(facts, ("predictions", "transforms"))}
    if any("classes_shown" in one for one in facts):
        shown = {index: name for one in facts for index, name in one["classes_shown"].items()}
        joined["classes_shown"] = {index: shown[index] for index in sorted(shown, key=int)}
    return Outcome(joined_arrays(parts), joined)


def _look(network: Network, request: ClassifyRequest, logits: Tensor, where: Transform, mask: Tensor | None) -> _Answer:
    """One image's answer, from its logits: classes, or classes×h×w.

    Raises:
        MethodError: `numerical-error`, `not-applicable`.
    """
    outputs = network.outputs
    if not bool(logits.isfinite().all()):
        raise MethodError("numerical-error", f"the logits of {network.id} are not finite on this image")
    chances = probabilities(outputs, logits[None])
    if logits.dim() == 1:
        order = logits.sort(descending=True, stable=True).indices
        return _Answer(logits.cpu(), None if chances is None else chances[0].cpu(), order.cpu())
    pixels = claimed(outputs, logits[None])[0]
    region, size = read_region(getattr(request, "region", None)), where.input_size
    white = None if mask is None else mask_in_input(mask, where)
    inside = inside_region(outputs, region, logits, None, size, white)
    if not bool(inside.any()):
        raise MethodError("not-applicable", "no pixel of the network's answer lies in the region")
    weights = inside.double() / inside.sum()
    shares = (pixels * weights).sum(dim=(1, 2))
    mean = (logits * weights).sum(dim=(1, 2)).float()
    chance = None if chances is None else (chances[0] * weights).sum(dim=(1, 2)).cpu()
    # Of equal shares, mostly none, the larger mean logit tells which is nearer.
    order = mean.sort(descending=True, stable=True).indices
    order = order[shares[order].sort(descending=True, stable=True).indices]
    best = logits.argmax(dim=0).to(torch.int32)
    shown = torch.where(pixels.any(dim=0), best, NO_CLASS)
    return _Answer(mean.cpu(), chance, order.cpu(), shares.cpu(), shown.to(torch.int32).cpu())


def _outcome(
    network: Network, request: ClassifyRequest, answers: Sequence[_Answer], transforms: list[dict[str, Any]]
) -> Outcome:
    outputs = network.outputs
    numbers = torch.stack([one.logits for one in answers])
    arrays = {"values" if outputs.link == "value" else "logits": numbers}
    facts: dict[str, Any] = {
        "predictions": [[_told(network, one, int(index)) for index in one.order[: request.top]] for one in answers],
        "transforms": transforms,
        "output": outputs.facts(),
        "notes": _notes(network),
    }
    maps = [one.class_map for one in answers if one.class_map is not None]
    if maps:
        arrays["class_map"] = torch.stack(maps)
        arrays["shares"] = torch.stack([one.shares for one in answers if one.shares is not None]).float()
        there = sorted({int(index) for one in maps for index in one.flatten().tolist()})
        facts["region"] = getattr(request, "region", None)
        facts["classes_shown"] = {str(index): _name(network, index) for index in there}
    return Outcome(arrays, facts)


def _told(network: Network, one: _Answer, index: int) -> dict[str, Any]:
    number = float(one.logits[index])
    outputs = network.outputs
    plain = outputs.link == "value"
    return {
        "index": index,
        "name": _name(network, index),
        "probability": None if one.probabilities is None else float(one.probabilities[index]),
        # Of a network that nobody declared anything of, it may be either.
        "logit": None if plain and outputs.known == "declared" else number,
        "value": number if plain else None,
        "share": None if one.shares is None else float(one.shares[index]),
    }


def _name(network: Network, index: int) -> str:
    if index == NO_CLASS:
        return "none"
    return network.classes[index] if index < len(network.classes) else str(index)


def _notes(network: Network) -> list[str]:
    outputs = network.outputs
    if outputs.link != "value" or outputs.known == "declared":
        return []
    return [
        "What the network's numbers mean is neither declared nor seen from how it ends, so no probability is told: "
        'outputs = "sigmoid", "softmax" or "value" in the catalogue declares it'
    ]


METHOD = Classify()
