"""What a sweep keeps, against a full sort of everything, in any order of its parts."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workers.methods.top_activations.streaming import BINS, NOBODY, Spread, Strongest, bin_of, middle_of


def full_sort(maps: Tensor, k: int, per_image: int) -> list[list[tuple[float, int, int]]]:
    """For each channel the k strongest (value, image, position) of N×C×P: everything sorted."""
    found = []
    for channel in range(maps.shape[1]):
        units = []
        for image in range(maps.shape[0]):
            row = [(float(value), image, place) for place, value in enumerate(maps[image, channel])]
            units += sorted(row, key=lambda unit: (-unit[0], unit[2]))[:per_image]
        found.append(sorted(units, key=lambda unit: (-unit[0], unit[1], unit[2]))[:k])
    return found


def kept(strongest: Strongest) -> list[list[tuple[float, int, int]]]:
    rows = zip(strongest.values.tolist(), strongest.images.tolist(), strongest.positions.tolist(), strict=True)
    return [[unit for unit in zip(*row, strict=True) if unit[1] != NOBODY] for row in rows]


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 12),
    k=st.integers(1, 9),
    per_image=st.integers(1, 4),
    levels=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_streaming_equals_a_full_sort_whatever_ties(
    images: int, k: int, per_image: int, levels: int, seed: int
) -> None:
    """Few levels make many ties; parts come in any order, alone or merged before."""
    maps = torch.randint(-levels, levels + 1, (images, 3, 5), generator=torch.Generator().manual_seed(seed)).float()
    parts = [Strongest.of_image(maps[image], image, per_image) for image in range(images)]
    expected = full_sort(maps, k, per_image)
    order = random.Random(seed).sample(range(images), images)
    one_by_one, halves = Strongest.none(3, k), [Strongest.none(3, k), Strongest.none(3, k)]
    for place, number in enumerate(order):
        one_by_one.merge(parts[number])
        halves[place % 2].merge(parts[number])
    halves[1].merge(halves[0])
    assert kept(one_by_one) == expected
    assert kept(halves[1]) == expected


def test_by_hand() -> None:
    """Two images of two positions: of equal values the earlier image comes first, then the earlier place."""
    strongest = Strongest.none(1, 3)
    strongest.merge(Strongest.of_image(torch.tensor([[2.0, 5.0]]), 0, 2))
    strongest.merge(Strongest.of_image(torch.tensor([[5.0, 5.0]]), 1, 2))
    assert kept(strongest) == [[(5.0, 0, 1), (5.0, 1, 0), (5.0, 1, 1)]]


@settings(max_examples=200, deadline=None)
@given(st.floats(-60000, 60000, width=32))
def test_a_bin_is_a_sixteenth_wide(value: float) -> None:
    number = int(bin_of(torch.tensor([value]))[0])
    assert 0 <= number < BINS
    if abs(value) >= 2.0**-16:
        assert abs(middle_of(number) - value) <= abs(value) / 16
    else:
        assert abs(middle_of(number)) <= 2.0**-16 * (1 + 1 / 16)


def test_bins_are_in_order() -> None:
    values = torch.tensor([-1e9, -3.0, -2.9, -1e-9, 0.0, 1e-9, 0.5, 0.53, 1.0, 1e9])
    bins = bin_of(values).tolist()
    assert bins == sorted(bins)
    assert bins[0] == 0 and bins[-1] == BINS - 1 and bins[4] == BINS // 2


def test_quantiles_are_those_of_all_values_to_a_sixteenth() -> None:
    values = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.01, 1.0, 10.0, 1000.0])
    spread = Spread.none(4)
    for row in values:
        spread.add(row)
    found = spread.quantiles({"half": 0.5, "most": 0.9, "all": 1.0})
    for channel in range(4):
        own = sorted(values[:, channel].tolist())
        assert found[channel]["all"] == own[-1]
        for name, share in (("half", 0.5), ("most", 0.9)):
            exact = own[round(share * 500) - 1]
            assert found[channel][name] == pytest.approx(exact, rel=1 / 16)
    assert spread.sums.tolist() == pytest.approx(values.double().sum(0).tolist())
    assert spread.active.tolist() == (values > 0).sum(0).tolist()
    assert math.isclose(float(spread.most[2]), float(values[:, 2].max()))
