"""Small pictures and ways to look into the PNG that comes of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from convscope.protocol.pictures import Picture, Slice, Tile
from convscope.render import RenderOptions, render
from convscope.render.colors import GREYS

FRAME_GREY = int(GREYS[2])


@dataclass
class Png:
    """A decoded picture: its pixels (H×W×3), its text chunks, the mode it was stored in."""

    pixels: np.ndarray
    text: dict[str, str]
    mode: str

    @classmethod
    def of(cls, data: bytes) -> Png:
        image = Image.open(io.BytesIO(data))
        image.load()
        return cls(np.asarray(image.convert("RGB")), dict(image.text), image.mode)

    @property
    def scale(self) -> dict[str, Any]:
        """What the text chunk says of the first picture."""
        return json.loads(self.text["convscope:scale"])[0]

    def body(self, height: int, width: int, top_at_least: int = 0) -> np.ndarray:
        """The first framed rectangle of this size: its pixels without the frame."""
        for top, left in np.argwhere(self.line(FRAME_GREY)):
            if top < top_at_least:
                continue
            ring = self.pixels[top : top + height + 2, left : left + width + 2]
            if ring.shape[:2] == (height + 2, width + 2) and all(
                (edge == FRAME_GREY).all() for edge in (ring[0], ring[-1], ring[:, 0], ring[:, -1])
            ):
                return ring[1:-1, 1:-1]
        raise AssertionError(f"no frame of {height} × {width} in the picture")

    def line(self, grey: int) -> np.ndarray:
        return (self.pixels == grey).all(2)


def tiles(maps: np.ndarray, **fields: Any) -> tuple[Picture, Callable[[str], np.ndarray]]:
    """A picture of K maps (K×…), titled with their numbers, and its arrays."""
    declared = tuple(Tile((Slice("maps", (k,)),), {"index": str(k), "mean": f"{k}: mean"}) for k in range(len(maps)))
    defaults: dict[str, Any] = {"name": "layer", "heading": "net layer", "views": ("tiles", "overlay", "picture")}
    return Picture(tiles=declared, **(defaults | fields)), {"maps": maps}.__getitem__


def draw(
    maps: np.ndarray, upload: np.ndarray | None = None, fields: dict[str, Any] | None = None, **options: Any
) -> Png:
    """K maps drawn with the given fields of their Picture and options."""
    picture, arrays = tiles(np.asarray(maps), **(fields or {}))
    return Png.of(render(picture, arrays, upload, RenderOptions(**options)))


def grey_levels(values: Sequence[Any], **options: Any) -> list[int]:
    """Levels of one row of numbers, read from its drawing in plain grey, `scale` pixels a cell."""
    row = np.asarray(values, dtype=options.pop("dtype", np.float32)).reshape(1, 1, -1)
    png = draw(row, colormap="gray", scale=4, **options)
    body = png.body(4, 4 * row.shape[2])
    assert (body[..., 0] == body[..., 1]).all()
    assert (body[..., 1] == body[..., 2]).all()
    return [int(level) for level in body[1, 1::4, 0]]
