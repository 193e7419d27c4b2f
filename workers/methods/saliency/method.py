"""saliency: how each input value contributes to a target, in six methods."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workers.contract import Grant, Method, MethodError, Network, OneShotMethod, Outcome, Progress, Result, Row, T
from workers.geometry import Transform
from workers.methods.saliency.points import Item, Point, at_image, count_points, input_at, points_of
from workers.methods.saliency.targets import Target, Unit, read_target, scores
from workers.passes.batches import module_for, one_by_one, relative_size, repeated_module_for, slices
from workers.passes.class_targets import Chooser, ClassTarget, mask_in_input, read_region, without_mask
from workers.passes.fills import fill_of
from workers.passes.pace import Pace
from workers.passes.rules import RuleMode
from workers.passes.scores import logits_of
from workers.passes.sweep import ImageSweep, joined_arrays, joined_lists

if TYPE_CHECKING:
    from convscope.protocol.operations.saliency import SaliencyRequest

_REPEATED = frozenset({"smoothgrad", "vargrad", "integrated-gradients"})
"""Methods that differentiate at many points for one attribution."""


class Saliency(OneShotMethod["SaliencyRequest"]):
    """Attributions N×C×H×W, signed, for as many planes as the network takes, of a class's logit or of a unit.

    With f the target's value and x the normalised input:
        gradient              ∂f/∂x                                            Simonyan 2013, section 3
        gradient-x-input      x · ∂f/∂x
        guided                the gradient under the guided rule               Springenberg 2014, section 3.4
        smoothgrad            mean over samples of ∂f/∂x at x + noise          Smilkov 2017
        vargrad               variance over samples of the same                Adebayo 2018
        integrated-gradients  (x − x′) · mean of ∂f/∂x on the line from x′     Sundararajan 2017, equation 1

    Noise is Gaussian with the standard deviation noise · (max x − min x); sample k of an image depends on the seed, the
    image's place in its request and k alone. The line integral is a Gauss–Legendre sum; while it misses f(x) − f(x′) by
    more than `tolerance` of it, it is taken again with twice the steps, up to `max_steps`. Where we differ from
    Simonyan 2013: signed values for each colour, not their largest magnitude.
    """

    def group_key(self, request: SaliencyRequest) -> Hashable:
        """Rows whose points may stand in one batch: equal input size, rule, module and stopping layer."""
        layer = getattr(request.target, "layer", None)
        size = repr(request.preprocess)
        rule = request.method == "guided" and ("guided", request.nonstandard_gate)
        return (rule, request.method in _REPEATED, layer, size)

    def run(
        self, network: Network, rows: Sequence[Row[SaliencyRequest]], grant: Grant
    ) -> Generator[Progress, None, list[Result]]:
        """See the class.

        Row: images; request `method`, `target`, `samples`, `noise`, `steps`, `max_steps`, `tolerance`, `baseline`.

        Arrays: attribution, N×C×H×W float32, signed, in pixels of the network's input.
        """
        request = rows[0].request
        choose = repeated_module_for if request.method in _REPEATED else module_for
        work = _Work(network, choose(network, request), one_by_one(network, request), grant)
        results: list[Result | None] = [None] * len(rows)
        items: list[Item] = []
        for number, row in enumerate(rows):
            try:
                items.extend((yield from work.prepare(number, row)))
            except MethodError as error:
                results[number] = error
        yield from work.integrate(items)
        for number, row in enumerate(rows):
            if results[number] is None:
                results[number] = _finish(row, [item for item in items if item.row == number], network)
        return [result for result in results if result is not None]

    def of_set(self) -> Method:
        """Part by part, saved in between."""
        return ImageSweep(self, _joined)


def _joined(parts: Sequence[Outcome]) -> Outcome:
    """Outcomes of consecutive images as one."""
    facts = [part.facts for part in parts]
    return Outcome(joined_arrays(parts), {**facts[0], **joined_lists(facts, ("images",))})


class _Work:
    """The points of all items, differentiated tile by tile on one network.

    Args:
        network: whose points they are.
        module: its module for the precision.
        apart: whether a tile has points of one image only.
        grant: what the engine grants.
    """

    def __init__(self, network: Network, module: nn.Module, apart: bool, grant: Grant) -> None:
        self._network = network
        self._module = module
        self._apart = apart
        self._grant = grant
        self._tile = 1

    def prepare(self, number: int, row: Row[SaliencyRequest]) -> Generator[Progress, None, list[Item]]:
        """The row's images with their targets and baselines."""
        row, mask = without_mask(row)
        request = row.request
        inputs, transforms = self._network.prepare(row.images, request.preprocess)
        # Few on a CPU, where more points in one forward and backward only cost memory traffic.
        wish = 4 if self._network.device.type == "cpu" else 32
        scale = relative_size(self._network, inputs)
        self._tile = Pace.by_memory(self._network, self._grant, wish=wish, bytes_a_number=8, scale=scale).rows()
        targets = yield from self._targets(request, inputs, transforms, mask)
        items = []
        for index, transform in enumerate(transforms):
            x = inputs[index : index + 1]
            item = Item(number, request, row.first + index, x, transform, targets[index])
            # The variance is a small difference of large sums.
            exact = torch.float64 if request.method == "vargrad" and x.device.type != "mps" else torch.float32
            item.total, item.squares = torch.zeros_like(x, dtype=exact), torch.zeros_like(x, dtype=exact)
            if request.method == "integrated-gradients":
                item.baseline = fill_of(request.baseline, x, self._network, request.preprocess)
                item.steps = min(request.steps, request.max_steps)
            items.append(item)
        return items

    def _targets(
        self, request: SaliencyRequest, inputs: Tensor, transforms: Sequence[Transform], mask: Tensor | None
    ) -> Generator[Progress, None, list[Target]]:
        """Each image's target; what is predicted, and where, is found by a forward pass."""
        outputs, wish = self._network.outputs, read_target(request.target)
        if isinstance(wish, Unit):
            unit = Unit(self._network.layers[wish.layer].name, wish.channel, wish.y, wish.x)
            return [unit] * len(inputs)
        region = read_region(getattr(request, "region", None))
        if isinstance(wish, int) and outputs.form == "scores" and wish < outputs.count:
            return [ClassTarget(wish)] * len(inputs)
        targets: list[Target] = []
        for part in slices(self._network, inputs, request, self._grant):
            with torch.no_grad():
                logits = logits_of(self._module, part, outputs)
            for own in logits:
                where = transforms[len(targets)]
                white = None if mask is None else mask_in_input(mask, where)
                targets += Chooser(outputs, region, where.input_size, white).targets([wish], own)
            if len(targets) < len(inputs):
                yield Progress(0, 1, "predicting")
        return targets

    def integrate(self, items: list[Item]) -> Generator[Progress, None, None]:
        """Differentiate at every point, then again with more steps where an integral is not complete."""
        for chosen in _chunks([item for item in items if not at_image(item)], 1 if self._apart else self._tile):
            for item, value in zip(chosen, self._scores([item.x for item in chosen], chosen), strict=True):
                item.value = value
            yield Progress(0, 1, "forward passes")
        integrals = [item for item in items if item.baseline is not None]
        for chosen in _chunks(integrals, 1 if self._apart else self._tile):
            starts = [item.baseline for item in chosen if item.baseline is not None]
            for item, value in zip(chosen, self._scores(starts, chosen), strict=True):
                item.baseline_value = value
            yield Progress(0, 1, "forward passes")
        todo, done = items, 0.0
        while todo:
            total = done + sum(count_points(item) for item in todo)
            for tile in self._tiles(todo):
                self._differentiate(tile)
                done += len(tile)
                yield Progress(done, total, f"{done:.0f} of {total:.0f} gradients")
            todo = [item for item in integrals if _incomplete(item)]
            for item in todo:
                item.steps = min(2 * item.steps, item.request.max_steps)
                item.total = torch.zeros_like(item.total)

    def _tiles(self, items: Sequence[Item]) -> Iterator[list[Point]]:
        """Every point of every item, in tiles."""
        for some in [[item] for item in items] if self._apart else [items]:
            yield from _chunks(points_of(some), self._tile)

    @torch.no_grad()
    def _scores(self, inputs: list[Tensor], items: list[Item]) -> list[float]:
        """The items' targets at some inputs."""
        values, source = scores(self._module, torch.cat(inputs), [item.target for item in items], self._network.outputs)
        found: list[float] = values.tolist()
        for number, item in enumerate(items):
            if inputs[number] is item.x:
                item.probability = self._probability(item, source[number])
        return found

    def _probability(self, item: Item, logits: Tensor) -> float | None:
        """The probability of an item's class, from the logits of its image."""
        target = item.target
        return target.probability(self._network.outputs, logits.detach()) if isinstance(target, ClassTarget) else None

    def _differentiate(self, tile: list[Point]) -> None:
        """One forward and backward of a tile of points, added to their items' sums."""
        request = tile[0].item.request
        rule = "guided" if request.method == "guided" else "gradient"
        inputs = torch.cat([input_at(point) for point in tile])
        # Channels last is the quicker layout of float32 convolutions, backward above all, and changes no number's kind.
        inputs = inputs.contiguous(memory_format=torch.channels_last).requires_grad_(True)
        mode = RuleMode(rule, nonstandard_gate=request.nonstandard_gate)
        with torch.enable_grad():
            with mode if rule == "guided" else nullcontext():
                targets = [point.item.target for point in tile]
                values, source = scores(self._module, inputs, targets, self._network.outputs)
            if rule == "guided":
                report = mode.report(source)
                for point in tile:
                    point.item.report = report
            with mode.from_unit(source):
                (gradients,) = torch.autograd.grad(values.sum(), inputs)
        found = zip(tile, gradients.float(), values.tolist(), source, strict=True)
        for point, gradient, value, own in found:
            point.item.total += point.weight * gradient
            if point.item.request.method == "vargrad":
                point.item.squares += point.weight * gradient.to(point.item.squares.dtype) ** 2
            if at_image(point.item):
                point.item.value = value
                point.item.probability = self._probability(point.item, own)


