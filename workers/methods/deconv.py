"""deconv: what in the image made an activation, projected back to pixels."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workers.contract import Grant, Layer, MethodError, Network, Outcome, Progress, Row, SingleMethod, resolved
from workers.geometry import Transform
from workers.passes.batches import module_for
from workers.passes.calls import capture
from workers.passes.projection import (
    OUTSIDE,
    Seed,
    as_maps,
    caution_of,
    check_path,
    cut,
    pixels_of,
    project_unit,
    window_of,
)
from workers.passes.rules import PathReport, RuleMode
from workers.passes.units import choose_channels, how_many, strongest_units

if TYPE_CHECKING:
    from convscope.protocol.operations.deconv import DeconvRequest


class Deconv(SingleMethod["DeconvRequest"]):
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

    def compute(self, network: Network, row: Row[DeconvRequest], grant: Grant) -> Generator[Progress, None, Outcome]:
        """See the class.

        Row: one image; request `layers`, `channels`, `by`, `seed_unit`, `rule`, `switches`, `nonstandard_gate`.

        Arrays, for each layer, with K projections:
            projection/{layer}: K×C×H×W float32, signed, in pixels of the network's input.
            patch/{layer}: K×h×w×3 uint8, the input image in the receptive field, grey beyond the image.
            patch_projection/{layer}: K×C×h×w float32, the projection in the same window.
        """
        return (yield from _project(network, row))


def _project(network: Network, row: Row[DeconvRequest]) -> Generator[Progress, None, Outcome]:
    request = row.request
    layers = [network.layers[name] for name in resolved(request.layers)]
    rule = resolved(request.rule)
    inputs, transforms = network.prepare(row.images[:1], request.preprocess)
    inputs.requires_grad_(True)
    module = module_for(network, request)
    mode = RuleMode(rule, switches=request.switches, nonstandard_gate=request.nonstandard_gate)
    with torch.enable_grad(), mode:
        seen, _ = capture(module, inputs, [layer.name for layer in layers])

    plan: list[tuple[Layer, PathReport, list[Seed]]] = []
    for layer in layers:
        report = mode.report(seen[layer.name])
        check_path(layer, report, rule)
        if not bool(seen[layer.name].isfinite().all()):
            raise MethodError("numerical-error", f"the activation of {layer.name} left the finite numbers")
        plan.append((layer, report, _seeds(as_maps(seen[layer.name].detach()), request)))
    total = sum(len(seeds) for _, _, seeds in plan)
    outcome = Outcome(facts={"layers": [], "transform": transforms[0].facts(), "caution": caution_of(rule)})
    done = 0
    for layer, report, seeds in plan:
        activation = seen[layer.name]
        projections = []
        for seed in seeds:
            with mode.from_unit(activation):
                projections.append(project_unit(activation, inputs, seed)[0])
            done += 1
            what = "all channels" if seed.channel is None else f"channel {seed.channel}"
            yield Progress(done, total, f"{layer.name}: {what}")
        stack = torch.stack(projections)
        if not bool(stack.isfinite().all()):
            raise MethodError("numerical-error", f"the projection from {layer.name} left the finite numbers")
        windows = [window_of(layer.box, seed, (stack.shape[2], stack.shape[3])) for seed in seeds]
        pixels = pixels_of(inputs.detach()[0], network, request.preprocess)
        patches = torch.stack([cut(pixels, window, OUTSIDE) for window in windows])
        inside = torch.stack([cut(one, window, 0) for one, window in zip(stack, windows, strict=True)])
        outcome.arrays[f"projection/{layer.name}"] = stack.cpu()
        outcome.arrays[f"patch/{layer.name}"] = patches.permute(0, 2, 3, 1).contiguous()
        outcome.arrays[f"patch_projection/{layer.name}"] = inside.cpu()
        maps = as_maps(activation.detach())
        outcome.facts["layers"].append(
            {
                "layer": layer.name,
                "shape": list(layer.shape),
                "rule": rule,
                "projections": [
                    _facts(seed, maps, layer, report, one, transforms[0], window)
                    for seed, one, window in zip(seeds, stack, windows, strict=True)
                ],
            }
        )
    return outcome


def _seeds(maps: Tensor, request: DeconvRequest) -> list[Seed]:
    """What to project, channel by channel, the strongest unit of a channel first."""
    if request.seed_unit == "layer":
        return [Seed(None, None, None)]
    seeds: list[Seed] = []
    for channel in choose_channels(maps, request.channels, request.by):
        if request.seed_unit == "channel":
            seeds.append(Seed(channel, None, None))
        else:
            count = how_many(request.seed_unit)
            seeds.extend(Seed(channel, y, x) for y, x in strongest_units(maps[channel], count))
    return seeds


def _facts(
    seed: Seed,
    maps: Tensor,
    layer: Layer,
    report: PathReport,
    projection: Tensor,
    transform: Transform,
    window: tuple[int, int, int, int],
) -> dict[str, Any]:
    height, width = int(projection.shape[1]), int(projection.shape[2])
    plane = maps if seed.channel is None else maps[seed.channel]
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


METHOD = Deconv()
