"""The products of minimal filtering, tile by tile through the cache, on as many threads as torch computes with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from workers.compiled.arrays import Array, as_array
from workers.compiled.threads import parts, shares, side_by_side

PRODUCTS = 36

CHUNK_BYTES = 28_672
"""Of a chunk's tiles in one of the products: a chunk stays in the cache, and its products are large enough (measured on
an AVX-512 core)."""

LEAST_TILES, MOST_TILES = 112, 224
"""Of a chunk, whatever its channels."""

TILES_TOGETHER = 512
"""Of several images of small maps: products so large cost least, and larger ones would only take memory."""


Move = Callable[[Array, int, int, int, int], None]
"""Moves tiles: of 36×T×C or 36×T×K, from a place on, those of an image, from one tile to another."""


def chunk_tiles(kernels: Tensor) -> int:
    """How many tiles go through the cache at once."""
    return min(MOST_TILES, max(LEAST_TILES, CHUNK_BYTES // (max(kernels.shape[1:]) * kernels.itemsize)))


def multiply_tiles(take: Move, kernels: Tensor, lay: Move, images: int, tiles: int) -> None:
    """Take every tile of every image, multiply it, and lay its outputs down.

    In float32 an image's outputs do not depend on the other images, bit for bit.

    Args:
        take: fills 36×T×C from an image; called by several threads, as `lay` is.
        kernels: 36×C×K.
        lay: reads 36×T×K.
        images, tiles: how many, and of how many tiles each.
    """
    bounds = parts(tiles, -(-tiles // chunk_tiles(kernels)))
    # Products of float32 are those of one image each, so that its bits are its own.
    apart = kernels.dtype == torch.float32
    if len(bounds) > 1 or (apart and images % torch.get_num_threads() == 0):  # else a thread would wait for another
        _through(take, kernels, lay, [(image, *pair) for image in range(images) for pair in bounds])
        return
    together = 1 if apart else max(1, TILES_TOGETHER // tiles)
    for first in range(0, images, together):
        _split(take, kernels, lay, range(first, min(first + together, images)), tiles)


def _through(take: Move, kernels: Tensor, lay: Move, chunks: Iterable[tuple[int, int, int]]) -> None:
    """One chunk after the other all the way through a thread's cache: an image's tiles, from one to another."""
    left = iter(chunks)

    def work() -> None:
        size = 0
        for image, begin, end in left:  # each thread takes the next that is left
            if end - begin != size:
                size = end - begin
                taken, products = _buffers(kernels, size)
                inputs, outputs = as_array(taken), as_array(products)
            take(inputs, 0, image, begin, end)
            torch.bmm(taken, kernels, out=products)
            lay(outputs, 0, image, begin, end)

    side_by_side([work] * torch.get_num_threads())


def _split(take: Move, kernels: Tensor, lay: Move, images: range, tiles: int) -> None:
    """All tiles of some images, which are few, are multiplied together, some products in each thread."""
    taken, products = _buffers(kernels, tiles * len(images))
    inputs, outputs = as_array(taken), as_array(products)
    places = [
        (tiles * number + begin, image, begin, end)
        for number, image in enumerate(images)
        for begin, end in shares(tiles)
    ]

    def multiply(begin: int, end: int) -> None:
        torch.bmm(taken[begin:end], kernels[begin:end], out=products[begin:end])

    side_by_side([partial(take, inputs, *place) for place in places])
    side_by_side([partial(multiply, *pair) for pair in shares(PRODUCTS)])
    side_by_side([partial(lay, outputs, *place) for place in places])


_kept = threading.local()


def _buffers(kernels: Tensor, tiles: int) -> tuple[Tensor, Tensor]:
    """Room for 36×T×C and 36×T×K, kept by each thread from call to call.

    Fresh memory would be given back to the system and faulted in again at every chunk, which takes as long as the
    products do.
    """
    sizes = [PRODUCTS * tiles * channels for channels in kernels.shape[1:]]
    kept: dict[torch.dtype, Tensor] = _kept.__dict__.setdefault("rooms", {})
    if kernels.dtype not in kept or len(kept[kernels.dtype]) < sum(sizes):
        kept[kernels.dtype] = kernels.new_empty(sum(sizes))
    room = kept[kernels.dtype]
    halves = room[: sizes[0]], room[sizes[0] : sum(sizes)]
    taken, products = (half.view(PRODUCTS, tiles, -1) for half in halves)
    return taken, products
