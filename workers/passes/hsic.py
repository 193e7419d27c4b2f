"""HSIC and CKA: Grams, their centring, all pairs at once, and the baselines one should read them against.

Sources: Gretton 2005 (HSIC, biased), Song 2012 (HSIC1, unbiased), Kornblith 2019 (CKA, section 3), Nguyen 2021
(minibatches), Murphy 2024 (the bias). Features are centred before any Gram is made: mathematically this changes
nothing, in float32 it decides whether the answer has any digits (an offset of 1000 costs all of them otherwise).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["biased", "debiased"]

GRAM_PARTS, LEAST_PART = 4, 512


def center_columns(features: Tensor) -> Tensor:
    """Subtract each column's mean over the samples: (…, n, p) → (…, n, p)."""
    return features - features.mean(dim=-2, keepdim=True)


def constant(features: Tensor) -> Tensor:
    """Which feature matrices do not vary at all over the samples: (…, n, p) → bool (…)."""
    return (features == features[..., :1, :]).all(dim=-1).all(dim=-1)


def gram_linear(features: Tensor) -> Tensor:
    """Linear Gram of centred features: (…, n, p) → (…, n, n)."""
    return features @ features.mT


def offset_free_gram(features: Tensor) -> Tensor:
    """Linear Gram of one feature matrix, fit to be centred afterwards in float64: (n, p) → (n, n).

    Centring the Gram spares every pass over the features but loses the digits that a common offset takes. Where less
    than a hundredth of the power is variance (two of float32's seven digits) the first sample is taken off all of them,
    which leaves no offset unless it is an outlier itself; then it is the mean. Features that do not vary at all give
    exact zeros.
    """
    gram = _gram_of_wide(features)
    if not _mostly_offset(gram):
        return gram
    shifted = features - features[:1]
    gram = _gram_of_wide(shifted)
    return gram_linear(center_columns(shifted)) if _mostly_offset(gram) else gram


def _gram_of_wide(features: Tensor) -> Tensor:
    """X Xᵀ of a few rows of many features, (n, p) → (n, n), summed over parts of the features.

    One product n × n has too few numbers for cores to share; the sum over parts takes three quarters of its time.
    """
    p = features.shape[1]
    width = p // GRAM_PARTS
    if width < LEAST_PART or features.device.type != "cpu" or not features.is_contiguous():
        return features @ features.T
    parts = features[:, : GRAM_PARTS * width].view(-1, GRAM_PARTS, width).transpose(0, 1)
    rest = features[:, GRAM_PARTS * width :]
    return torch.bmm(parts, parts.mT).sum(dim=0) + rest @ rest.T


def _mostly_offset(gram: Tensor) -> bool:
    """Whether less than a hundredth of a raw Gram's trace is left by centring: tr HKH = tr K − ΣK/n."""
    return float(gram.sum()) > 0.99 * gram.shape[0] * float(gram.trace())


def squared_distances(gram: Tensor) -> Tensor:
    """Squared distances between samples from their linear Gram: (…, n, n) → (…, n, n), zeros on the diagonal."""
    norms = gram.diagonal(dim1=-2, dim2=-1)
    squared = (norms[..., :, None] + norms[..., None, :] - 2 * gram).clamp_min(0)
    squared.diagonal(dim1=-2, dim2=-1).zero_()
    return squared


def median_bandwidth(squared: Tensor, fraction: float) -> Tensor:
    """RBF bandwidth σ = fraction · median off-diagonal distance: (…, n, n) → (…).

    The diagonal's zeros are no distances and are left out (Kornblith 2019, section 4, leaves this open).
    """
    n = squared.shape[-1]
    rows, columns = torch.triu_indices(n, n, offset=1, device=squared.device)
    return fraction * squared[..., rows, columns].median(dim=-1).values.sqrt()


def gram_rbf(squared: Tensor, sigma: Tensor) -> Tensor:
    """RBF Gram exp(−d²/2σ²) from squared distances (…, n, n) and bandwidths (…)."""
    return torch.exp(-squared / (2 * sigma[..., None, None] ** 2))