def _chunks(points: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(points)
    while chunk := list(islice(source, size)):
        yield chunk


def _gap(item: Item) -> tuple[float, float | None]:
    """Sum of the attribution less f(x) − f(x′): absolute, and relative where that difference is not just rounding."""
    difference = item.value - item.baseline_value
    found = float(_attribution(item).double().sum())
    size = max(abs(item.value), abs(item.baseline_value), 1e-30)
    return abs(found - difference), abs(found - difference) / abs(difference) if abs(difference) > 1e-5 * size else None


def _incomplete(item: Item) -> bool:
    relative = _gap(item)[1]
    return relative is not None and relative > item.request.tolerance and item.steps < item.request.max_steps


def _attribution(item: Item) -> Tensor:
    """The item's attribution from its sums, 1×C×H×W."""
    if item.baseline is not None:
        return (item.x - item.baseline) * item.total
    if item.request.method == "gradient-x-input":
        return item.x * item.total
    if item.request.method == "vargrad":
        return (item.squares - item.total**2).clamp(min=0).float()
    return item.total


def _finish(row: Row[SaliencyRequest], items: list[Item], network: Network) -> Result:
    attribution = torch.cat([_attribution(item) for item in items])
    if not bool(attribution.isfinite().all()):
        return MethodError("numerical-error", "the attribution left the finite numbers")
    refusal = next((reason for item in items if (reason := _refusal(item)) is not None), None)
    if refusal is not None:
        return refusal
    outcome = Outcome({"attribution": attribution.contiguous().cpu()})
    of_class = all(isinstance(item.target, ClassTarget) for item in items)
    outcome.facts = {
        "method": row.request.method,
        "output": network.outputs.facts() if of_class else None,
        "region": getattr(row.request, "region", None),
        "images": [_facts(item, network.classes) for item in items],
    }
    return outcome


def _refusal(item: Item) -> MethodError | None:
    """Why the guided rule cannot be used, if it cannot."""
    report = item.report
    if report is None:
        return None
    if report.nonstandard:
        kinds = ", ".join(sorted(report.nonstandard))
        return MethodError(
            "not-applicable",
            f"the guided rule is not defined for {kinds}; nonstandard_gate=true treats them as ReLUs on the way back",
        )
    if report.escaped or not report.rectifications:
        return MethodError(
            "not-applicable",
            f"{', '.join(report.escaped) or 'no rectification'} could be given the guided rule, which would then be "
            "the plain gradient; method=gradient gives that",
        )
    return None


def _facts(item: Item, classes: Sequence[str]) -> dict[str, Any]:
    target = item.target
    own = target if isinstance(target, ClassTarget) else None
    facts: dict[str, Any] = {
        "target": vars(target) if own is None else own.index,
        "other_side": own is not None and own.other,
        "target_name": None if own is None else own.name(classes),
        "logit": item.value,
        "probability": item.probability,
        "region_pixels": None if own is None else own.pixels,
        "minimum": float(_attribution(item).min()),
        "maximum": float(_attribution(item).max()),
        "transform": item.transform.facts(),
        "rectifications": None if item.report is None else sum(item.report.rectifications.values()),
        "completeness": None,
    }
    if item.baseline is not None:
        absolute, relative = _gap(item)
        facts["completeness"] = {
            "gap": relative,
            "gap_absolute": absolute,
            "difference": item.value - item.baseline_value,
            "baseline": item.request.baseline,
            "baseline_logit": item.baseline_value,
            "steps": item.steps,
            "within_tolerance": not (relative is not None and relative > item.request.tolerance),
        }
    return facts


METHOD = Saliency()
