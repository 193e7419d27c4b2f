"""3×3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4×4, 3×3).

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv 1509.09308), section 4, with the points
0, 1, −1, ½, −2 and infinity, which round less than 0, ±1, ±2 (Barabasz et al. 2018, arXiv 1803.10986).

A tile of 4×4 outputs is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A of the 6×6 inputs d under it, so the sum over channels is 36 matrix
products. The gradient is the convolution with the kernels turned round, and filters minimally as well.

Import rule: torch and workers.mathematics.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from workers.mathematics.arrays import Array, as_array, pages_of
from workers.mathematics.cook_toom import cook_toom
from workers.mathematics.threads import parts, shares, side_by_side

OUTPUTS, TAPS = 4, 3
SIDE = OUTPUTS + TAPS - 1
PRODUCTS = SIDE * SIDE
POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2))

LEAST_CHANNELS = 64
"""Fewer do not fill the registers of the transforms."""

FEW = 4
"""Channels of an image that are convolved by the definition in less time than all of them minimally."""

EVERY = 499
"""Pixels from one to the next of those that a first look sees."""

TILES_AT_ONCE = 112
"""What keeps a chunk's tiles in the cache, and its matrix products large enough (measured on an AVX-512 core)."""

TILES_TOGETHER = 512
"""Of several images of small maps: products so large cost least, and larger ones would only take memory."""


@functools.cache
def can_filter() -> bool:
    """Whether what moves the tiles can be compiled here; a machine with a GPU may lack numba."""
    try:
        importlib.import_module("workers.mathematics.tile_transforms")
    except ImportError:
        return False
    return True


class Kernels:
    """The kernels of one convolution, transformed for the products when they are first needed.

    Args:
        weight: K×C×3×3, float32 or bfloat16, on the CPU; K and C at least LEAST_CHANNELS.
    """

    def __init__(self, weight: Tensor) -> None:
        if min(weight.shape[:2]) < LEAST_CHANNELS:
            raise ValueError(
                f"at least {LEAST_CHANNELS} channels in and out, not {weight.shape[1]} and {weight.shape[0]}"
            )
        self.weight = weight

    @cached_property
    def forward(self) -> Tensor:
        """36×C×K."""
        return _transformed(self.weight.permute(2, 3, 1, 0))

    @cached_property
    def backward(self) -> Tensor:
        """36×K×C, of the kernels turned round."""
        return _transformed(self.weight.permute(2, 3, 0, 1).flip(0, 1))

    @property
    def nbytes(self) -> int:
        """Bytes of what was transformed so far."""
        return sum(self.__dict__[name].nbytes for name in ("forward", "backward") if name in self.__dict__)


def _transformed(taps: Tensor) -> Tensor:
    """G g Gᵀ: 3×3×A×B → 36×A×B."""
    _, matrix, _ = cook_toom(POINTS, OUTPUTS, TAPS)
    with torch.no_grad(), torch._C.DisableTorchFunction():
        spread = torch.einsum("ia,jb,abck->ijck", matrix, matrix, taps.double())
        return spread.reshape(PRODUCTS, *taps.shape[2:]).to(taps.dtype).contiguous()


def convolve(inputs: Tensor, kernels: Kernels, bias: Tensor | None, padding: int, *, rectified: bool = False) -> Tensor:
    """A 3×3 convolution of stride 1; differentiable once, with respect to `inputs` alone.

    In float32 an image's result does not depend on the other images of the batch, bit for bit.

    Args:
        inputs: N×C×H×W, of the kernels' type.
        bias: K numbers or None.
        padding: zeros on each side, 0 to 2.
        rectified: whether a ReLU follows, which then costs no passes through memory of its own; the same bits.

    Returns:
        N×K×H′×W′ in channels_last.
    """
    found: Tensor = _Convolution.apply(inputs, kernels, bias, padding, rectified)
    return found


