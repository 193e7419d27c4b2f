"""Numbers → levels 0 to 255, many maps at a time.

A map that is constant where its own values make the scale is level 128 everywhere: a flat mid-tone, never noise and
never a division by zero; but nothing but zeros, on a scale that is not about zero, is its bottom, level 0. Infinities
are clipped to the ends of the scale, NaN is kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.protocol.pictures import Normalize

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MIDDLE = 128
_LEVELS: dict[Normalize, float] = {"map": 255, "layer": 255, "standard": 64, "symmetric": 127}
"""How many levels the span of a scale has: maximum − minimum, one standard deviation, the largest magnitude."""
_FLAT = 1e-6
"""A range below this share of the values' size is rounding of single precision, not structure."""
_HUGE = 8e307
"""Beyond this a difference of two numbers may leave the double range."""


@dataclass(frozen=True)
class Scale:
    """What one level stands for.

    Level 0 is `vmin` and level 255 is `vmax` for `map` and `layer`; for `symmetric` levels 1 and 255 are ∓ the largest
    magnitude and 128 is zero; for `standard` 128 is `mean` and 64 levels are `std`, and vmin and vmax are what levels
    0 and 255 stand for. `below` and `above` say that there are values outside, drawn as that end. A scale that is
    `symmetric` about another `centre` than zero knows its `reach` and the smallest and largest value, `low` and `high`.
    """

    vmin: float
    vmax: float
    mean: float | None = None
    std: float | None = None
    below: bool = False
    above: bool = False
    centre: float | None = None
    reach: float | None = None
    low: float = 0.0
    high: float = 0.0

    @property
    def clipped(self) -> bool:
        """Whether there are values outside."""
        return self.below or self.above


@dataclass(frozen=True)
class Scaled:
    """Levels and scales of the arrays given, in their order; `nan` is None where an array has none."""

    levels: list[Bytes]
    nan: list[Mask | None]
    scales: list[Scale]


@dataclass
class _Stats:
    """Finite extremes and moments of each of K maps; NaN where a map has no finite value."""

    low: Floats
    high: Floats
    mean: Floats
    std: Floats
    infinite: Mask

    @classmethod
    def of(cls, count: int) -> _Stats:
        """Room for `count` maps."""
        return cls(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count, bool))


def _as_float(stack: NDArray[Any]) -> Floats:
    """Single precision is kept, for speed; all else becomes double, clipped so that differences stay finite."""
    if stack.dtype == np.float32:
        return stack
    doubles = stack.astype(np.float64)
    if stack.dtype.kind == "f" and stack.dtype.itemsize >= 8:
        large = np.isfinite(doubles) & (np.abs(doubles) > _HUGE)
        doubles = np.where(large, np.copysign(_HUGE, doubles), doubles) if large.any() else doubles
    return doubles


def _stats(rows: Floats, moments: bool) -> _Stats:
    """Statistics of K×n values."""
    with np.errstate(invalid="ignore"):
        low, high = rows.min(1), rows.max(1)
    plain = bool(np.isfinite(low).all() and np.isfinite(high).all())
    infinite: Mask = np.zeros(len(rows), bool)
    if not plain:
        finite = np.isfinite(rows)
        infinite = np.asarray(np.isinf(rows).any(1))
        none = ~finite.any(1)
        low = np.where(none, np.nan, np.where(finite, rows, np.inf).min(1))
        high = np.where(none, np.nan, np.where(finite, rows, -np.inf).max(1))
    low, high = low.astype(np.float64), high.astype(np.float64)
    mean = std = np.zeros(len(rows))
    if moments:
        # Relative to the largest magnitude, so that squares neither overflow nor vanish.
        size = np.fmax(np.abs(low), np.abs(high))
        size = np.where(np.isfinite(size) & (size > 0), size, 1.0)
        values = rows.astype(np.float64) / size[:, None]
        known = np.isfinite(values)
        values = np.where(known, values, 0.0)
        count = np.maximum(known.sum(1), 1)
        mean = values.sum(1) / count
        deviation = np.where(known, values - mean[:, None], 0.0)
        std = np.sqrt((deviation**2).sum(1) / count) * size
        mean = mean * size
    return _Stats(low, high, mean, std, infinite)


