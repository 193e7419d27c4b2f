"""What a request of cam is answered: its maps, what is told of each, and how not to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.contract import MethodError, Network, Outcome, resolved
from workers.methods.cam.table import Map
from workers.passes.class_targets import ClassTarget

if TYPE_CHECKING:
    from convscope.protocol.operations.cam import CamRequest

CAUTION = (
    "guided-gradcam multiplies by guided backpropagation, which recovers the image and hardly depends on the class "
    "(Nie 2018; Adebayo 2018): read edges in it as edges, not as evidence"
)


class Found:
    """The maps of one row, by array name, and a facts entry for each."""

    def __init__(self, network: Network, request: CamRequest) -> None:
        self._network, self._request = network, request
        self._arrays: dict[str, list[Tensor]] = {}
        self._facts: list[dict[str, Any]] = []

    def keep(
        self, method: str, image: int, target: ClassTarget, found: Map, logits: Tensor, size: tuple[int, int]
    ) -> None:
        """Keep one map, and the facts about it.

        Args:
            image: its place in the row.
            logits: of the image.
            size: (height, width) of the network's input.

        Raises:
            MethodError: `numerical-error`: it is not finite.
        """
        raw, logits = found.values, logits.detach()
        if not bool(torch.isfinite(raw).all()):
            raise MethodError("numerical-error", f"{method} of class {target.text} is not finite")
        array = f"cam/{method}/{target.text}"
        item = len(self._arrays.setdefault(array, []))
        self._arrays[array].append(raw.detach().float().cpu())
        if self._request.upsampled and tuple(raw.shape[-2:]) != size:
            full = F.interpolate(raw[None, None].float(), size=size, mode="bilinear", align_corners=False)
            self._arrays.setdefault(f"{array}/full", []).append(full[0, 0].detach().cpu())
        self._facts.append(
            {
                "method": method,
                "array": array,
                "item": item,
                "image": image,
                "target": target.index,
                "other_side": target.other,
                "name": target.name(self._network.classes),
                "logit": float(target.value(logits)),
                "probability": target.probability(self._network.outputs, logits),
                "region_pixels": target.pixels,
                "minimum": float(raw.min()),
                "maximum": float(raw.max()),
                "all_negative": bool((raw <= 0).all()) and bool((raw < 0).any()),
                "completeness_gap": found.completeness_gap,
                "forwards": found.forwards,
            }
        )

    def outcome(self, transforms: list[dict[str, Any]]) -> Outcome:
        """All of it, image by image and method by method as asked for."""
        request, layer = self._request, resolved(self._request.layer)
        order = {method: k for k, method in enumerate(request.methods)}
        return Outcome(
            {name: torch.stack(maps) for name, maps in self._arrays.items()},
            {
                "layer": layer,
                "shape": list(self._network.layers[layer].shape),
                "output": self._network.outputs.facts(),
                "region": getattr(request, "region", None),
                "maps": sorted(self._facts, key=lambda one: (one["image"], order[one["method"]])),
                "transforms": transforms,
                "notes": self._notes(),
            },
        )

    def _notes(self) -> list[str]:
        notes = []
        if "guided-gradcam" in self._request.methods:
            notes.append(CAUTION)
        if "eigencam" in self._request.methods:
            notes.append("eigencam knows no class: it shows the strongest component of the layer, whatever the target")
        if any(one["all_negative"] for one in self._facts):
            notes.append(
                "some maps hold negative evidence only; their overlay is empty on purpose, normalize=symmetric shows it"
            )
        return notes
