"""deconv: what in the image made an activation, projected back to pixels."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.contract import Box, Grant, Layer, MethodError, Network, Outcome, Progress, Row, SingleMethod
from workers.passes.batches import module_for
from workers.passes.calls import capture
from workers.passes.planes import as_colours
from workers.passes.rules import PathReport, RuleMode
from workers.passes.units import choose_channels, how_many, strongest_units

_OUTSIDE = 128
"""Level of a patch where its receptive field reaches beyond the image."""


@dataclass(frozen=True)
class Seed:
    """What one projection starts from: a unit, or a whole channel where y and x are None."""

    channel: int
    y: int | None
    x: int | None


class Deconv(SingleMethod):
    """Projections of units to pixels by the deconvnet, guided or gradient rule.

    Zeiler & Fergus 2013, section 2.1: every other activation of the layer is set to zero, then unpooling by switches,
    rectification of the signal and filtering with the transposed kernels, down to pixels. A transposed filter is a
    convolution's gradient and a switch is a max-pool's, so this is a backward pass in which rectifications obey the
    rule (`workers.passes.rules`). Batch normalisation, average pooling, stride, padding, contrast normalisation
    and linear layers go back by their exact adjoints at this image.

    Where we differ from the paper: negative seeds are rectified first, so a unit that is not active projects to zero;
    the unit's own gate is open, also where a ReLU6 stands at its limit;
    where pooling windows overlap, `switches` chooses between adding and overwriting; the rules extend to ReLU6, PReLU
    and LeakyReLU.

    One forward pass serves all layers and units of a request. Going back, each unit has a pass of its own: on CPUs that
    is faster than a batch of cotangents, and a projection does not depend on which others were asked for.
    """

    def compute(self, network: Network, row: Row, grant: Grant) -> Generator[Progress, None, Outcome]:
        """See the class.

        Row: one image; request `layers`, `channels`, `by`, `seed_unit`, `rule`, `switches`, `nonstandard_gate`.

        Arrays, for each layer, with K projections:
            projection/{layer}: K×C×H×W float32, signed, in pixels of the network's input.
            patch/{layer}: K×h×w×3 uint8, the input image in the receptive field, grey beyond the image.
            patch_projection/{layer}: K×C×h×w float32, the projection in the same window.
        """
        return (yield from _project(network, row))


def _project(network: Network, row: Row) -> Generator[Progress, None, Outcome]:
    request = row.request
    layers = [network.layers[name] for name in request.layers]
    inputs, transforms = network.prepare(row.images[:1], request.preprocess)
    inputs.requires_grad_(True)
    module = module_for(network, request)
    mode = RuleMode(request.rule, switches=request.switches, nonstandard_gate=request.nonstandard_gate)
    with torch.enable_grad(), mode:
        seen, _ = capture(module, inputs, [layer.name for layer in layers])

    plan: list[tuple[Layer, PathReport, list[Seed]]] = []
    for layer in layers:
        report = mode.report(seen[layer.name])
        _check_path(layer, report, request.rule)
        if not bool(seen[layer.name].isfinite().all()):
            raise MethodError("numerical-error", f"the activation of {layer.name} left the finite numbers")
        plan.append((layer, report, _seeds(_as_maps(seen[layer.name].detach()), request)))
    total = sum(len(seeds) for _, _, seeds in plan)
    outcome = Outcome(facts={"layers": [], "transform": transforms[0].facts(), "caution": _caution(request.rule)})
    done = 0
    for layer, report, seeds in plan:
        activation = seen[layer.name]
        projections = []
        for seed in seeds:
            with mode.from_unit(activation):
                projections.append(_back(activation, inputs, seed)[0])
            done += 1
            yield Progress(done, total, f"{layer.name}: channel {seed.channel}")
        stack = torch.stack(projections)
        if not bool(stack.isfinite().all()):
            raise MethodError("numerical-error", f"the projection from {layer.name} left the finite numbers")
        windows = [_window(layer.box, seed, (stack.shape[2], stack.shape[3])) for seed in seeds]
        pixels = _pixels(inputs.detach()[0], network)
        patches = torch.stack([_cut(pixels, window, _OUTSIDE) for window in windows])
        inside = torch.stack([_cut(one, window, 0) for one, window in zip(stack, windows, strict=True)])
        outcome.arrays[f"projection/{layer.name}"] = stack.cpu()
        outcome.arrays[f"patch/{layer.name}"] = patches.permute(0, 2, 3, 1).contiguous()
        outcome.arrays[f"patch_projection/{layer.name}"] = inside.cpu()
        maps = _as_maps(activation.detach())
        outcome.facts["layers"].append(
            {
                "layer": layer.name,
                "shape": list(layer.shape),
                "rule": request.rule,
                "projections": [
                    _facts(seed, maps, layer, report, one, transforms[0], window)
                    for seed, one, window in zip(seeds, stack, windows, strict=True)
                ],
            }
        )
    return outcome


def _check_path(layer: Layer, report: PathReport, rule: str) -> None:
    """Refuse to call a plain gradient a deconvnet."""
    if rule == "gradient":
        return
    if report.nonstandard:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.nonstandard.items()))
        raise MethodError(
            "not-applicable",
            f"the {rule} rule is not defined for the {kinds} between the image and {layer.name}; "
            "nonstandard_gate=true treats them as ReLUs on the way back, rule=gradient always works",
        )
    if report.escaped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.escaped.items()))
        raise MethodError("not-applicable", f"{kinds} before {layer.name} cannot be given the {rule} rule")
    if not report.rectifications and not report.linear:
        raise MethodError(
            "not-applicable",
            f"no rectification was found between the image and {layer.name}, so the {rule} rule would be the plain "
            "gradient; rule=gradient gives that",
        )


def _as_maps(activation: Tensor) -> Tensor:
    """One image's activation as C×H×W; a dense layer's units are 1×1 maps."""
    one = activation[0]
    return one if one.dim() == 3 else one.reshape(-1, 1, 1)


def _seeds(maps: Tensor, request: Any) -> list[Seed]:
    """What to project, channel by channel, the strongest unit of a channel first."""
    seeds: list[Seed] = []
    for channel in choose_channels(maps, request.channels, request.by):
        if request.seed_unit == "channel":
            seeds.append(Seed(channel, None, None))
        else:
            count = how_many(request.seed_unit)
            seeds.extend(Seed(channel, y, x) for y, x in strongest_units(maps[channel], count))
    return seeds


def _back(activation: Tensor, inputs: Tensor, seed: Seed) -> Tensor:
    """One pass from a unit, all other activations of its layer zero, to pixels: 1×C×H×W float32."""
    maps = _as_maps(activation.detach())
    signal = torch.zeros_like(maps)
    where = (seed.channel, slice(None) if seed.y is None else seed.y, slice(None) if seed.x is None else seed.x)
    signal[where] = maps[where].clamp(min=0)
    (pixels,) = torch.autograd.grad(activation, inputs, signal.view_as(activation), retain_graph=True)
    return pixels.float()


def _window(box: Box | None, seed: Seed, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The unit's receptive field (top, left, bottom, right), where it is smaller than the input, not clipped to it.

    All units of a layer have windows of one size; along a side that the field covers, the window is the whole input.
    """
    if box is None or seed.y is None or seed.x is None:
        return 0, 0, *size
    corner, extent = [], []
    for axis, position in ((0, seed.y), (1, seed.x)):
        covers = box.size[axis] >= size[axis]
        corner.append(0 if covers else round(box.start[axis] + position * box.jump[axis]))
        extent.append(size[axis] if covers else box.size[axis])
    return corner[0], corner[1], corner[0] + extent[0], corner[1] + extent[1]


