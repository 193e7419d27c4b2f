"""CKA of matched layers from batches of images, with an interval.

Source: Kornblith et al. 2019, section 3; HSIC1 of Song et al. 2012, section 3.1, summed over minibatches and divided at
the end (Nguyen et al. 2021, equation 3). The interval is a percentile bootstrap over the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_IMAGES = 4
"""Of a batch: HSIC1 divides by n(n − 3)."""
FEWEST_BATCHES = 5
"""For an interval."""
WISHED_BATCHES = 8


@dataclass
class Alignment:
    """CKA of L pairs of layers.

    Attributes:
        cka: L float64; NaN where a side does not vary.
        low, high: ends of the 95 % interval, L; None where there are too few batches.
        resamples: R×L, the CKA of each resample; the estimate alone where there is no interval.
    """

    cka: Tensor
    low: Tensor | None
    high: Tensor | None
    resamples: Tensor


def batch_edges(images: int, most: int) -> list[int]:
    """Where the batches begin and end: of nearly equal size, at least eight of them where there are 32 images.

    Args:
        most: images of a batch.
    """
    size = max(FEWEST_IMAGES, min(most, images // WISHED_BATCHES))
    count = max(1, images // size)
    return [round(images * k / count) for k in range(count + 1)]


def hsics(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """HSIC1 of each pair of U-centred Grams n×n, up to a factor that all three share: L×3 (cross, ours, theirs)."""
    n = len(ours[0]) if ours else FEWEST_IMAGES
    scale = n * (n - 3)
    rows = [[(a * b).sum(), (a * a).sum(), (b * b).sum()] for a, b in zip(ours, theirs, strict=True)]
    return torch.stack([torch.stack(row) for row in rows]) / scale


def align(batches: Tensor, resamples: int, seed: int) -> Alignment:
    """CKA from the HSICs of B batches, B×L×3.

    Two networks that are one give exactly 1 in every resample: x/√(x·x) is 1 in IEEE arithmetic.
    """
    count = len(batches)
    whole = _cka(batches, torch.ones(1, count, dtype=torch.float64))[0]
    if count < FEWEST_BATCHES or resamples == 0:
        return Alignment(whole, None, None, whole[None])
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    times = torch.nn.functional.one_hot(drawn, count).sum(dim=1).double()
    found = _cka(batches, times)
    limits = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.nanquantile(found, limits, dim=0)
    return Alignment(whole, low, high, found)


def _cka(batches: Tensor, times: Tensor) -> Tensor:
    """R×L, from batches B×L×3 each taken so many times, R×B."""
    cross, ours, theirs = ((times[:, :, None] * batches[None, :, :, k]).sum(dim=1) for k in range(3))
    varies = (ours > 0) & (theirs > 0)
    return torch.where(varies, cross / (ours * theirs).sqrt(), torch.nan)