def center_gram(gram: Tensor, estimator: Estimator) -> Tensor:
    """A Gram made ready for HSIC: HKH for `biased`, U-centred for `debiased` (Song 2012, section 3.1).

    U(K)_ij = K_ij − r_i/(n−2) − r_j/(n−2) + t/((n−1)(n−2)) with row sums r and total t without the diagonal; zero
    diagonal. Then HSIC1(K, L) = ⟨U(K), U(L)⟩/(n(n−3)), so HSIC1(K, K) is never negative.

    Args:
        gram: (…, n, n), symmetric; n ≥ 2 for `biased`, n ≥ 4 for `debiased`.
    """
    if estimator == "biased":
        rows = gram.mean(dim=-1, keepdim=True)
        return gram - rows - rows.mT + rows.mean(dim=-2, keepdim=True)
    n = gram.shape[-1]
    centred = gram.clone()
    centred.diagonal(dim1=-2, dim2=-1).zero_()
    rows = centred.sum(dim=-1, keepdim=True)
    total = rows.sum(dim=-2, keepdim=True)
    centred = centred - rows / (n - 2) - rows.mT / (n - 2) + total / ((n - 1) * (n - 2))
    centred.diagonal(dim1=-2, dim2=-1).zero_()
    return centred


def divisor(n: int, estimator: Estimator) -> float:
    """What ⟨K̃, L̃⟩ is divided by: (n−1)² for `biased`, n(n−3) for `debiased`."""
    return float((n - 1) ** 2 if estimator == "biased" else n * (n - 3))


def pairs(left: Tensor, right: Tensor, estimator: Estimator) -> Tensor:
    """HSIC of all pairs by one matrix product: centred Grams (P, n, n) and (Q, n, n) → (P, Q)."""
    n = left.shape[-1]
    return left.reshape(left.shape[0], -1) @ right.reshape(right.shape[0], -1).T / divisor(n, estimator)


def pairs_by_features(left: Tensor, right: Tensor, estimator: Estimator) -> Tensor:
    """HSIC of all pairs of linear kernels without Grams: centred features (P, n, p) and (Q, n, q) → (P, Q).

    ⟨XXᵀ, YYᵀ⟩ = ‖XᵀY‖². With zero column sums the row sums of a Gram without its diagonal are minus that diagonal d,
    so ⟨U(K), U(L)⟩ = ‖XᵀY‖² − d·e + tr K tr L/((n−1)(n−2)) − 2 d·e/(n−2). Cheaper than Grams when n is large.
    """
    (rows, n, p), (columns, _, q) = left.shape, right.shape
    stacked = right.permute(1, 0, 2).reshape(n, columns * q)
    parts = []
    block = max(1, 2**24 // max(columns * p * q, 1))
    for start in range(0, rows, block):
        chunk = left[start : start + block]
        cross = chunk.permute(0, 2, 1).reshape(-1, n) @ stacked
        parts.append(cross.reshape(-1, p, columns, q).square().sum(dim=(1, 3)))
    inner = torch.cat(parts)
    if estimator == "debiased":
        ours, theirs = left.square().sum(dim=-1), right.square().sum(dim=-1)  # (P, n), (Q, n)
        inner = inner - ours @ theirs.T * (1 + 2 / (n - 2))
        inner = inner + torch.outer(ours.sum(dim=-1), theirs.sum(dim=-1)) / ((n - 1) * (n - 2))
    return inner / divisor(n, estimator)


def grams_are_cheaper(channels: int, n: int, p: int) -> bool:
    """Whether all pairs of `channels` feature matrices n × p cost fewer products by Grams than by features."""
    return n * n * (p + channels) <= n * channels * p * p


def cka(cross: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """CKA from HSICs (Kornblith 2019, equation 4): cross (P, Q), selves (P,) and (Q,) → (P, Q).

    NaN where a side does not vary: nothing can be said of it, neither 0 nor 1. Debiased values may be negative and are
    left so.
    """
    scale = torch.where(left > 0, left, torch.nan).rsqrt()[:, None] * torch.where(right > 0, right, torch.nan).rsqrt()
    return cross * scale


def permuted(left_traces: Tensor, right_traces: Tensor, n: int) -> Tensor:
    """Mean of biased HSIC over all pairings of the samples, exactly: traces of HKH, (P,) and (Q,) → (P, Q).

    A random permutation leaves of L only tr L/(n−1) on the diagonal, so the mean of ⟨K, PLPᵀ⟩ is tr K tr L/(n−1):
    what unrelated features of the same spectra would score. For U-centred Grams the mean is exactly zero. Divided by
    the norms it is, for isotropic features, √(pq/((n+p)(n+q))) (Murphy 2024).
    """
    return torch.outer(left_traces, right_traces) / (n - 1) / divisor(n, "biased")
