"""The redirected gradient against Lucid's own test vectors, by hand, and in networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.workers.fakes import traces
from workers.methods.maximize.redirect import RedirectMode, redirected

BOTH = torch.tensor([True, True])


def through(function: nn.Module, x: float, incoming: float, allowed: bool = True) -> float:
    """The gradient that arrives below a rectification, of a loss that is minimized."""
    inputs = torch.full((1, 1), float(x), requires_grad=True)
    with RedirectMode([allowed], inputs.device):
        output = function(inputs * 1.0)
    (gradient,) = torch.autograd.grad(output, inputs, torch.full((1, 1), float(incoming)))
    return float(gradient)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("incoming", "x", "expected"), [(1, -1, 0), (-1, -1, -1), (1, 7, 1), (-1, 7, 0)])
def test_lucids_vectors(incoming: float, x: float, expected: float, inplace: bool) -> None:
    assert through(nn.ReLU6(inplace), x, incoming) == expected


@pytest.mark.parametrize(("incoming", "x", "expected"), [(1, -1, 0), (-1, -1, -1), (1, 7, 1), (-1, 7, -1)])
def test_a_relu_has_no_upper_limit(incoming: float, x: float, expected: float) -> None:
    assert through(nn.ReLU(), x, incoming) == expected


def test_not_where_it_is_not_allowed() -> None:
    assert through(nn.ReLU6(), -1.0, -1.0, allowed=False) == 0.0


def test_only_rows_in_which_nothing_passes() -> None:
    signal = torch.tensor([[-1.0, -2.0, 3.0], [-1.0, -2.0, 3.0]])
    sides = torch.tensor([[-1, -1, -1], [-1, 0, -1]], dtype=torch.int8)
    assert redirected(signal, sides, BOTH).tolist() == [[-1.0, -2.0, 0.0], [0.0, -2.0, 0.0]]


def test_where_the_gradient_lives_it_is_autograds_own() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU6(inplace=True))
    network.eval().requires_grad_(False)
    inputs = torch.randn(2, 3, 12, 12, requires_grad=True)
    (plain,) = torch.autograd.grad(network(inputs).sum(), inputs)
    before = traces(network)
    with RedirectMode([True, True], inputs.device):
        output = network(inputs)
    (ours,) = torch.autograd.grad(output.sum(), inputs)
    assert torch.equal(ours, plain)
    assert traces(network) == before


@pytest.mark.parametrize(
    "function", [F.relu, F.relu6, lambda x: F.hardtanh(x, 0.0, 6.0), lambda x: x.clamp(min=0), torch.relu]
)
def test_functions_are_seen_as_well_as_modules(function: object) -> None:
    inputs = torch.full((1, 3), -2.0, requires_grad=True)
    with RedirectMode([True], inputs.device):
        output: Tensor = function(inputs)  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(output, inputs, torch.tensor([[-1.0, 1.0, -3.0]]))
    assert gradient.tolist() == [[-1.0, 0.0, -3.0]]


def test_leaky_and_smooth_gates_keep_their_own_gradient() -> None:
    for function in (lambda x: F.leaky_relu(x, 0.1), F.silu):
        inputs = torch.full((1, 1), -2.0, requires_grad=True)
        (plain,) = torch.autograd.grad(function(inputs), inputs)
        with RedirectMode([True], inputs.device):
            output = function(inputs)
        (ours,) = torch.autograd.grad(output, inputs)
        assert torch.equal(ours, plain)