class _Convolution(torch.autograd.Function):
    """See `convolve`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, kernels: Kernels, bias: Tensor | None, padding: int, rectified: bool
    ) -> Tensor:
        ctx.kernels, ctx.padding = kernels, padding
        # torch's own layers before this one differentiate slowly where a gradient lies otherwise than what they gave.
        ctx.channels_last = inputs.is_contiguous(memory_format=torch.channels_last)
        found = _filtered(inputs, kernels.forward, bias, padding, rectified=rectified)
        if rectified:
            ctx.save_for_backward(found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        gate = ctx.saved_tensors[0] if ctx.saved_tensors else None
        found = _turned(slopes, gate, ctx.kernels, ctx.padding)
        return found if ctx.channels_last else found.contiguous(), None, None, None, None


def _turned(slopes: Tensor, gate: Tensor | None, kernels: Kernels, padding: int) -> Tensor:
    """The gradient with respect to the inputs, N×C×H×W in channels_last.

    One channel's objective leaves an image slopes in a few channels only, and these are convolved by the definition.
    Each image goes its own way, so that its bits are its own.

    Args:
        gate: of the slopes' shape; slopes count where it is above zero.
    """
    alive = _alive(slopes, gate)
    few = alive.sum(1) <= FEW
    if not few.any():
        return _filtered(slopes, kernels.backward, None, TAPS - 1 - padding, gate=gate)
    sparse = _of_few(slopes[few], None if gate is None else gate[few], alive[few], kernels.weight, padding)
    if few.all():
        return sparse
    found = torch.empty((len(slopes), *sparse.shape[1:]), dtype=slopes.dtype, memory_format=torch.channels_last)
    found[few] = sparse
    rest = None if gate is None else gate[~few]
    found[~few] = _filtered(slopes[~few], kernels.backward, None, TAPS - 1 - padding, gate=rest)
    return found


def _alive(slopes: Tensor, gate: Tensor | None) -> Tensor:
    """Which channels of which images have any slope that counts, N×K; of images with more than FEW, more of them."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        pixels = slopes.permute(0, 2, 3, 1).flatten(1, 2)
        gates = None if gate is None else gate.permute(0, 2, 3, 1).flatten(1, 2)
        alive = torch.ones(())
        for every in (EVERY, 1):  # a look at some pixels tells most of what has more
            seen = pixels[:, ::every]
            if gates is not None:
                seen = seen.masked_fill(gates[:, ::every] <= 0, 0)
            alive = (seen.amax(1) != 0) | (seen.amin(1) != 0)
            if int(alive.sum(1).min()) > FEW:
                break
        return alive


