"""The matrices of minimal filtering in one dimension, from the points at which polynomials are multiplied.

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv 1509.09308), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor


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
