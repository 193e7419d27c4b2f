"""Class activation maps: the whole family, for several classes and images, from one forward pass.

Sources stand beside each formula in maps.py, masks.py and fullgrad.py. The forward runs without a graph up
to the target layer; its output becomes a leaf, so that a backward touches nothing but what lies above. All gradient
methods of a target share that one backward; Score-CAM and Ablation-CAM serve all targets from the same forwards, and
where the head is linear in the layer Ablation-CAM needs none.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.contract import (
    Grant,
    Method,
    MethodError,
    Network,
    OneShotMethod,
    Outcome,
    Outputs,
    Progress,
    Result,
    Row,
    resolved,
)
from workers.geometry import Transform
from workers.methods.cam.fullgrad import FullGradient, fullgrad_map
from workers.methods.cam.joining import joined
from workers.methods.cam.maps import GRADIENT_MAPS, affine, gradcam, weighted
from workers.methods.cam.masks import ablation_weights, linear_ablation_weights, score_weights
from workers.passes.batches import (
    gather,
    is_fast,
    module_for,
    preprocess_key,
    relative_size,
    repeated_module_for,
    slices,
)
from workers.passes.class_targets import Chooser, ClassTarget, mask_in_input, read_region, without_mask
from workers.passes.pace import Pace, most_together
from workers.passes.rules import LINEAR_NODES, RuleMode
from workers.passes.scores import answer, logits_of
from workers.passes.sweep import ImageSweep

if TYPE_CHECKING:
    from convscope.protocol.operations.cam import CamRequest

CAUTION = (
    "guided-gradcam multiplies by guided backpropagation, which recovers the image and hardly depends on the class "
    "(Nie 2018; Adebayo 2018): read edges in it as edges, not as evidence"
)


@dataclass
class _Found:
    """Maps of one row, by array name, and a facts entry for each."""

    arrays: dict[str, list[Tensor]] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class _Pass:
    """One forward of a slice of images: the layer's output as a leaf, the logits, and whether they are linear in it."""

    inputs: Tensor
    activation: Tensor
    logits: Tensor
    linear: bool

    def gradient(self, targets: Sequence[ClassTarget]) -> Tensor:
        """∂ logit of each image's target / ∂ activation."""
        return torch.autograd.grad(self.scores(targets).sum(), self.activation, retain_graph=True)[0]

    def scores(self, targets: Sequence[ClassTarget]) -> Tensor:
        """The logit of each image's target, N."""
        return torch.stack([target.value(own) for target, own in zip(targets, self.logits, strict=True)])


class Cam(OneShotMethod["CamRequest"]):
    """The `cam` operation."""

    def group_key(self, request: CamRequest) -> Hashable | None:
        return request.layer, preprocess_key(request)

    def run(
        self, network: Network, rows: Sequence[Row[CamRequest]], grant: Grant
    ) -> Generator[Progress, None, list[Result]]:
        given = [without_mask(row) for row in rows]
        batch = gather(network, [row for row, _ in given])
        found = [_Found() for _ in rows]
        errors: list[MethodError | None] = list(batch.errors)
        owners = [(row, image) for row in range(len(rows)) for image, _ in enumerate(batch.of(row))]
        module = module_for(network, rows[0].request)
        done, layer = 0, resolved(rows[0].request.layer)
        for part in slices(network, batch.inputs, rows[0].request, grant, [layer]):
            one = _forward(module, part, layer, network.outputs)
            yield Progress(done, len(owners), "forward pass")
            share = owners[done : done + len(part)]
            wanted: list[list[ClassTarget]] = []
            for k, (row, image) in enumerate(share):
                try:
                    wanted.append(_targets(network, rows[row].request, one, k, batch.placed(row)[image], given[row][1]))
                except MethodError as error:
                    errors[row] = errors[row] or error
                    wanted.append([ClassTarget(0)])
            _gradient_maps(network, one, rows, share, wanted, found, errors)
            for k, (row, image) in enumerate(share):
                if errors[row] is None:
                    work = _Perturbed(network, module, rows[row].request, grant, _single(one, k), image, wanted[k])
                    for said in work.run(found[row]):
                        yield Progress(done + k + said, len(owners), "masked forward passes")
            done += len(part)
            yield Progress(done, len(owners), "")
        return [
            error if error is not None else _outcome(rows[k].request, network, found[k], batch.transforms_of(k))
            for k, error in enumerate(errors)
        ]

    def of_set(self) -> Method:
        """Part by part, saved in between."""
        return ImageSweep(self, joined)


