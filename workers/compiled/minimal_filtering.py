"""3×3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4×4, 3×3).

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv 1509.09308), section 4, with the points
0, 1, −1, ½, −2 and infinity, which round less than 0, ±1, ±2 (Barabasz et al. 2018, arXiv 1803.10986).

A tile of 4×4 outputs is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A of the 6×6 inputs d under it, so the sum over channels is 36 matrix
products. The gradient is the convolution with the kernels turned round, and filters minimally as well. An input that is
no finite number spoils all outputs of the tiles that it lies under, not only those that it belongs to.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from workers.compiled.arrays import Array, pages_of
from workers.compiled.cook_toom import cook_toom
from workers.compiled.tile_pages import PooledPage, Slopes, TilePage, TileSource
from workers.compiled.tile_products import PRODUCTS, multiply_tiles

OUTPUTS, TAPS = 4, 3
POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2))

LEAST_CHANNELS = 64
"""Fewer do not fill the registers of the transforms."""

FEW = 4
"""Channels of an image that are convolved by the definition in less time than all of them minimally."""


@functools.cache
def can_filter() -> bool:
    """Whether what moves the tiles can be compiled here; a machine with a GPU may lack numba."""
    try:
        importlib.import_module("workers.compiled.tile_transforms")
    except ImportError:
        return False
    return True


class TransformedKernels:
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


def convolve(
    inputs: Tensor,
    kernels: TransformedKernels,
    bias: Tensor | None,
    padding: int,
    *,
    rectified: bool = False,
    pooled: bool = False,
) -> Tensor:
    """A 3×3 convolution of stride 1; differentiable once, with respect to `inputs` alone.

    In float32 an image's result does not depend on the other images of the batch, bit for bit.

    Args:
        inputs: N×C×H×W, of the kernels' type.
        bias: K numbers or None.
        padding: zeros on each side, 0 to 2.
        rectified: whether a ReLU follows, which then costs no passes through memory of its own; the same bits.
        pooled: whether a max-pooling of 2×2 pixels follows the ReLU; likewise.

    Returns:
        N×K×H′×W′ in channels_last.

    Raises:
        ValueError: `pooled` without `rectified`.
    """
    if pooled and not rectified:
        raise ValueError("what is pooled is rectified first")
    found: Tensor = _Convolution.apply(inputs, kernels, bias, padding, rectified, pooled)
    return found


class _Convolution(torch.autograd.Function):
    """See `convolve`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        kernels: TransformedKernels,
        bias: Tensor | None,
        padding: int,
        rectified: bool,
        pooled: bool,
    ) -> Tensor:
        ctx.kernels, ctx.padding = kernels, padding
        # torch's own layers before this one differentiate slowly where a gradient lies otherwise than what they gave.
        ctx.channels_last = inputs.is_contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch._C.DisableTorchFunction():  # one convolution to whoever watches
            page = TilePage(inputs)
            ctx.sides, ctx.places = _sides(page, padding), None
            if pooled:
                found, ctx.places = _filtered_and_pooled(page, kernels.forward, bias, padding)
                return found
            found = _filtered(page, kernels.forward, bias, padding, rectified=rectified)
        if rectified:
            ctx.save_for_backward(found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, None
        with torch.no_grad(), torch._C.DisableTorchFunction():
            gate = ctx.saved_tensors[0] if ctx.saved_tensors else None
            page = TilePage(slopes, gate) if ctx.places is None else PooledPage(slopes, ctx.places, ctx.sides)
            found = _turned(page, ctx.kernels, ctx.padding)
        return found if ctx.channels_last else found.contiguous(), None, None, None, None, None


def _sides(source: TileSource, padding: int) -> tuple[int, int]:
    """Height and width of the outputs."""
    height, width = source.sides
    return height + 2 * padding - TAPS + 1, width + 2 * padding - TAPS + 1


def _filtered(
    source: TileSource, kernels: Tensor, bias: Tensor | None, padding: int, *, rectified: bool = False
) -> Tensor:
    """N×C×H×W → N×K×H′×W′ in channels_last, by kernels of 36×C×K."""
    # Not where `can_filter` is false.
    from workers.compiled.tile_transforms import lay_tiles

    found = _maps(source, kernels, _sides(source, padding))
    pages, added = pages_of(found), _as_added(bias, kernels)

    def lay(products: Array, place: int, image: int, begin: int, end: int, columns: int) -> None:
        lay_tiles(products, place, added, rectified, begin, end, columns, pages[image])

    _multiply(source, kernels, padding, lay)
    return found


def _filtered_and_pooled(
    source: TileSource, kernels: Tensor, bias: Tensor | None, padding: int
) -> tuple[Tensor, Tensor]:
    """As `_filtered`, rectified and pooled; and the places of the largest, as `PooledPage` takes them."""
    from workers.compiled.tile_transforms import lay_pooled_tiles

    height, width = _sides(source, padding)
    found = _maps(source, kernels, (height // 2, width // 2))
    places = torch.empty_like(found, dtype=torch.uint8)
    pages, windows, added = pages_of(found), places.permute(0, 2, 3, 1).numpy(), _as_added(bias, kernels)

    def lay(products: Array, place: int, image: int, begin: int, end: int, columns: int) -> None:
        lay_pooled_tiles(products, place, added, begin, end, columns, pages[image], windows[image])

    _multiply(source, kernels, padding, lay)
    return found, places


def _maps(source: TileSource, kernels: Tensor, sides: tuple[int, int]) -> Tensor:
    """Room for what is found: no view, so that an in-place ReLU may follow."""
    shape = (source.images, kernels.shape[2], *sides)
    return torch.empty(shape, dtype=source.dtype, memory_format=torch.channels_last)


def _as_added(bias: Tensor | None, kernels: Tensor) -> Any:
    return (torch.zeros(kernels.shape[2]) if bias is None else bias.float()).numpy()


def _multiply(source: TileSource, kernels: Tensor, padding: int, lay: Callable[..., None]) -> None:
    """All tiles of a convolution, from its source to where `lay` puts them."""
    rows, columns = (-(-side // OUTPUTS) for side in _sides(source, padding))

    def take(taken: Array, place: int, image: int, begin: int, end: int) -> None:
        source.take(image, begin, end, columns, padding, taken, place)

    multiply_tiles(take, kernels, partial(lay, columns=columns), source.images, rows * columns)


def _turned(slopes: Slopes, kernels: TransformedKernels, padding: int) -> Tensor:
    """The gradient with respect to the inputs, N×C×H×W in channels_last.

    One channel's objective leaves an image slopes in a few channels only, and these are convolved by the definition.
    Each image goes its own way, so that its bits are its own.
    """
    alive = slopes.alive(FEW)
    few = alive.sum(1) <= FEW
    if not few.any():
        return _filtered(slopes, kernels.backward, None, TAPS - 1 - padding)
    sparse = _of_few(slopes.some(few), alive[few], kernels.weight, padding)
    if few.all():
        return sparse
    found = torch.empty((slopes.images, *sparse.shape[1:]), dtype=slopes.dtype, memory_format=torch.channels_last)
    found[few] = sparse
    found[~few] = _filtered(slopes.some(~few), kernels.backward, None, TAPS - 1 - padding)
    return found


def _of_few(slopes: Slopes, alive: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The gradient by the definition, of the channels that are alive in each image."""
    edge = TAPS - 1 - padding
    shape = (slopes.images, weight.shape[1], *_sides(slopes, edge))
    found = torch.empty(shape, dtype=slopes.dtype, memory_format=torch.channels_last)
    for number, (page, chosen) in enumerate(zip(found.permute(0, 2, 3, 1), alive, strict=True)):
        taps = weight[chosen].flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)
        around = functional.pad(slopes.planes(number, chosen), (edge,) * 4).unfold(1, TAPS, 1).unfold(2, TAPS, 1)
        torch.mm(around.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1), taps, out=page.flatten(0, 1))
    return found