def _cut(picture: Tensor, window: tuple[int, int, int, int], outside: int) -> Tensor:
    """A window of a 3×H×W picture, with `outside` where it reaches beyond."""
    top, left, bottom, right = window
    cut = picture.new_full((picture.shape[0], bottom - top, right - left), outside)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(bottom, picture.shape[1]), min(right, picture.shape[2])
    if y1 > y0 and x1 > x0:
        cut[:, y0 - top : y1 - top, x0 - left : x1 - left] = picture[:, y0:y1, x0:x1]
    return cut


def _pixels(normalized: Tensor, network: Network) -> Tensor:
    """A network's input (C×H×W, normalised) as a picture, 3×H×W uint8."""
    planes = normalized.shape[0]
    mean = normalized.new_tensor(network.mean[:planes]).view(-1, 1, 1)
    std = normalized.new_tensor(network.std[:planes]).view(-1, 1, 1)
    levels = ((normalized * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return as_colours(levels).cpu()


def _facts(
    seed: Seed,
    maps: Tensor,
    layer: Layer,
    report: PathReport,
    projection: Tensor,
    transform: Any,
    window: tuple[int, int, int, int],
) -> dict[str, Any]:
    height, width = int(projection.shape[1]), int(projection.shape[2])
    plane = maps[seed.channel]
    value = float(plane.max() if seed.y is None or seed.x is None else plane[seed.y, seed.x])
    box: tuple[int, ...] = (0, 0, height, width)
    if layer.box is not None and seed.y is not None and seed.x is not None:
        box = layer.box.of(seed.y, seed.x, height, width)
    return {
        "channel": seed.channel,
        "y": seed.y,
        "x": seed.x,
        "activation": value,
        "dead": value <= 0,
        "box": list(box),
        "box_in_upload": transform.box_in_upload(box),
        "window": list(window),
        "rectifications": sum(report.rectifications.values()),
        "rectification_kinds": dict(sorted(report.rectifications.items())),
        "switches": report.max_pools,
        "image_independent": report.image_independent,
        "largest": float(projection.abs().max()),
    }


def _caution(rule: str) -> str | None:
    """What must be said with every picture of the kind."""
    if rule == "gradient":
        return None
    return (
        "Deconvnet and guided projections partly recover the image whatever the unit stands for (Nie 2018; Adebayo "
        "2018): compare units before reading one as an explanation."
    )


METHOD = Deconv()