def _forward(module: nn.Module, inputs: Tensor, layer: str, outputs: Outputs) -> _Pass:
    """One forward pass with a graph from the layer on."""
    leaves: list[Tensor] = []

    def lift(output: Tensor) -> Tensor:
        # Float32 for the formulas, whatever the network's own arithmetic, in which it goes on.
        leaves.append(output.detach().float().requires_grad_())
        return leaves[0].to(output.dtype)

    with torch.enable_grad():
        _, logits = answer(module, inputs, outputs, change={layer: lift})
    if not logits.requires_grad:
        raise MethodError("not-applicable", f"the network's answer does not depend on {layer}")
    return _Pass(inputs, leaves[0], logits, affine(logits, leaves[0], LINEAR_NODES))


def _single(one: _Pass, k: int) -> _Pass:
    """Image k of a pass, without its graph."""
    part = slice(k, k + 1)
    return _Pass(one.inputs[part], one.activation.detach()[part], one.logits.detach()[part], one.linear)


def _targets(
    network: Network, request: CamRequest, one: _Pass, k: int, where: Transform, mask: Tensor | None
) -> list[ClassTarget]:
    """The targets of image k of a pass, in order, each once.

    Raises:
        MethodError: there is no such class, the region is empty, or a method cannot be used on them.
    """
    white = None if mask is None else mask_in_input(mask, where)
    region = read_region(getattr(request, "region", None))
    found = Chooser(network.outputs, region, where.input_size, white).targets(request.targets, one.logits[k])
    _check(request, one, found[0])
    return found


def _gradient_maps(
    network: Network,
    one: _Pass,
    rows: Sequence[Row[CamRequest]],
    owners: Sequence[tuple[int, int]],
    wanted: Sequence[Sequence[ClassTarget]],
    found: list[_Found],
    errors: list[MethodError | None],
) -> None:
    """Every gradient method of every image and target of a slice: one backward for the k-th targets of all images."""
    for turn in range(max(len(classes) for classes in wanted)):
        targets = [classes[min(turn, len(classes) - 1)] for classes in wanted]
        gradient = one.gradient(targets)
        activation = one.activation.detach()
        cache: dict[str, Tensor] = {}
        for k, (row, image) in enumerate(owners):
            if errors[row] is not None or turn >= len(wanted[k]):
                continue
            request = rows[row].request
            for method in request.methods:
                if method in GRADIENT_MAPS or (method == "ablationcam" and one.linear):
                    if method not in cache:
                        cache[method] = _map(method, one, activation, gradient, targets)
                    _add(found[row], network, request, method, image, targets[k], one, k, cache[method][k])


def _map(method: str, one: _Pass, activation: Tensor, gradient: Tensor, targets: Sequence[ClassTarget]) -> Tensor:
    if method == "ablationcam":
        score = one.scores(targets).detach()
        return weighted(activation, linear_ablation_weights(activation, gradient, score))
    return GRADIENT_MAPS[method](activation, gradient)


def _check(request: CamRequest, one: _Pass, target: ClassTarget) -> None:
    if "cam" in request.methods and not (one.linear and _pooled(one, target)):
        raise MethodError(
            "not-applicable",
            f"cam needs a head of global average pooling and one linear layer right above {request.layer}; "
            "gradcam is its generalisation to any head",
        )


