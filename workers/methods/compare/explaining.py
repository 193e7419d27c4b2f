"""Class activation maps of both networks for the same class, laid on one grid, and how far apart they are."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.contract import Grant, MethodError, Network, Outcome, Progress, Row, params, resolved
from workers.passes.map_similarity import rank_correlation

if TYPE_CHECKING:
    from convscope.protocol.operations.compare import CompareRequest

NO_AREA = 1e-6


@dataclass
class Explained:
    """One image's maps for one class.

    Attributes:
        maps: of either network, h×w float32, as `cam` gives them.
        transforms: where each network's input lies in the upload, facts of `workers.geometry.Transform`.
    """

    maps: tuple[Tensor, Tensor]
    transforms: tuple[dict[str, Any], dict[str, Any]]

    def on_one_grid(self) -> tuple[Tensor, Tensor]:
        """Both maps at the same places of the upload: the first as it is, the second interpolated where they differ.

        Cells of the first that the second network does not see are left out; the maps are then flat.
        """
        first, second = self.maps
        if first.shape == second.shape and _same_place(*self.transforms):
            return first, second
        places, seen = zip(*(self._along(axis) for axis in (0, 1)), strict=True)
        grid = torch.stack(torch.meshgrid(places[1], places[0], indexing="xy"), dim=-1)
        there = F.grid_sample(
            second[None, None].double(), grid[None], mode="bilinear", padding_mode="border", align_corners=False
        )[0, 0]
        both = seen[0][:, None] & seen[1][None]
        return first.double()[both], there[both]

    def _along(self, axis: int) -> tuple[Tensor, Tensor]:
        """Where each cell of the first map lies in the second input along an axis, −1 to 1, and whether it does."""
        ours, theirs = self.transforms
        cells = self.maps[0].shape[axis]
        centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * (ours["input_size"][axis] / cells)
        upload = centres * ours["scale"][axis] + ours["offset"][axis]
        place = (upload - theirs["offset"][axis]) / theirs["scale"][axis] / theirs["input_size"][axis]
        return 2 * place - 1, (place >= 0) & (place <= 1)


def _same_place(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two inputs show the same part of the upload."""

    def edges(told: dict[str, Any]) -> list[float]:
        ends = [told["offset"][k] + told["scale"][k] * told["input_size"][k] for k in (0, 1)]
        return [*map(float, told["offset"]), *map(float, ends)]

    return all(abs(a - b) < NO_AREA for a, b in zip(edges(one), edges(other), strict=True))


def explain(
    networks: Sequence[Network],
    request: CompareRequest,
    images: Sequence[Tensor],
    targets: Sequence[int | str],
    grant: Grant,
) -> Generator[Progress, None, list[Explained]]:
    """Both networks' maps of each image, for its target.

    Raises:
        MethodError: `cam` cannot be used here.
    """
    layers = (resolved(request.cam_layer), resolved(request.other_cam_layer))
    found = []
    for network, layer in zip(networks, layers, strict=True):
        rows = [
            Row(params(_cam_request(request, layer, target)), [image])
            for image, target in zip(images, targets, strict=True)
        ]
        found.append((yield from grant.methods["cam"].run(network, rows, grant)))
    explained = []
    for pair, target in zip(zip(*found, strict=True), targets, strict=True):
        maps, transforms = [], []
        for result in pair:
            if isinstance(result, MethodError):
                raise result
            assert isinstance(result, Outcome)
            maps.append(result.arrays[f"cam/{resolved(request.method)}/{target}"][0])
            transforms.append(result.facts["transforms"][0])
        explained.append(Explained((maps[0], maps[1]), (transforms[0], transforms[1])))
    return explained


def _cam_request(request: CompareRequest, layer: str, target: int | str) -> dict[str, Any]:
    common = {name: getattr(request, name) for name in ("preprocess", "precision", "seed")}
    own = {"methods": [resolved(request.method)], "layer": layer, "targets": [target], "upsampled": False}
    return {**common, **own, "region": None, "mask": None, "nonstandard_gate": False}


def agreement(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Rank correlation of two maps, and the share of the evidence that moved.

    Spearman's correlation of the signed maps. Moved is the total variation ½ Σ |p − q| of the maps' positive parts,
    each divided by its sum: 0 where they are alike, 1 where they share no place, and where only one has any.

    Args:
        one, other: of one shape, at the same places.

    Returns:
        (1, 0) exactly where the maps are equal; NaN where there is nothing to compare.
    """
    if torch.equal(one, other):
        return 1.0, 0.0
    if one.numel() == 0:
        return float("nan"), float("nan")
    correlation = rank_correlation(one, other)
    first, second = one.double().clamp_min(0), other.double().clamp_min(0)
    ours, theirs = float(first.sum()), float(second.sum())
    if ours == 0 and theirs == 0:
        return correlation, float("nan")
    if ours == 0 or theirs == 0:
        return correlation, 1.0
    return correlation, float(0.5 * (first / ours - second / theirs).abs().sum())
