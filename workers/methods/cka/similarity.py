"""A CKA matrix that grows batch by batch, with its baseline, interval and warnings; constant memory in the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.contract import MethodError
from workers.passes import hsic

FEWEST_SAMPLES = 4
BOOTSTRAP_BATCHES = 5
MOST_INTERVAL_ROWS = 128
PAIRING_ROWS = 64
DOMINANT_SHARE = 0.5
HIGH_FLOOR = 0.2


@dataclass(frozen=True)
class Estimation:
    """How HSIC is estimated: `fraction` is the RBF bandwidth in median distances, `batches` how many will be added."""

    kernel: str
    fraction: float
    estimator: hsic.Estimator
    permutations: int
    intervals: int
    seed: int
    batches: int


@dataclass
class Summary:
    """What a comparison found: matrix and HSICs (P, Q) in float64, limits of the 95 % interval where asked, facts."""

    matrix: Tensor
    hsic: Tensor
    low: Tensor | None
    high: Tensor | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """One side's features of one batch: n samples, seen by P rows, scaled to unit power; see the two ways to make it.

    Attributes:
        features: (P, n, p), centred, or None.
        grams: linear Grams (P, n, n) of centred features, or None.
        power: Σx² of each row before scaling, float64; 1 where it does not vary.
        varies: which rows vary over the samples, bool.
        dimensions: p of each row.
    """

    features: Tensor | None
    grams: Tensor | None
    power: Tensor
    varies: Tensor
    dimensions: list[int]

    @classmethod
    def of_channels(cls, features: Tensor) -> Samples:
        """From features of equal width (P, n, p), as the maps of a layer's channels are."""
        varies = ~hsic.constant(features)
        centred = hsic.center_columns(features)
        power = centred.double().square().sum(dim=(1, 2))
        _check_finite(power)
        varies = varies & (power > 0)
        power = torch.where(varies, power, 1.0)
        # A constant row is only rounding after centring; it is made exactly zero so that its HSIC is.
        scaled = centred * torch.where(varies, power.rsqrt(), 0.0).to(centred.dtype)[:, None, None]
        return cls(scaled, None, power, varies, [features.shape[2]] * len(features))

    @classmethod
    def of_grams(cls, grams: Sequence[Tensor], dimensions: Sequence[int]) -> Samples:
        """From Grams as `hsic.offset_free_gram` gives them, one for each layer, and the layers' widths p."""
        stacked = hsic.center_gram(torch.stack(list(grams)).double(), "biased")
        power = stacked.diagonal(dim1=1, dim2=2).sum(dim=1)
        _check_finite(power)
        varies = power > 0
        power = torch.where(varies, power, 1.0)
        return cls(None, stacked / power[:, None, None], power, varies, list(dimensions))

    @classmethod
    def of_layers(cls, features: Sequence[Tensor]) -> Samples:
        """From features (n, p) of any width, one for each layer."""
        return cls.of_grams([hsic.offset_free_gram(part) for part in features], [part.shape[1] for part in features])


def _check_finite(power: Tensor) -> None:
    if not bool(torch.isfinite(power).all()):
        raise MethodError("numerical-error", "some activations are not finite, so nothing can be compared")


