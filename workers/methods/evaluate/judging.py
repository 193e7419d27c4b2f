"""One image's figures: its maps, all its probes through the network in common batches, and the tests of the maps.

Sources: sensitivity Yeh 2019, definition 3.1, over the norm of the map as captum has it; pointing game Zhang 2016,
section 4.2, without a margin; mass in the box Wang 2020 (Score-CAM), section 4.4; randomisation Adebayo 2018.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.contract import Grant, MethodError, Network, Progress, resolved
from workers.geometry import Transform
from workers.methods.evaluate.explaining import Explainer, Judged
from workers.methods.evaluate.probing import Probes, draw_squares, ranks_of
from workers.methods.evaluate.randomising import RandomisedCopy, depths_of, layers_of
from workers.passes.batches import relative_size, repeated_module_for
from workers.passes.class_targets import Chooser, ClassTarget, class_wish, mask_in_input, read_region
from workers.passes.fills import fill_of
from workers.passes.map_similarity import rank_correlation, ssim
from workers.passes.pace import Pace
from workers.passes.scores import logits_of

if TYPE_CHECKING:
    from convscope.protocol.operations.evaluate import EvaluateRequest

ROWS_TOGETHER = 32
"""Probes of one forward pass at most."""
_BYTES_A_NUMBER = 4

Figures = dict[str, list[float]]
"""By name, `deletion/gradcam`, the numbers of one image; NaN for none."""
Work = Generator[Progress, None, None]


@dataclass
class Case:
    """One image under test.

    Attributes:
        x: as the network sees it, 1×C×H×W.
        place: in the set.
        where: the target's place, H×W bool, or None.
    """

    x: Tensor
    transform: Transform
    place: int
    where: Tensor | None


class Judge:
    """Judges the explanations of one image after another.

    Args:
        network: whose answers are explained.
        request: of `evaluate`, resolved.
        grant: with the methods that explain.
    """

    def __init__(self, network: Network, request: EvaluateRequest, grant: Grant) -> None:
        self._network, self._request = network, request
        self._explainer = Explainer(network, request, grant)
        self._module = repeated_module_for(network, request)
        self._grant = grant

    def judge(self, case: Case) -> Generator[Progress, None, Figures]:
        """All figures of one image.

        Raises:
            MethodError: it cannot be explained, or an answer is not finite.
        """
        metrics = set(resolved(self._request.metrics))
        target = self._target(case)
        found: Figures = {"target": [float(target.index)]}
        yield Progress(0, 1, "target")
        maps = yield from self._explainer.explain(case.x, case.transform, target.text, 0, case.place)
        maps = {name: _on(case.x, one) for name, one in maps.items()}
        yield from self._probe(case, target, maps, found)
        if "localisation" in metrics and case.where is not None:
            _locate(maps, case.where, found)
        if "sensitivity" in metrics:
            yield from self._shake(case, target, maps, found)
        if "randomisation" in metrics:
            yield from self._randomise(case, target, maps, found)
        return found

    def _target(self, case: Case) -> ClassTarget:
        outputs = self._network.outputs
        with torch.no_grad():
            logits = logits_of(self._module, case.x, outputs)
        size = (int(case.x.shape[2]), int(case.x.shape[3]))
        (target,) = Chooser(outputs, read_region(None), size).targets([class_wish(self._request.target)], logits[0])
        return target

    # Answers to changed images.

    def _probe(self, case: Case, target: ClassTarget, maps: dict[str, Judged], found: Figures) -> Work:
        request, metrics = self._request, set(resolved(self._request.metrics))
        probes = Probes(case.x)
        fills = {kind: self._fill(kind, case.x) for kind in (request.deletion_fill, request.insertion_fill)}
        for subject, explanation in maps.items():
            ranks = ranks_of(explanation.map)
            if "deletion" in metrics:
                probes.delete(subject, ranks, fills[request.deletion_fill], request.deletion_fill, request.steps)
            if "insertion" in metrics:
                probes.insert(subject, ranks, fills[request.insertion_fill], request.insertion_fill, request.steps)
            if "confidence" in metrics:
                probes.mute(subject, explanation.map)
            if "road" in metrics:
                for _ in probes.impute(subject, ranks, self._seed(case, 1)):
                    yield Progress(0, 1, "imputing")
        size = (int(case.x.shape[2]), int(case.x.shape[3]))
        squares = draw_squares(request.samples, size, self._seed(case, 2)).to(case.x.device)
        if "infidelity" in metrics:
            probes.hide(squares, fills[request.deletion_fill])
        values = yield from self._answers(case, target, probes, found)
        if "infidelity" in metrics:
            differences = values["whole"] - values["hidden"]
            taken = (case.x - fills[request.deletion_fill])[0]
            for subject, explanation in maps.items():
                plain, scaled = infidelity(explanation, squares, taken, differences)
                found[f"infidelity/{subject}"], found[f"infidelity-scaled/{subject}"] = [plain], [scaled]

    def _fill(self, kind: str, x: Tensor) -> Tensor:
        return fill_of(kind, x, self._network, self._request.preprocess)

    def _seed(self, case: Case, purpose: int) -> int:
        return ((int(self._request.seed) * 1_000_003 + case.place) * 101 + purpose) % 2**63

    def _answers(
        self, case: Case, target: ClassTarget, probes: Probes, found: Figures
    ) -> Generator[Progress, None, dict[str, Tensor]]:
        """Ask the network about all probes; the target's values for the whole image and for the hidden squares."""
        outputs, rows = self._network.outputs, self._rows(case.x)
        asked, hidden, whole = probes.all(), [], torch.zeros(())
        for start in range(0, len(asked), rows):
            chunk = asked[start : start + rows]
            with torch.no_grad():
                logits = logits_of(self._module, torch.cat([probe.make() for probe in chunk]), outputs)
                values = target.values(logits)
                scores = target.probabilities(outputs, logits)
            scores = values if scores is None else scores
            if not bool(scores.isfinite().all()):
                raise MethodError("numerical-error", f"the answer left the finite numbers at image {case.place}")
            for probe, score, value in zip(chunk, scores.tolist(), values.double().cpu(), strict=True):
                for name, column in probe.places:
                    if name == "hidden":
                        hidden.append(value)
                        continue
                    numbers = found.setdefault(name, [])
                    numbers.extend([float("nan")] * (column + 1 - len(numbers)))
                    numbers[column] = score
                    whole = value if name == "score" else whole
            yield Progress(start + len(chunk), len(asked), "forward passes")
        return {"whole": whole, "hidden": torch.stack(hidden) if hidden else torch.zeros(0)}

    def _rows(self, x: Tensor) -> int:
        """Probes of one forward pass, always as many."""
        scale = relative_size(self._network, x)
        memory = Pace.by_memory(
            self._network, self._grant, wish=ROWS_TOGETHER * scale, bytes_a_number=_BYTES_A_NUMBER, scale=scale
        )
        return min(Pace.by_cost(self._network, scale=scale, most=ROWS_TOGETHER).rows(), memory.rows())

    # Tests of the maps.

    def _shake(self, case: Case, target: ClassTarget, maps: dict[str, Judged], found: Figures) -> Work:
        """Sensitivity: how far maps move when every input value moves by at most the radius."""
        generator = torch.Generator().manual_seed(self._seed(case, 3))
        moved: dict[str, list[float]] = {subject: [] for subject in maps}
        for sample in range(self._request.samples):
            noise = (2 * torch.rand(case.x.shape, generator=generator) - 1) * self._request.radius
            near = case.x + noise.to(case.x.device)
            others = yield from self._explainer.explain(near, case.transform, target.text, 1 + sample, case.place)
            for subject, other in others.items():
                own = maps[subject].numbers
                size = float(own.norm())
                moved[subject].append(
                    float((_on(case.x, other).numbers - own).norm()) / size if size > 0 else float("nan")
                )
            yield Progress(sample, self._request.samples, "sensitivity")
        for subject, distances in moved.items():
            found[f"sensitivity-max/{subject}"] = [max(distances)]
            found[f"sensitivity-mean/{subject}"] = [sum(distances) / len(distances)]

    def _randomise(self, case: Case, target: ClassTarget, maps: dict[str, Judged], found: Figures) -> Work:
        """Adebayo's tests: layers become random from the last on, and each by itself."""
        layers = layers_of(self._network)
        depths = depths_of(layers, self._request.depths)
        cascade, single = (RandomisedCopy(self._network, int(self._request.seed)) for _ in range(2))
        reached = len(layers)
        for number, depth in enumerate(depths):
            for place in range(reached - 1, depth - 1, -1):
                cascade.randomise(place)
            reached = depth
            draw = 10_000 + 2 * number
            others = yield from self._explainer.explain(
                case.x, case.transform, target.text, draw, case.place, cascade.module
            )
            _compare("cascading", maps, others, found)
            with single.alone(depth) as module:
                others = yield from self._explainer.explain(
                    case.x, case.transform, target.text, draw + 1, case.place, module
                )
            _compare("independent", maps, others, found)
            yield Progress(number, len(depths), "randomisation")


