"""Where the tiles of minimal filtering come from: a page of pixels, or slopes that a ReLU and a pooling let through."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.compiled.arrays import Array, pages_of

EVERY = 499
"""Pixels from one to the next of those that a first look sees."""


class TileSource(Protocol):
    """Images whose tiles are taken.

    Attributes:
        images: how many.
        sides: height and width of an image, pixels.
        dtype: float32 or bfloat16.
    """

    images: int
    sides: tuple[int, int]
    dtype: torch.dtype

    def take(self, image: int, begin: int, end: int, columns: int, padding: int, taken: Array, place: int) -> None:
        """See `tile_transforms.take_tiles`."""


class Slopes(TileSource, Protocol):
    """The slopes of a convolution's outputs."""

    def alive(self, few: int) -> Tensor:
        """Which channels of which images have any slope that counts, N×K; of images with more than `few`, more."""
        ...

    def some(self, images: Tensor) -> Slopes:
        """Some of the images, N booleans."""
        ...

    def planes(self, image: int, channels: Tensor) -> Tensor:
        """An image's slopes in some channels, K booleans: k×H×W."""
        ...


class TilePage:
    """Pixels as they are, or slopes where the outputs that they belong to were rectified.

    Args:
        inputs: N×C×H×W.
        gate: of their shape; what lies where this is not above zero counts as zero.
    """

    def __init__(self, inputs: Tensor, gate: Tensor | None = None) -> None:
        # Channels lie innermost, so that tiles move as runs of channels.
        self._inputs = inputs.contiguous(memory_format=torch.channels_last)
        self._gate = None if gate is None else gate.contiguous(memory_format=torch.channels_last)
        self.images, self.sides, self.dtype = len(inputs), (inputs.shape[2], inputs.shape[3]), inputs.dtype
        self._pages = pages_of(self._inputs)
        self._gates = pages_of(self._inputs[:, :, :0] if self._gate is None else self._gate)

    def take(self, image: int, begin: int, end: int, columns: int, padding: int, taken: Array, place: int) -> None:
        """See `TileSource`."""
        # Not where nothing can be compiled.
        from workers.compiled.tile_transforms import take_tiles

        take_tiles(self._pages[image], self._gates[image], begin, end, columns, padding, taken, place)

    def alive(self, few: int) -> Tensor:
        """See `Slopes`."""
        return _alive(self._pages, self._gates, few)

    def some(self, images: Tensor) -> TilePage:
        """See `Slopes`."""
        return TilePage(self._inputs[images], None if self._gate is None else self._gate[images])

    def planes(self, image: int, channels: Tensor) -> Tensor:
        """See `Slopes`."""
        planes = self._inputs[image, channels]
        return planes if self._gate is None else planes.masked_fill(self._gate[image, channels] <= 0, 0)


class PooledPage:
    """The slopes of outputs that were rectified and pooled, 2×2 pixels at a time: each went to the window's largest.

    Args:
        slopes: N×K×h×w, those of what the pooling gave.
        places: N×K×h×w, uint8: 0 where the largest was not above zero, else 1 to 4, row by row.
        sides: height and width of what was pooled; an odd last row or column of it has no slopes.
    """

    def __init__(self, slopes: Tensor, places: Tensor, sides: tuple[int, int]) -> None:
        self._slopes = slopes.contiguous(memory_format=torch.channels_last)
        self._places = places.contiguous(memory_format=torch.channels_last)
        self.images, self.sides, self.dtype = len(slopes), sides, slopes.dtype
        self._pages, self._windows = pages_of(self._slopes), self._places.permute(0, 2, 3, 1).numpy()

    def take(self, image: int, begin: int, end: int, columns: int, padding: int, taken: Array, place: int) -> None:
        """See `TileSource`."""
        from workers.compiled.tile_transforms import take_pooled_tiles

        take_pooled_tiles(self._pages[image], self._windows[image], begin, end, columns, padding, taken, place)

    def alive(self, few: int) -> Tensor:
        """See `Slopes`."""
        return _alive(self._pages, self._windows, few)

    def some(self, images: Tensor) -> PooledPage:
        """See `Slopes`."""
        return PooledPage(self._slopes[images], self._places[images], self.sides)

    def planes(self, image: int, channels: Tensor) -> Tensor:
        """See `Slopes`."""
        slopes, places = self._slopes[image, channels], self._places[image, channels]
        height, width = slopes.shape[1:]
        planes = slopes.new_zeros(len(slopes), *self.sides)
        for which in range(4):
            there = planes[:, which // 2 : 2 * height : 2, which % 2 : 2 * width : 2]
            there.copy_(slopes.masked_fill(places != which + 1, 0))
        return planes


def _alive(slopes: Array, gates: Array | npt.NDArray[np.uint8], few: int) -> Tensor:
    """Of N×H×W×K."""
    from workers.compiled.pixel_loops import find_alive

    channels = slopes.shape[3]
    alive = np.zeros((len(slopes), channels), np.bool_)
    for page, gate, found in zip(slopes, gates, alive, strict=True):
        find_alive(page.reshape(-1, channels), gate.reshape(-1, gate.shape[2]), EVERY, few, found)
    return torch.from_numpy(alive)
