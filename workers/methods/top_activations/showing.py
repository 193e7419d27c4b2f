"""What is shown of the strongest units: the patch that each sees, and its projection in the same window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workers.contract import Layer, MethodError, Network, Progress, Row, resolved
from workers.methods.top_activations.streaming import Strongest
from workers.passes.batches import module_for
from workers.passes.calls import capture
from workers.passes.projection import OUTSIDE, Seed, check_path, cut, pixels_of, project_unit, window_of
from workers.passes.rules import RuleMode

if TYPE_CHECKING:
    from convscope.protocol.operations.top_activations import TopActivationsRequest

Kept = Mapping[str, tuple[list[int], Strongest, int]]
"""By layer: its channels, their strongest units, and the width of its maps."""


@dataclass
class Shown:
    """One layer's patches and projections.

    Attributes:
        patches: C×k×h×w×3 uint8; black where a channel has fewer than k units.
        projections: C×k×P×h×w float32, or None where none is wanted.
    """

    patches: Tensor
    projections: Tensor | None

    def arrays(self, layer: str) -> dict[str, Tensor]:
        """By the names of the result."""
        found = {f"patch/{layer}": self.patches}
        return found if self.projections is None else {**found, f"projection/{layer}": self.projections}


@dataclass(frozen=True)
class _KeptUnit:
    """Where a unit stands in the arrays, and in its map."""

    layer: Layer
    row: int
    column: int
    seed: Seed


def show(network: Network, row: Row[TopActivationsRequest], kept: Kept) -> Generator[Progress, None, dict[str, Shown]]:
    """Patches and projections of all kept units; each image is read and goes through the network once.

    Raises:
        MethodError: `numerical-error`; `not-applicable`, where the rule is not defined on the way.
    """
    by_image = _by_image(network, row.request, kept)
    shown: dict[str, Shown] = {}
    for number, image in enumerate(sorted(by_image)):
        inputs, _ = network.prepare([row.images[image]], row.request.preprocess)
        pictures = _pictures(network, row.request, inputs, by_image[image])
        for unit, patch, projection in pictures:
            if unit.layer.name not in shown:
                channels, strongest, _ = kept[unit.layer.name]
                size = (len(channels), strongest.values.shape[1])
                shown[unit.layer.name] = Shown(
                    torch.zeros(*size, *patch.shape, dtype=torch.uint8),
                    None if projection is None else torch.zeros(*size, *projection.shape),
                )
            there = shown[unit.layer.name]
            there.patches[unit.row, unit.column] = patch
            if there.projections is not None and projection is not None:
                there.projections[unit.row, unit.column] = projection
        yield Progress(len(row.images), len(row.images), f"strongest images: {number + 1} of {len(by_image)} shown")
    return shown


def _by_image(network: Network, request: TopActivationsRequest, kept: Kept) -> dict[int, list[_KeptUnit]]:
    """The kept units of each image."""
    found: dict[int, list[_KeptUnit]] = defaultdict(list)
    for name, (channels, strongest, width) in kept.items():
        layer = network.layers[name]
        for row, channel in enumerate(channels):
            for column, image in enumerate(strongest.images[row].tolist()):
                if image < 0:
                    continue
                y, x = divmod(int(strongest.positions[row, column]), width)
                seed = Seed(channel, None, None) if request.by == "mean" else Seed(channel, y, x)
                found[image].append(_KeptUnit(layer, row, column, seed))
    return found


def _pictures(
    network: Network, request: TopActivationsRequest, inputs: Tensor, units: list[_KeptUnit]
) -> list[tuple[_KeptUnit, Tensor, Tensor | None]]:
    """One image's units, each with its patch (h×w×3 uint8) and projection (P×h×w), on the CPU."""
    size = (int(inputs.shape[2]), int(inputs.shape[3]))
    pixels = pixels_of(inputs[0], network, request.preprocess)
    projections: list[Tensor | None] = [None] * len(units)
    if request.projection != "none":
        projections = list(_projections(network, request, inputs, units))
    found = []
    for unit, projection in zip(units, projections, strict=True):
        window = window_of(unit.layer.box, unit.seed, size)
        patch = cut(pixels, window, OUTSIDE).permute(1, 2, 0).contiguous()
        found.append((unit, patch, None if projection is None else cut(projection, window, 0).cpu()))
    return found


def _projections(
    network: Network, request: TopActivationsRequest, inputs: Tensor, units: list[_KeptUnit]
) -> list[Tensor]:
    """Each unit's projection, P×H×W float32: one forward, then a pass back from each."""
    inputs = inputs.requires_grad_(True)
    rule = resolved(request.projection)
    mode = RuleMode(rule)
    layers = list(dict.fromkeys(unit.layer.name for unit in units))
    with torch.enable_grad(), mode:
        seen, _ = capture(module_for(network, request), inputs, layers)
    for unit in {unit.layer.name: unit for unit in units}.values():
        check_path(unit.layer, mode.report(seen[unit.layer.name]), rule)
    found = []
    for unit in units:
        activation = seen[unit.layer.name]
        with mode.from_unit(activation):
            projection = project_unit(activation, inputs, unit.seed)[0]
        if not bool(projection.isfinite().all()):
            raise MethodError("numerical-error", f"the projection from {unit.layer.name} left the finite numbers")
        found.append(projection)
    return found