def infidelity(explanation: Judged, squares: Tensor, taken: Tensor, differences: Tensor) -> tuple[float, float]:
    """The mean square of what the map foretells of hidden squares less what happens; as it is, and with its best scale.

    Yeh 2019, definition 2.1: E[(IᵀΦ − (f(x) − f(x − I)))²], I what a square takes away. Rates of change are multiplied
    by it; shares of the answer are summed in the square, as captum does with `multiply_by_inputs`. The second figure
    has Φ times the scale that makes it least, E[IᵀΦ·Δ]/E[(IᵀΦ)²], so that it holds for maps of any unit.

    Args:
        squares: S×H×W bool.
        taken: C×H×W, the image less the fill.
        differences: f(x) − f(x − I), S.
    """
    numbers = explanation.numbers.double()
    if explanation.local:
        numbers = numbers * taken.double()
    whole = numbers.sum(dim=0) if numbers.dim() == 3 else numbers
    foretold = (squares.double() * whole).sum(dim=(1, 2)).cpu()
    wanted = differences.double().cpu()
    square = float((foretold**2).mean())
    scale = float((foretold * wanted).mean()) / square if square > 0 else 0.0
    return float(((foretold - wanted) ** 2).mean()), float(((scale * foretold - wanted) ** 2).mean())