def _magnitude(maps: Sequence[NDArray[Any]], outliers: float) -> float:
    """The magnitude that a share `outliers` of the finite values other than zero exceeds: one of theirs, by rank."""
    found = np.concatenate([np.abs(_as_float(one)).ravel() for one in maps])
    found = found[np.isfinite(found) & (found > 0)]
    if not len(found):
        return math.inf
    rank = max(math.ceil((1 - outliers) * len(found)), 1) - 1
    return float(np.partition(found, rank)[rank])


def _ranges(
    stats: _Stats,
    groups: Sequence[str],
    normalize: Normalize,
    value_range: tuple[float, float] | None,
    most: Mapping[str, float],
) -> list[tuple[float, float, bool, bool]]:
    """(vmin, vmax, below, above) of each map, by itself for `map` and over its group else.

    `most` bounds the ends of `symmetric`, and of scales that begin at zero, by group.
    """
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(index if normalize == "map" else group, []).append(index)
    ranges: list[tuple[float, float, bool, bool]] = [(0.0, 0.0, False, False)] * len(groups)
    for chosen in members.values():
        lows, highs = stats.low[chosen], stats.high[chosen]
        known = ~np.isnan(lows)
        data = (float(lows[known].min()), float(highs[known].max())) if known.any() else (0.0, 0.0)
        low, high = data
        if value_range is not None:
            fixed = tuple(end if np.isfinite(end) else None for end in value_range)
            low = low if fixed[0] is None else fixed[0]
            high = high if fixed[1] is None else fixed[1]
            low, high = (low, max(low, high)) if fixed[0] is not None else (min(low, high), high)
        bound = most.get(groups[chosen[0]], math.inf)
        if normalize == "symmetric":
            high = min(max(abs(low), abs(high)), bound)
            low = -high
        elif low == 0:
            high = min(high, bound)
        infinite = bool(stats.infinite[chosen].any())
        for index in chosen:
            ranges[index] = (low, high, data[0] < low or infinite, data[1] > high or infinite)
    return ranges


def _column(values: Sequence[float], like: Floats) -> Floats:
    return np.asarray(values, np.float64).astype(like.dtype).reshape(-1, *([1] * (like.ndim - 1)))


def _place(
    stack: Floats, missing: Mask | None, centre: Sequence[float], span: Sequence[float], normalize: Normalize
) -> Bytes:
    """Levels (value − centre) / span · `_LEVELS`, from the level that stands for the centre, rounded and clipped."""
    middle = MIDDLE if normalize in ("standard", "symmetric") else 0
    spans = np.asarray(span, np.float64)
    centres = np.asarray(centre, np.float64)
    risky = stack.dtype == np.float32 and (
        bool((np.abs(centres) > 1e37).any()) or bool(((spans > 0) & ((spans < 1e-34) | (spans > 1e34))).any())
    )
    values = stack.astype(np.float64) if risky else stack
    flat = spans <= 0
    # One pass of in-place arithmetic; infinities and NaN go through quietly and are clipped or masked afterwards.
    with np.errstate(invalid="ignore", over="ignore"):
        levels = values - _column(centre, values)
        levels /= _column(list(np.where(flat, 1.0, spans)), values)
        levels *= _LEVELS[normalize]
        levels += middle + 0.5
    np.clip(levels, 1 if normalize == "symmetric" else 0, 255, out=levels)
    if missing is not None:
        levels[missing] = MIDDLE
    result = levels.astype(np.uint8)
    if flat.any():
        result[flat] = MIDDLE
        if normalize != "symmetric":
            result[flat & (centres == 0)] = 0
    return result