def _of_few(slopes: Tensor, gate: Tensor | None, alive: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The gradient by the definition, of the channels that are alive in each image."""
    with torch.no_grad(), torch._C.DisableTorchFunction():
        edge, (height, width) = TAPS - 1 - padding, slopes.shape[2:]
        sides = (height + 2 * edge - TAPS + 1, width + 2 * edge - TAPS + 1)
        shape = (len(slopes), weight.shape[1], *sides)
        found = torch.empty(shape, dtype=slopes.dtype, memory_format=torch.channels_last)
        for number, (page, chosen) in enumerate(zip(found.permute(0, 2, 3, 1), alive, strict=True)):
            taps = weight[chosen].flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)
            image = slopes[number, chosen]
            if gate is not None:
                image = image.masked_fill(gate[number, chosen] <= 0, 0)
            around = functional.pad(image, (edge,) * 4).unfold(1, TAPS, 1).unfold(2, TAPS, 1)
            torch.mm(around.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1), taps, out=page.flatten(0, 1))
        return found


def _filtered(
    inputs: Tensor,
    kernels: Tensor,
    bias: Tensor | None,
    padding: int,
    *,
    rectified: bool = False,
    gate: Tensor | None = None,
) -> Tensor:
    """N×C×H×W → N×K×H′×W′ in channels_last."""
    images, _, height, width = inputs.shape
    sides = (height + 2 * padding - TAPS + 1, width + 2 * padding - TAPS + 1)
    with torch.no_grad(), torch._C.DisableTorchFunction():  # one convolution to whoever watches
        # Channels lie innermost, so that tiles move as runs of channels.
        pages = inputs.contiguous(memory_format=torch.channels_last)
        gates = pages[:, :, :0] if gate is None else gate.contiguous(memory_format=torch.channels_last)
        # No view, so that an in-place ReLU may follow.
        shape = (images, kernels.shape[2], *sides)
        found = torch.empty(shape, dtype=inputs.dtype, memory_format=torch.channels_last)
        added = torch.zeros(kernels.shape[2]) if bias is None else bias.float()
        _Plan(pages, gates, kernels, added, rectified, padding, found).run()
        return found


class _Plan:
    """One convolution, cut into what threads can do side by side.

    Args:
        inputs: N×C×H×W in channels_last.
        gates: of their shape, or empty.
        kernels: 36×C×K.
        bias: K numbers, float32.
        rectified: whether negative outputs become zero.
        found: N×K×H′×W′ in channels_last, to be filled.
    """

    def __init__(
        self,
        inputs: Tensor,
        gates: Tensor,
        kernels: Tensor,
        bias: Tensor,
        rectified: bool,
        padding: int,
        found: Tensor,
    ) -> None:
        # Not where `can_filter` is false.
        from workers.mathematics import tile_transforms

        self._transforms = tile_transforms
        self._inputs, self._gates, self._outputs = pages_of(inputs), pages_of(gates), pages_of(found)
        self._bias, self._rectified = bias.numpy(), rectified
        self._kernels, self._padding = kernels, padding
        rows, self._columns = (-(-side // OUTPUTS) for side in found.shape[2:])
        self._tiles = rows * self._columns
        # Products of float32 are those of one image each, so that its bits are its own.
        self._together = 1 if inputs.dtype == torch.float32 else max(1, TILES_TOGETHER // self._tiles)

    def run(self) -> None:
        """Fill `found`."""
        images = range(len(self._inputs))
        if self._tiles <= TILES_AT_ONCE:  # all tiles are multiplied together, some products in each thread
            for first in images[:: self._together]:
                self._whole(images[first : first + self._together])
            return
        chunks = [(image, *pair) for image in images for pair in parts(self._tiles, -(-self._tiles // TILES_AT_ONCE))]
        side_by_side([partial(self._through, chunks[slice(*pair)]) for pair in shares(len(chunks))])

    def _through(self, chunks: Sequence[tuple[int, int, int]]) -> None:
        """Tiles of an image, from one to another, one chunk after the other all the way through a thread's cache."""
        size = 0
        for image, begin, end in chunks:
            if end - begin != size:
                size = end - begin
                taken, products = _buffers(self._kernels, size)
                inputs, outputs = as_array(taken), as_array(products)
            self._take(inputs, 0, image, begin, end)
            torch.bmm(taken, self._kernels, out=products)
            self._lay(outputs, 0, image, begin, end)

    def _whole(self, images: Sequence[int]) -> None:
        taken, products = _buffers(self._kernels, self._tiles * len(images))
        inputs, outputs = as_array(taken), as_array(products)
        parts = [
            (self._tiles * number + begin, image, begin, end)
            for number, image in enumerate(images)
            for begin, end in shares(self._tiles)
        ]
        side_by_side([partial(self._take, inputs, *part) for part in parts])
        side_by_side([partial(self._multiply, taken, products, slice(*pair)) for pair in shares(PRODUCTS)])
        side_by_side([partial(self._lay, outputs, *part) for part in parts])

    def _take(self, taken: Array, place: int, image: int, begin: int, end: int) -> None:
        page, gate = self._inputs[image], self._gates[image]
        self._transforms.take_tiles(page, gate, begin, end, self._columns, self._padding, taken, place)

    def _multiply(self, taken: Tensor, products: Tensor, share: slice) -> None:
        torch.bmm(taken[share], self._kernels[share], out=products[share])

    def _lay(self, products: Array, place: int, image: int, begin: int, end: int) -> None:
        page, added = self._outputs[image], (self._bias, self._rectified)
        self._transforms.lay_tiles(products, place, *added, begin, end, self._columns, page)


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
    parts = room[: sizes[0]], room[sizes[0] : sum(sizes)]
    taken, products = (part.view(PRODUCTS, tiles, -1) for part in parts)
    return taken, products