def _locate(maps: dict[str, Judged], where: Tensor, found: Figures) -> None:
    """Whether the largest value lies on the target, and the share of the map's positive part there."""
    found["object-area"] = [float(where.double().mean())]
    for subject, explanation in maps.items():
        positive = explanation.map.double().clamp_min(0)
        total = float(positive.sum())
        highest = int(explanation.map.flatten().argmax())
        found[f"pointing/{subject}"] = [float(where.flatten()[highest])]
        found[f"mass/{subject}"] = [float(positive[where].sum()) / total if total > 0 else float("nan")]


def _compare(test: str, maps: dict[str, Judged], others: dict[str, Judged], found: Figures) -> None:
    for subject, other in others.items():
        own, changed = maps[subject].map.cpu(), other.map.cpu()
        found.setdefault(f"{test}/{subject}", []).append(rank_correlation(own, changed))
        found.setdefault(f"{test}-absolute/{subject}", []).append(rank_correlation(own.abs(), changed.abs()))
        found.setdefault(f"{test}-ssim/{subject}", []).append(ssim(own, changed))


def place_of_target(request: EvaluateRequest, mask: Tensor | None, image: int, transform: Transform) -> Tensor | None:
    """Where the target is, in pixels of the network's input: H×W bool, or None where nothing was sent or left of it."""
    if mask is not None:
        where = mask_in_input(mask, transform)
    elif request.boxes is not None:
        where = _box_in_input(request.boxes[image], transform)
    else:
        return None
    return where if bool(where.any()) else None


def _box_in_input(box: Sequence[float], transform: Transform) -> Tensor:
    """A box of the upload: the pixels of the input whose middles lie in it."""
    inside = []
    for side in (0, 1):
        middle = (torch.arange(transform.input_size[side]) + 0.5) * transform.scale[side] + transform.offset[side]
        inside.append((middle >= box[side]) & (middle < box[side + 2]))
    return inside[0][:, None] & inside[1][None, :]


def _on(like: Tensor, explanation: Judged) -> Judged:
    return Judged(explanation.numbers.to(like.device), explanation.map.to(like.device), explanation.local)