class _Axis:
    """Rows or columns: what is remembered of them over all batches."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.varies = torch.zeros(len(labels), dtype=torch.bool)
        self.dominant = torch.zeros(len(labels), dtype=torch.float64)
        self.dimensions: list[int] = []
        self.sigma: Tensor | None = None

    def look(self, samples: Samples) -> None:
        """Remember which rows varied, and how much of the variance one sample holds."""
        self.dimensions = samples.dimensions
        self.varies |= samples.varies.cpu()
        if samples.features is not None:
            shares = samples.features.square().sum(dim=2)
        else:
            assert samples.grams is not None
            shares = samples.grams.diagonal(dim1=1, dim2=2)
        self.dominant = torch.maximum(self.dominant, shares.amax(dim=1).double().cpu())


class _PreparedBatch:
    """One side of one batch, ready for HSIC: as features where that is cheaper, else as Grams of the kernel."""

    def __init__(self, samples: Samples, side: _Axis, options: Estimation) -> None:
        side.look(samples)
        self.estimator = options.estimator
        self.varies = samples.varies
        self._power = samples.power
        self.features, self.raw = None, samples.grams
        if samples.features is not None:
            rows, self.n, p = samples.features.shape
            if options.kernel == "linear" and not hsic.grams_are_cheaper(rows, self.n, p):
                self.features = samples.features
            else:
                self.raw = hsic.gram_linear(samples.features)
        else:
            assert samples.grams is not None
            self.n = samples.grams.shape[-1]
        if options.kernel == "rbf":
            assert self.raw is not None
            squared, scale = hsic.squared_distances(self.raw), samples.power.sqrt().to(self.raw.dtype)
            if side.sigma is None:
                side.sigma = hsic.median_bandwidth(squared, options.fraction) * scale
            self.raw = hsic.gram_rbf(squared, torch.where(side.sigma > 0, side.sigma, 1.0) / scale)
            self._power = torch.ones_like(samples.power)

    def cross(self, other: _PreparedBatch, order: Tensor | None = None) -> Tensor:
        """HSIC with every row of `other`, whose samples are taken in `order`: float64 (P, Q)."""
        if self.features is not None and other.features is not None:
            theirs = other.features if order is None else other.features[:, order]
            found = hsic.pairs_by_features(self.features, theirs, self.estimator)
        else:
            theirs = other.centred()
            theirs = theirs if order is None else theirs[:, order][:, :, order]
            found = hsic.pairs(self.centred(), theirs, self.estimator)
        return found.double() * torch.outer(self._power, other._power)

    def selves(self) -> Tensor:
        """HSIC of each row with itself: float64 (P,), zero exactly where it does not vary."""
        if self.features is not None:
            found = [hsic.pairs_by_features(part[None], part[None], self.estimator)[0, 0] for part in self.features]
            return torch.stack(found).double() * self._power.square() * self.varies
        found_all = self.centred().flatten(1).double().square().sum(dim=1) / hsic.divisor(self.n, self.estimator)
        return found_all * self._power.square() * self.varies

    def centred(self) -> Tensor:
        """Centred Grams (P, n, n)."""
        return hsic.center_gram(self.grams(), self.estimator)

    def grams(self) -> Tensor:
        """Grams before centring (P, n, n)."""
        if self.raw is None:
            assert self.features is not None
            self.raw = hsic.gram_linear(self.features)
        return self.raw

    def traces(self) -> Tensor:
        """Traces of HKH, float64 (P,)."""
        if self.features is not None:
            found = self.features.double().square().sum(dim=(1, 2))
        else:
            found = hsic.center_gram(self.grams(), "biased").diagonal(dim1=-2, dim2=-1).double().sum(dim=1)
        return found * self._power

    def take(self, rows: int, samples: Tensor | None = None) -> _PreparedBatch:
        """The first `rows` rows, on some of the samples."""
        part = object.__new__(_PreparedBatch)
        part.estimator, part.features, part.raw = self.estimator, None, None
        part._power, part.varies = self._power[:rows], self.varies[:rows]
        part.n = self.n if samples is None else len(samples)
        if samples is None and self.features is not None:
            part.features = self.features[:rows]
        else:
            grams = self.grams()[:rows]
            part.raw = grams if samples is None else grams[:, samples][:, :, samples]
        return part


class _Sums:
    """HSICs summed over batches: the CKA is their quotient (Nguyen 2021, equation 3)."""

    def __init__(self) -> None:
        self.cross: Tensor | float = 0.0
        self.left: Tensor | float = 0.0
        self.right: Tensor | float = 0.0

    def add(self, cross: Tensor, left: Tensor, right: Tensor, weight: float = 1.0) -> None:
        self.cross = self.cross + weight * cross
        self.left = self.left + weight * left
        self.right = self.right + weight * right

    def cka(self) -> Tensor:
        assert isinstance(self.cross, Tensor) and isinstance(self.left, Tensor) and isinstance(self.right, Tensor)
        return hsic.cka(self.cross, self.left, self.right)


class Comparison:
    """CKA of every row with every column, accumulated over batches of samples.

    Args:
        rows: their labels.
        columns: labels of another side, or None to compare the rows with themselves.
        options: kernel, estimator, baselines.
    """

    def __init__(self, rows: Sequence[str], columns: Sequence[str] | None, options: Estimation) -> None:
        self._rows = _Axis(rows)
        self._columns = None if columns is None else _Axis(columns)
        self._options = options
        self._generator = torch.Generator().manual_seed(options.seed)
        self._sums = _Sums()
        self._permuted: Tensor | float = 0.0
        self._pairings = [_Sums() for _ in range(options.permutations)]
        widest = max(len(rows), len(columns or rows))
        self._intervals = options.intervals if widest <= MOST_INTERVAL_ROWS else 0
        self._resamples = [_Sums() for _ in range(self._intervals)]
        self._bootstrap = options.batches >= BOOTSTRAP_BATCHES
        self._samples: list[int] = []

    def add(self, rows: Samples, columns: Samples | None = None) -> None:
        """One batch: the features of the rows, and of the columns, over the same n ≥ 4 samples."""
        left = _PreparedBatch(rows, self._rows, self._options)
        right = (
            left if columns is None or self._columns is None else _PreparedBatch(columns, self._columns, self._options)
        )
        self._samples.append(left.n)
        cross = left.cross(right)
        if right is left:
            selves = cross.diagonal() * left.varies
            terms = cross, selves, selves
        else:
            terms = cross, left.selves(), right.selves()
        self._sums.add(*terms)
        if self._options.estimator == "biased":
            self._permuted = self._permuted + hsic.permuted(left.traces(), right.traces(), left.n)
        self._add_pairings(left.take(PAIRING_ROWS), right.take(PAIRING_ROWS))
        if self._bootstrap:
            weights = torch.poisson(torch.ones(max(self._intervals, 1)), generator=self._generator)
            for resample, weight in zip(self._resamples, weights.tolist(), strict=False):
                resample.add(*terms, weight=weight)
        elif left.n >= 2 * FEWEST_SAMPLES:
            self._add_halves(left, right)

    def _add_pairings(self, left: _PreparedBatch, right: _PreparedBatch) -> None:
        if not self._pairings:
            return
        selves = left.selves(), right.selves()
        for pairing in self._pairings:
            order = torch.randperm(left.n, generator=self._generator)
            pairing.add(left.cross(right, order), *selves)

    def _add_halves(self, left: _PreparedBatch, right: _PreparedBatch) -> None:
        for resample in self._resamples:
            half = torch.randperm(left.n, generator=self._generator)[: left.n // 2]
            ours = left.take(len(self._rows.labels), half)
            theirs = ours if right is left else right.take(len((self._columns or self._rows).labels), half)
            resample.add(ours.cross(theirs), ours.selves(), theirs.selves())

    def summary(self) -> Summary:
        """The matrix and what to read it against."""
        matrix = self._sums.cka().cpu()
        if self._columns is None:
            # Rounding apart the diagonal is one; said exactly, so that it can be relied on.
            defined = ~matrix.diagonal().isnan()
            matrix.diagonal()[defined] = 1.0
        low, high = self._interval(matrix)
        assert isinstance(self._sums.cross, Tensor)
        facts = self._facts(matrix, low, high)
        return Summary(matrix, self._sums.cross.cpu(), low, high, facts)

    def _interval(self, matrix: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if not self._resamples or not isinstance(self._resamples[0].cross, Tensor):
            return None, None
        drawn = torch.stack([resample.cka().cpu() for resample in self._resamples])
        if self._bootstrap:
            limits = torch.tensor([0.025, 0.975], dtype=drawn.dtype)
            low, high = torch.nanquantile(drawn, limits, dim=0)
            return low, high
        # Delete-half jackknife (Shao & Wu 1989): halves scatter as the whole would; their mean has another bias.
        spread = 1.96 * drawn.std(dim=0, unbiased=True) if len(drawn) > 1 else torch.zeros_like(matrix)
        return matrix - spread, matrix + spread

    def _facts(self, matrix: Tensor, low: Tensor | None, high: Tensor | None) -> dict[str, Any]:
        columns = self._columns or self._rows
        other = matrix
        if self._columns is None:
            other = matrix.clone()
            other.diagonal().fill_(torch.nan)
        method = None
        if low is not None:
            method = "bootstrap over batches" if self._bootstrap else "delete-half subsampling of the samples"
        rbf = self._rows.sigma is not None
        return {
            "rows": self._rows.labels,
            "columns": columns.labels,
            "samples": max(self._samples),
            "batches": len(self._samples),
            "features": self._rows.dimensions,
            "mean_off_diagonal": _number(other.nanmean()),
            "baseline": self._baseline(),
            "bandwidths": [float(value) for value in self._rows.sigma]
            if rbf and self._rows.sigma is not None
            else None,
            "undefined": self._undefined(),
            "interval_method": method,
            "interval_mean_width": _number((high - low).nanmean()) if low is not None and high is not None else None,
            "warnings": self._warnings(),
        }

    def _baseline(self) -> dict[str, Any]:
        biased = self._options.estimator == "biased"
        n = max(self._samples)
        columns = self._columns or self._rows
        floor = [
            (p * q / ((n + p) * (n + q))) ** 0.5 for p in set(self._rows.dimensions) for q in set(columns.dimensions)
        ]
        mean: float | None = 0.0
        if biased:
            assert isinstance(self._permuted, Tensor)
            sums = _Sums()
            assert isinstance(self._sums.left, Tensor) and isinstance(self._sums.right, Tensor)
            sums.add(self._permuted, self._sums.left, self._sums.right)
            mean = _number(sums.cka().nanmean())
        pairings = [pairing.cka().flatten() for pairing in self._pairings]
        high = torch.nanquantile(torch.cat(pairings), 0.95) if pairings else torch.tensor(torch.nan)
        return {
            "floor": (sum(floor) / len(floor) if self._options.kernel == "linear" else None) if biased else 0.0,
            "permutation_mean": mean,
            "permutation_p95": _number(high),
            "permutations": len(pairings),
        }

    def _undefined(self) -> dict[str, str]:
        sides = [self._rows, *([self._columns] if self._columns is not None else [])]
        return {
            label: "constant: it does not vary over the samples, so its similarity to anything is undefined"
            for side in sides
            for label, varies in zip(side.labels, side.varies.tolist(), strict=True)
            if not varies
        }

    def _warnings(self) -> list[str]:
        found = []
        n, baseline = max(self._samples), self._baseline()
        mean = baseline["permutation_mean"]
        if mean is not None and mean > HIGH_FLOOR:
            found.append(
                f"few samples for so many features (n = {n}): unrelated features of these spectra would score "
                f"{mean:.2f}; read the matrix against that, or ask for estimator=debiased"
            )
        if n < 10:
            found.append(f"only {n} samples: every value here is uncertain")
        for side in [self._rows, *([self._columns] if self._columns is not None else [])]:
            ruled = [
                label
                for label, share in zip(side.labels, side.dominant.tolist(), strict=True)
                if share > DOMINANT_SHARE
            ]
            if ruled:
                names = ", ".join(ruled[:5]) + (", …" if len(ruled) > 5 else "")
                found.append(
                    f"one sample holds more than half of the variance of {len(ruled)} of {len(side.labels)} ({names}): "
                    "a single outlier can set their CKA (Davari 2022)"
                )
        if self._options.intervals and not self._intervals:
            found.append(f"intervals are given up to {MOST_INTERVAL_ROWS} rows")
        return found


def _number(value: Tensor) -> float | None:
    """A 0-d tensor as a JSON number, NaN as null."""
    return None if bool(value.isnan()) else float(value)