def scale_maps(
    maps: Sequence[NDArray[Any]],
    groups: Sequence[str],
    normalize: Normalize,
    value_range: tuple[float, float] | None = None,
    outliers: float = 0.0,
    centre: float | None = None,
) -> Scaled:
    """Levels of maps (H×W) and colour arrays (3×H×W), a colour array always jointly over its channels.

    Args:
        maps: any real dtype, any mixture of shapes.
        groups: of each map; for `layer` and `symmetric` the maps of a group share a scale.
        normalize: `map`: minimum → 0, maximum → 255, of each map; `layer`: of each group; `standard`: mean → 128, one
            standard deviation → 64, of each map, clipped; `symmetric`: zero → 128, the group's largest magnitude → 127
            levels away.
        value_range: fixed ends in place of the extremes; an infinite end stays the data's own.
        outliers: for `symmetric`, and for `layer` from zero, the share of a group's values other than zero that may be
            drawn as the ends.
        centre: for `symmetric`, the value of level 128 where that is not zero.
    """
    if centre is not None and normalize == "symmetric":
        apart = [_as_float(one) - _as_float(one).dtype.type(centre) for one in maps]
        return _recentred(scale_maps(apart, groups, normalize, None, outliers), apart, groups, centre)
    stacks: dict[tuple[tuple[int, ...], str], list[int]] = {}
    for index, array in enumerate(maps):
        stacks.setdefault((array.shape, array.dtype.str), []).append(index)
    count = len(maps)
    joined = {key: _as_float(np.stack([maps[index] for index in chosen])) for key, chosen in stacks.items()}
    stats = _Stats.of(count)
    for key, chosen in stacks.items():
        part = _stats(joined[key].reshape(len(chosen), -1), normalize == "standard")
        for name in ("low", "high", "mean", "std", "infinite"):
            getattr(stats, name)[chosen] = getattr(part, name)
    most: dict[str, float] = {}
    from_zero = normalize == "layer" and value_range is not None and value_range[0] == 0
    if outliers > 0 and (normalize == "symmetric" or from_zero):
        for group in dict.fromkeys(groups):
            most[group] = _magnitude([one for one, its in zip(maps, groups, strict=True) if its == group], outliers)
    centres, spans, scales = _spans(stats, groups, normalize, value_range, most)
    levels: list[Bytes] = [np.empty(0, np.uint8)] * count
    nan: list[Mask | None] = [None] * count
    for key, chosen in stacks.items():
        stack = joined[key]
        strange = np.isnan(stack)
        missing = strange if strange.any() else None
        placed = _place(stack, missing, [centres[i] for i in chosen], [spans[i] for i in chosen], normalize)
        for row, index in enumerate(chosen):
            levels[index] = placed[row]
            if missing is not None and missing[row].any():
                nan[index] = missing[row]
    return Scaled(levels, nan, scales)


def _recentred(scaled: Scaled, apart: Sequence[Floats], groups: Sequence[str], centre: float) -> Scaled:
    """What was scaled as distances from a centre, on the scale of the values themselves."""
    scales, levels = [], []
    for scale, placed, group in zip(scaled.scales, scaled.levels, groups, strict=True):
        found = np.concatenate([one.ravel() for one, its in zip(apart, groups, strict=True) if its == group])
        found = found[np.isfinite(found)]
        low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 0.0)
        # Rounding about the centre is no structure.
        flat = scale.vmax <= _FLAT * abs(centre)
        levels.append(np.full_like(placed, MIDDLE) if flat else placed)
        scales.append(
            replace(
                scale, vmin=scale.vmin + centre, vmax=scale.vmax + centre, centre=centre,
                reach=0.0 if flat else scale.vmax, low=low + centre, high=high + centre,
            )
        )  # fmt: skip
    return Scaled(levels, scaled.nan, scales)


def _spans(
    stats: _Stats,
    groups: Sequence[str],
    normalize: Normalize,
    value_range: tuple[float, float] | None,
    most: Mapping[str, float],
) -> tuple[list[float], list[float], list[Scale]]:
    """For each map the value that levels are counted from, the span of its scale (0: flat), and the scale."""
    centres, spans, scales = [], [], []
    if normalize == "standard":
        for low, high, mean, std in zip(stats.low, stats.high, stats.mean, stats.std, strict=True):
            mean, std = float(mean), float(std)
            largest = float(np.nan_to_num(max(abs(low), abs(high))))
            span = std if std > _FLAT * largest else 0.0
            vmin, vmax = mean - 128 / 64 * span, mean + 127 / 64 * span
            centres.append(mean)
            spans.append(span)
            scales.append(Scale(vmin, vmax, mean, std, bool(low < vmin), bool(high > vmax)))
        return centres, spans, scales
    for low, high, below, above in _ranges(stats, groups, normalize, value_range, most):
        if normalize == "symmetric":
            centre, span = 0.0, high
        else:
            flat = high - low <= _FLAT * max(abs(low), abs(high))
            centre, span = low, 0.0 if flat else high - low
        centres.append(centre)
        spans.append(span)
        scales.append(Scale(low, high, below=below, above=above))
    return centres, spans, scales
