"""cam's methods by their names: functions of a pass and its targets to maps.

Those of `SHARED` are formulas over the common pass: a target an image, one backward for all of them. Those of `APART`
run further passes over one image and serve all its targets from them. Sources stand beside each formula in maps.py,
masks.py and fullgrad.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.contract import MethodError
from workers.methods.cam import maps
from workers.methods.cam.fullgrad import FullGradient, fullgrad_map
from workers.methods.cam.masks import ablation_weights, linear_ablation_weights, score_weights
from workers.methods.cam.passes import Aimed, Subject, forward
from workers.passes.class_targets import ClassTarget
from workers.passes.rules import RuleMode
from workers.passes.scores import logits_of


@dataclass(frozen=True)
class Map:
    """One target's map of one image: h×w, or 3×H×W where it is of the input's pixels.

    Attributes:
        forwards: passes beside the common one.
        completeness_gap: how much of the logit the terms of fullgrad miss.
    """

    values: Tensor
    forwards: int = 0
    completeness_gap: float | None = None


Shared = Callable[[Aimed], Tensor]
"""A map of each image, N×h×w."""
Apart = Callable[[Subject, Sequence[ClassTarget]], Generator[float, None, list[Map]]]
"""A map for each target of one image; yields the share done, between slices."""


def _of_gradient(formula: Callable[[Tensor, Tensor], Tensor]) -> Shared:
    return lambda aimed: formula(aimed.activation, aimed.gradient)


def _linear_ablationcam(aimed: Aimed) -> Tensor:
    weights = linear_ablation_weights(aimed.activation, aimed.gradient, aimed.scores)
    return maps.weighted(aimed.activation, weights)


def _scorecam(subject: Subject, targets: Sequence[ClassTarget]) -> Generator[float, None, list[Map]]:
    one = subject.one
    weights = yield from subject.pace.timed(
        score_weights(subject.repeated, one.inputs, one.activation, targets, subject.outputs, subject.rows)
    )
    return _weighted(one.activation, weights)


def _ablationcam(subject: Subject, targets: Sequence[ClassTarget]) -> Generator[float, None, list[Map]]:
    one = subject.one
    scores = [float(target.value(one.logits[0])) for target in targets]
    weights = yield from subject.pace.timed(
        ablation_weights(
            subject.module,
            one.inputs,
            subject.layer,
            one.activation,
            targets,
            scores,
            subject.outputs,
            subject.rows_above,
        )
    )
    return _weighted(one.activation, weights)


def _weighted(activation: Tensor, weights: Tensor) -> list[Map]:
    """A map for each row of weights, T×C, each channel of which took a forward."""
    return [Map(maps.weighted(activation, row[None])[0], forwards=activation.shape[1]) for row in weights]


def _fullgrad(subject: Subject, targets: Sequence[ClassTarget]) -> Generator[float, None, list[Map]]:
    inputs = subject.one.inputs
    graph = FullGradient(subject.module, inputs, subject.outputs)
    found = []
    for target in targets:
        terms = graph.of([target])
        gap = float(terms.gap()[0] / terms.logit[0]) if float(terms.logit[0]) != 0 else 0.0
        whole = fullgrad_map(terms, (inputs.shape[2], inputs.shape[3]))[0]
        found.append(Map(whole, forwards=1, completeness_gap=gap))
        yield 1.0
    return found


def _guided_gradcam(subject: Subject, targets: Sequence[ClassTarget]) -> Generator[float, None, list[Map]]:
    """Guided backpropagation times the upsampled Grad-CAM (Selvaraju 2017, section 3.2), 3×H×W."""
    mode = RuleMode("guided", nonstandard_gate=subject.nonstandard_gate)
    inputs = subject.one.inputs.detach().requires_grad_()
    with torch.enable_grad(), mode:
        logits = logits_of(subject.module, inputs, subject.outputs)
    report = mode.report(logits)
    if not report.rectifications or report.nonstandard or report.escaped:
        raise MethodError(
            "not-applicable",
            f"guided-gradcam found {sum(report.rectifications.values())} rectifications to guide and "
            f"{sum(report.nonstandard.values()) + sum(report.escaped.values())} it cannot; use gradcam",
        )
    plain = forward(subject.module, subject.one.inputs, subject.layer, subject.outputs)
    found = []
    for target in targets:
        guided = torch.autograd.grad(target.value(logits[0]), inputs, retain_graph=True)[0]
        aimed = plain.aimed([target])
        raw = maps.gradcam(aimed.activation, aimed.gradient).relu()
        full = F.interpolate(raw[None], size=inputs.shape[2:], mode="bilinear", align_corners=False)
        found.append(Map((guided * full)[0], forwards=1))
        yield 1.0
    return found


SHARED: Mapping[str, Shared] = {
    "cam": _of_gradient(maps.cam),
    "gradcam": _of_gradient(maps.gradcam),
    "gradcam++": _of_gradient(maps.gradcam_plus_plus),
    "hirescam": _of_gradient(maps.hirescam),
    "elementwise": _of_gradient(maps.elementwise),
    "xgradcam": _of_gradient(maps.xgradcam),
    "layercam": _of_gradient(maps.layercam),
    "eigencam": _of_gradient(maps.eigencam),
    "eigengradcam": _of_gradient(maps.eigengradcam),
}
SHARED_WHERE_LINEAR: Mapping[str, Shared] = {**SHARED, "ablationcam": _linear_ablationcam}
"""Where the logits are linear in the layer."""

APART: Mapping[str, Apart] = {
    "scorecam": _scorecam,
    "ablationcam": _ablationcam,
    "fullgrad": _fullgrad,
    "guided-gradcam": _guided_gradcam,
}