def _pooled(one: _Pass, target: ClassTarget) -> bool:
    """Whether the scores see only each channel's mean: their gradient is the same at every position."""
    gradient = one.gradient([target] * len(one.logits))
    return bool(torch.allclose(gradient, gradient.mean(dim=(2, 3), keepdim=True).expand_as(gradient), rtol=1e-4))


def _add(
    found: _Found, network: Network, request: CamRequest, method: str, image: int, target: ClassTarget, one: _Pass,
    k: int, raw: Tensor, **more: Any,
) -> None:  # fmt: skip
    """Keep one map, and the facts about it."""
    if not bool(torch.isfinite(raw).all()):
        raise MethodError("numerical-error", f"{method} of class {target.text} is not finite")
    logits = one.logits[k].detach()
    array = f"cam/{method}/{target.text}"
    item = len(found.arrays.setdefault(array, []))
    found.arrays[array].append(raw.detach().float().cpu())
    if request.upsampled and raw.shape[-2:] != one.inputs.shape[-2:]:
        full = F.interpolate(raw[None, None].float(), size=one.inputs.shape[2:], mode="bilinear", align_corners=False)
        found.arrays.setdefault(f"{array}/full", []).append(full[0, 0].detach().cpu())
    found.facts.append(
        {
            "method": method,
            "array": array,
            "item": item,
            "image": image,
            "target": target.index,
            "other_side": target.other,
            "name": target.name(network.classes),
            "logit": float(target.value(logits)),
            "probability": target.probability(network.outputs, logits),
            "region_pixels": target.pixels,
            "minimum": float(raw.min()),
            "maximum": float(raw.max()),
            "all_negative": bool((raw <= 0).all()) and bool((raw < 0).any()),
            "completeness_gap": None,
            "forwards": 0,
            **more,
        }
    )


class _Perturbed:
    """The methods of one image that need more than the shared pass: masks, ablations, all biases, guided gradients."""

    def __init__(
        self, network: Network, module: nn.Module, request: CamRequest, grant: Grant, one: _Pass, image: int,
        targets: Sequence[ClassTarget],
    ) -> None:  # fmt: skip
        self._network, self._module, self._request, self._grant = network, module, request, grant
        self._one, self._image = one, image
        self._targets = targets
        self._rows = _Rows(network, request, one.inputs, grant)

    def run(self, found: _Found) -> Generator[float, None, None]:
        """Yields the share done, between slices."""
        request, one = self._request, self._one
        channels = one.activation.shape[1]
        if "scorecam" in request.methods:
            weights = yield from self._rows.pace.timed(
                score_weights(
                    repeated_module_for(self._network, request),
                    one.inputs,
                    one.activation,
                    self._targets,
                    self._network.outputs,
                    self._rows.whole,
                )
            )
            for target, row in zip(self._targets, weights, strict=True):
                self._keep(found, "scorecam", target, weighted(one.activation, row[None])[0], forwards=channels)
        if "ablationcam" in request.methods and not one.linear:
            scores = [float(target.value(one.logits[0])) for target in self._targets]
            weights = yield from self._rows.pace.timed(
                ablation_weights(
                    self._module,
                    one.inputs,
                    resolved(request.layer),
                    one.activation,
                    self._targets,
                    scores,
                    self._network.outputs,
                    self._rows.above,
                )
            )
            for target, row in zip(self._targets, weights, strict=True):
                self._keep(found, "ablationcam", target, weighted(one.activation, row[None])[0], forwards=channels)
        if "fullgrad" in request.methods:
            yield from self._fullgrad(found)
        if "guided-gradcam" in request.methods:
            yield from self._guided(found)

    def _fullgrad(self, found: _Found) -> Generator[float, None, None]:
        graph = FullGradient(self._module, self._one.inputs, self._network.outputs)
        for target in self._targets:
            terms = graph.of([target])
            size = (self._one.inputs.shape[2], self._one.inputs.shape[3])
            gap = float(terms.gap()[0] / terms.logit[0]) if float(terms.logit[0]) != 0 else 0.0
            self._keep(found, "fullgrad", target, fullgrad_map(terms, size)[0], completeness_gap=gap, forwards=1)
            yield 1.0

    def _guided(self, found: _Found) -> Generator[float, None, None]:
        """Guided backpropagation times the upsampled Grad-CAM (Selvaraju 2017, section 3.2), 3×H×W."""
        mode = RuleMode("guided", nonstandard_gate=self._request.nonstandard_gate)
        inputs = self._one.inputs.detach().requires_grad_()
        with torch.enable_grad(), mode:
            logits = logits_of(self._module, inputs, self._network.outputs)
        report = mode.report(logits)
        if not report.rectifications or report.nonstandard or report.escaped:
            raise MethodError(
                "not-applicable",
                f"guided-gradcam found {sum(report.rectifications.values())} rectifications to guide and "
                f"{sum(report.nonstandard.values()) + sum(report.escaped.values())} it cannot; use gradcam",
            )
        plain = _forward(self._module, self._one.inputs, resolved(self._request.layer), self._network.outputs)
        for target in self._targets:
            guided = torch.autograd.grad(target.value(logits[0]), inputs, retain_graph=True)[0]
            raw = gradcam(plain.activation.detach(), plain.gradient([target])).relu()
            full = F.interpolate(raw[None], size=inputs.shape[2:], mode="bilinear", align_corners=False)
            self._keep(found, "guided-gradcam", target, (guided * full)[0], forwards=1)
            yield 1.0

    def _keep(self, found: _Found, method: str, target: ClassTarget, raw: Tensor, **more: Any) -> None:
        _add(found, self._network, self._request, method, self._image, target, self._one, 0, raw, **more)


