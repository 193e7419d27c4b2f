"""Objectives against values by hand, against a slow reference, and their slopes against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from workers.contract import MethodError, params
from workers.methods.maximize.diversity import gram, likeness
from workers.methods.maximize.objectives import Objective, Term, read_objective
from workers.passes.scores import OUTPUT

MAPS = torch.arange(2 * 3 * 4, dtype=torch.float32).view(2, 3, 4) - 5.0


def test_a_channels_mean_maximum_and_centre() -> None:
    assert Term("channel", "a", 1).value(MAPS) == 12.5
    assert Term("channel", "a", 1, reduce="max").value(MAPS) == 18.0
    assert Term("channel", "a", 1, reduce="center").value(MAPS) == MAPS[1, 1, 2] == 13.0


def test_a_unit_a_layer_and_a_dense_layer() -> None:
    assert Term("unit", "a", 0, place=(2, 1)).value(MAPS) == 4.0
    assert Term("layer", "a").value(torch.tensor([[[1.0, -2.0]], [[3.0, 0.0]]])) == 3.5
    assert Term("class", OUTPUT, 2).value(torch.tensor([1.0, 2.0, 7.0])) == 7.0


def slow_direction(maps: Tensor, vector: list[float], power: float) -> float:
    """Mean over positions of dot · max(0.1, cos)^p, one position at a time."""
    total = 0.0
    for y in range(maps.shape[1]):
        for x in range(maps.shape[2]):
            column = maps[:, y, x].tolist()
            dot = sum(a * b for a, b in zip(column, vector, strict=True))
            cosine = dot / math.hypot(*column) / math.hypot(*vector)
            total += dot * max(0.1, cosine) ** power
    return total / (maps.shape[1] * maps.shape[2])


@pytest.mark.parametrize("power", [0.0, 1.0, 4.0])
def test_a_direction_is_the_formula(power: float) -> None:
    maps = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1)) * 10
    vector = [1.0, -2.0, 0.5, 0.0, 3.0]
    ours = Term("direction", "a", direction=tuple(vector), cosine_power=power).value(maps)
    assert float(ours) == pytest.approx(slow_direction(maps, vector, power), rel=1e-3)


def test_weights_add_up_and_a_negative_one_minimizes() -> None:
    asked = {"sum": [{"weight": 2.0, "of": {"layer": "a", "channel": 0, "reduce": "mean"}},
                     {"weight": -1.0, "of": {"class": 1}}]}  # fmt: skip
    objective = read_objective(params(asked))
    assert objective.layers == (OUTPUT, "a")
    value = objective.value({"a": MAPS, OUTPUT: torch.tensor([0.0, 4.0])})
    assert float(value) == 2.0 * 0.5 - 4.0
    assert objective.target == Term("channel", "a", 0)


def test_every_kind_is_read() -> None:
    kinds = [
        ({"class": 3}, Term("class", OUTPUT, 3)),
        ({"layer": "a", "channel": 1, "reduce": "max"}, Term("channel", "a", 1, reduce="max")),
        ({"unit": {"layer": "a", "channel": 1, "y": 2, "x": 0}}, Term("unit", "a", 1, place=(2, 0))),
        ({"unit": {"layer": "a", "channel": 1, "y": None, "x": None}}, Term("unit", "a", 1)),
        ({"layer": "a"}, Term("layer", "a")),
        (
            {"layer": "a", "direction": [1, 2], "cosine_power": 1},
            Term("direction", "a", direction=(1.0, 2.0), cosine_power=1.0),
        ),
    ]
    for asked, term in kinds:
        assert read_objective(params(asked)).terms == ((1.0, term),)


def test_what_the_layer_does_not_have_is_refused() -> None:
    for term in (
        Term("channel", "a", 2),
        Term("unit", "a", 0, place=(3, 0)),
        Term("direction", "a", direction=(1.0,)),
    ):
        with pytest.raises(MethodError):
            term.value(MAPS)


@pytest.mark.parametrize(
    "term",
    [
        Term("channel", "a", 1),
        Term("channel", "a", 1, reduce="max"),
        Term("unit", "a", 0, place=(1, 1)),
        Term("layer", "a"),
        Term("direction", "a", direction=(1.0, -1.0, 2.0), cosine_power=2.0),
    ],
)
def test_slopes_are_finite_differences(term: Term) -> None:
    maps = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    objective = Objective(((1.5, term), (-0.5, Term("channel", "a", 0))))
    assert torch.autograd.gradcheck(lambda a: objective.value({"a": a}), (maps,), eps=1e-6, atol=1e-5)


def test_gram_matrices_of_equal_maps_are_alike_and_of_disjoint_ones_are_not() -> None:
    first = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]])
    second = torch.tensor([[[0.0, 0.0]], [[3.0, 3.0]]])
    assert gram(first).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert float(likeness(gram(first), [gram(first * 7), gram(second)])) == 0.5
    assert gram(torch.zeros(2, 1, 1)).tolist() == [0.0] * 4
