"""Where things lie: receptive fields in the network's input, and the input in the upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Box:
    """Receptive field geometry: size, jump and start in input pixels, each (vertical, horizontal)."""

    size: tuple[int, int]
    jump: tuple[float, float]
    start: tuple[float, float]

    def of(self, y: int, x: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Box of unit (y, x) clipped to a height × width input: (top, left, bottom, right), half open."""
        top, left = (round(self.start[0] + y * self.jump[0]), round(self.start[1] + x * self.jump[1]))
        bottom, right = top + self.size[0], left + self.size[1]
        return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


@dataclass(frozen=True)
class Transform:
    """Where the network's input lies in the upload: input pixel p ↦ upload pixel p · scale + offset, (y, x).

    `upload_size` and `input_size` are (height, width).
    """

    upload_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def facts(self) -> dict[str, Any]:
        """As JSON, for the facts of a result."""
        return {
            "upload_size": list(self.upload_size),
            "input_size": list(self.input_size),
            "scale": list(self.scale),
            "offset": list(self.offset),
        }

    def box_in_upload(self, box: Sequence[float]) -> list[float]:
        """(top, left, bottom, right) in input pixels as the same box in pixels of the upload, clipped to it."""
        height, width = self.upload_size
        limits = (height, width, height, width)
        moved = [edge * self.scale[i % 2] + self.offset[i % 2] for i, edge in enumerate(box)]
        return [min(max(edge, 0.0), float(limit)) for edge, limit in zip(moved, limits, strict=True)]