class _Rows:
    """How many rows one forward may hold: bounded by memory and by the time that one slice should take.

    Under `exact` the time is what the network's table says, so that the rows do not depend on load.
    """

    def __init__(self, network: Network, request: CamRequest, inputs: Tensor, grant: Grant) -> None:
        scale = relative_size(network, inputs)
        order = network.layers[resolved(request.layer)].order
        sizes = [(one.order, math.prod(one.shape)) for one in network.layers.values()]
        self._fit = most_together(network, self._fitting(max(size for _, size in sizes) * scale, grant))
        above = max((size for at, size in sizes if at >= order), default=1)
        self._fit_above = most_together(network, self._fitting(above * scale, grant))
        if is_fast(request):
            self.pace = Pace.by_time(network, grant, first=8, most=256)
        else:
            self.pace = Pace.by_cost(network, scale=scale, most=min(self._fit, 64))

    @staticmethod
    def _fitting(numbers: float, grant: Grant) -> int:
        return max(1, min(256, int(grant.memory_bytes / (4 * 4 * max(numbers, 1)))))

    def whole(self) -> int:
        """For forwards of the whole network."""
        return self.pace.rows(min(self._fit, 64))

    def above(self) -> int:
        """For forwards that run one row up to the layer and many above: each pays for the way up to it once more."""
        self.pace.rows(self._fit_above, least=self._fit_above)
        return self._fit_above


def _outcome(request: CamRequest, network: Network, found: _Found, transforms: list[dict[str, Any]]) -> Result:
    order = {method: k for k, method in enumerate(request.methods)}
    notes = []
    if "guided-gradcam" in request.methods:
        notes.append(CAUTION)
    if "eigencam" in request.methods:
        notes.append("eigencam knows no class: it shows the strongest component of the layer, whatever the target")
    if any(one["all_negative"] for one in found.facts):
        notes.append(
            "some maps hold negative evidence only; their overlay is empty on purpose, normalize=symmetric shows it"
        )
    return Outcome(
        {name: torch.stack(maps) for name, maps in found.arrays.items()},
        {
            "layer": request.layer,
            "shape": list(network.layers[resolved(request.layer)].shape),
            "output": network.outputs.facts(),
            "region": getattr(request, "region", None),
            "maps": sorted(found.facts, key=lambda one: (one["image"], order[one["method"]])),
            "transforms": transforms,
            "notes": notes,
        },
    )


METHOD = Cam()
