"""3×3 convolutions with a quarter of the multiplications: Winograd's minimal filtering F(4×4, 3×3).

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv 1509.09308), section 4, with the points
0, 1, −1, ½, −2 and infinity, which round less than 0, ±1, ±2 (Barabasz et al. 2018, arXiv 1803.10986).

A tile of 4×4 outputs is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A of the 6×6 inputs d under it, so the sum over channels is 36 matrix
products. The gradient is the exact adjoint: the same factors, transposed.

Import rule: torch only.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

OUTPUTS, TAPS = 4, 3
POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2))
SIDE = OUTPUTS + TAPS - 1

TILES_AT_ONCE = 100
"""What keeps a chunk's tiles in the cache, and its matrix products large enough (measured on an AVX-512 core)."""


def cook_toom(points: Sequence[Fraction], outputs: int, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """The matrices Aᵀ (outputs×n), G (n×taps) and Bᵀ (n×n), n = outputs + taps − 1, of a one-dimensional filter.

    Evaluation at `points` and at infinity, then interpolation (Cook–Toom; Lavin & Gray 2016, section 4).

    Returns:
        Three float64 tensors, exact where the fractions are.
    """
    count = outputs + taps - 1
    if len(points) != count - 1:
        raise ValueError(f"F({outputs}, {taps}) takes {count - 1} points and infinity, not {len(points)}")

    def powers(length: int) -> list[list[Fraction]]:
        at_infinity = [Fraction(0)] * (length - 1) + [Fraction(1)]
        return [[point**exponent for exponent in range(length)] for point in points] + [at_infinity]

    def product(roots: Sequence[Fraction]) -> list[Fraction]:
        """Coefficients of ∏ (x − root), the lowest first."""
        found = [Fraction(1)]
        for root in roots:
            shifted, scaled = [Fraction(0), *found], [*(-root * one for one in found), Fraction(0)]
            found = [a + b for a, b in zip(shifted, scaled, strict=True)]
        return found

    others = [[*points[:k], *points[k + 1 :]] for k in range(count - 1)]
    scales = [Fraction(1)] * count
    for k, rest in enumerate(others):
        for other in rest:
            scales[k] *= points[k] - other
    inputs = [[*product(rest), Fraction(0)] for rest in others] + [product(points)]
    kernel = [[one / scale for one in row] for row, scale in zip(powers(taps), scales, strict=True)]
    return _matrix(powers(outputs)).T.contiguous(), _matrix(kernel), _matrix(inputs)


def _matrix(rows: Sequence[Sequence[Fraction]]) -> Tensor:
    return torch.tensor([[float(one) for one in row] for row in rows], dtype=torch.float64)


_TO_OUTPUTS, _FROM_KERNEL, _FROM_INPUTS = cook_toom(POINTS, OUTPUTS, TAPS)
_OUTPUTS_2D = torch.kron(_TO_OUTPUTS, _TO_OUTPUTS)
"""16×36: the products of a tile → its outputs."""

_INPUTS_2D = torch.kron(_FROM_INPUTS, _FROM_INPUTS)
"""36×36: the inputs of a tile → one side of the products."""


def factors(weight: Tensor) -> Tensor:
    """G g Gᵀ of every kernel.

    Args:
        weight: K×C×3×3.

    Returns:
        36×K×C, of the weight's type.
    """
    kernel = _FROM_KERNEL.to(weight.device)
    spread = torch.einsum("ia,kcab,jb->ijkc", kernel, weight.double(), kernel)
    return spread.reshape(SIDE * SIDE, *weight.shape[:2]).to(weight.dtype).contiguous()


def convolve(inputs: Tensor, spread: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """A 3×3 convolution of stride 1; differentiable once, with respect to `inputs` alone.

    An image's result does not depend on the other images of the batch, bit for bit.

    Args:
        inputs: N×C×H×W.
        spread: `factors(weight)`, 36×K×C.
        bias: K numbers or None.
        padding: zeros on each side.

    Returns:
        N×K×H′×W′ in channels_last.
    """
    found: Tensor = _Convolution.apply(inputs, spread, bias, padding)
    return found


class _Tiling:
    """How an image of H×W is covered by tiles of 4×4 outputs, in chunks of tile rows."""

    def __init__(self, height: int, width: int, padding: int) -> None:
        self.padding = padding
        self.inputs = (height, width)
        self.outputs = (height + 2 * padding - 2, width + 2 * padding - 2)
        self.tiles = tuple(-(-side // OUTPUTS) for side in self.outputs)
        self.canvas = tuple(count * OUTPUTS + 2 for count in self.tiles)
        rows, columns = self.tiles
        self.rows = min(rows, max(1, round(TILES_AT_ONCE / columns)))
        self.chunks = [(start, min(start + self.rows, rows)) for start in range(0, rows, self.rows)]

    def inside(self, canvas: Tensor) -> Tensor:
        """The part of a canvas (rows×columns×channels) that is the image."""
        start = self.padding
        return canvas[start : start + self.inputs[0], start : start + self.inputs[1]]


class _Buffers:
    """The tensors that a chunk's tiles pass through, kept from chunk to chunk.

    Fresh ones would be given back to the system and faulted in again at every chunk, which takes as long as the
    products do.
    """

    def __init__(self, like: Tensor, tiling: _Tiling, spread: Tensor) -> None:
        _, outs, ins = spread.shape
        count = tiling.rows * tiling.tiles[1]
        self._tiles = like.new_empty(SIDE * SIDE * count * max(ins, outs))
        self._left = torch.empty_like(self._tiles)
        self._spread = spread
        self._to_outputs, self._from_inputs = _OUTPUTS_2D.to(like), _INPUTS_2D.to(like)

    def forward(self, canvas: Tensor, bias: Tensor | None) -> Tensor:
        """Some rows of tiles: canvas (4r+2)×(4t+2)×C → outputs r×4×t×4×K, a view that the next chunk overwrites."""
        rows, columns = canvas.shape[0] // OUTPUTS, canvas.shape[1] // OUTPUTS
        channels, (down, right, _) = canvas.shape[2], canvas.stride()
        count, outs = rows * columns, self._spread.shape[1]
        gathered = self._part(self._tiles, SIDE * SIDE, count * channels)
        overlapping = (SIDE, SIDE, rows, columns, channels), (down, right, OUTPUTS * down, OUTPUTS * right, 1)
        gathered.view(overlapping[0]).copy_(canvas.as_strided(*overlapping))
        seen = torch.mm(self._from_inputs, gathered, out=self._part(self._left, SIDE * SIDE, count * channels))
        products = self._part(self._tiles, SIDE * SIDE, count * outs)
        torch.bmm(seen.view(-1, count, channels), self._spread.transpose(1, 2), out=products.view(-1, count, outs))
        found = torch.mm(self._to_outputs, products, out=self._part(self._left, OUTPUTS * OUTPUTS, count * outs))
        tiles = found.view(OUTPUTS, OUTPUTS, rows, columns, outs)
        if bias is not None:
            tiles += bias
        return tiles.permute(2, 0, 3, 1, 4)

    def backward(self, slopes: Tensor, canvas: Tensor) -> None:
        """The adjoint of `forward` without bias: slopes 4r×4t×K → added to the canvas (4r+2)×(4t+2)×C."""
        rows, columns = slopes.shape[0] // OUTPUTS, slopes.shape[1] // OUTPUTS
        count, (_, outs, ins) = rows * columns, self._spread.shape
        gathered = self._part(self._tiles, OUTPUTS * OUTPUTS, count * outs)
        apart = slopes.view(rows, OUTPUTS, columns, OUTPUTS, outs).permute(1, 3, 0, 2, 4)
        gathered.view(apart.shape).copy_(apart)
        products = torch.mm(self._to_outputs.T, gathered, out=self._part(self._left, SIDE * SIDE, count * outs))
        seen = self._part(self._tiles, SIDE * SIDE, count * ins)
        torch.bmm(products.view(-1, count, outs), self._spread, out=seen.view(-1, count, ins))
        found = torch.mm(self._from_inputs.T, seen, out=self._part(self._left, SIDE * SIDE, count * ins))
        _add_overlapping(found.view(SIDE, SIDE, rows, columns, ins), canvas)

    @staticmethod
    def _part(buffer: Tensor, rows: int, columns: int) -> Tensor:
        return buffer[: rows * columns].view(rows, columns)


def _add_overlapping(tiles: Tensor, canvas: Tensor) -> None:
    """Tiles 6×6×r×t×C, each four further than the one before, are added to a canvas (4r+2)×(4t+2)×C."""
    down, right, _ = canvas.stride()
    parts = (slice(0, OUTPUTS), slice(OUTPUTS, SIDE))
    for across in parts:  # a tile's last two rows and columns lie on its neighbours' first
        for along in parts:
            here = tiles[across, along].permute(2, 0, 3, 1, 4)
            corner = canvas[across.start :, along.start :]
            place = corner.as_strided(here.shape, (OUTPUTS * down, down, OUTPUTS * right, right, 1))
            place += here


class _Convolution(torch.autograd.Function):
    """See `convolve`. Channels lie innermost throughout, so that tiles move as runs of channels."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, spread: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        images, channels, height, width = inputs.shape
        tiling = _Tiling(height, width, padding)
        ctx.tiling = tiling
        # torch's own layers before this one differentiate slowly where a gradient lies otherwise than what they gave.
        ctx.channels_last = inputs.is_contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(spread)
        with torch._C.DisableTorchFunction():  # what happens in here is one convolution to whoever watches
            buffers = _Buffers(inputs, tiling, spread)
            canvas = inputs.new_zeros(*tiling.canvas, channels)
            outputs = _empty(inputs, (images, spread.shape[1], *tiling.outputs), channels_last=True)
            for image in range(images):
                tiling.inside(canvas).copy_(inputs[image].permute(1, 2, 0))
                page = outputs[image].permute(1, 2, 0)
                for start, end in tiling.chunks:
                    tiles = buffers.forward(canvas[start * OUTPUTS : end * OUTPUTS + 2], bias)
                    _lay(tiles, page[start * OUTPUTS : end * OUTPUTS])
            return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, None, None, None]:
        tiling: _Tiling = ctx.tiling
        (spread,) = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        with torch._C.DisableTorchFunction():
            images, channels = slopes.shape[:2]
            height, width = tiling.outputs
            buffers = _Buffers(slopes, tiling, spread)
            padded = slopes.new_zeros(*(count * OUTPUTS for count in tiling.tiles), channels)
            canvas = slopes.new_empty(*tiling.canvas, spread.shape[2])
            found = _empty(slopes, (images, spread.shape[2], *tiling.inputs), ctx.channels_last)
            for image in range(images):
                padded[:height, :width].copy_(slopes[image].permute(1, 2, 0))
                canvas.zero_()
                for start, end in tiling.chunks:
                    buffers.backward(
                        padded[start * OUTPUTS : end * OUTPUTS], canvas[start * OUTPUTS : end * OUTPUTS + 2]
                    )
                found[image].permute(1, 2, 0).copy_(tiling.inside(canvas))
            return found, None, None, None


def _empty(like: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """An empty tensor of N×C×H×W; no view, so that an in-place ReLU may follow."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _lay(tiles: Tensor, page: Tensor) -> None:
    """Tiles r×4×t×4×K onto a page H×W×K, which the last row and column of tiles may overlap."""
    rows, _, columns, _, channels = tiles.shape
    height, width, _ = page.shape
    if (height, width) == (rows * OUTPUTS, columns * OUTPUTS):
        down, right, _ = page.stride()
        page.as_strided(tiles.shape, (OUTPUTS * down, down, OUTPUTS * right, right, 1)).copy_(tiles)
    else:
        page.copy_(tiles.reshape(rows * OUTPUTS, columns * OUTPUTS, channels)[:height, :width])
