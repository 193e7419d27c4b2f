"""Calls of a network: named in order, seen before anything overwrites them, changed, stopped, nothing left behind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.workers.fakes import traces
from workers.passes.calls import CallObserver, capture


class Block(nn.Module):
    """In-place everything: a reused ReLU, a functional one, an addition onto the input."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)
        self.two = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.norm(self.one(x)))
        out = self.two(out)
        out += x
        return F.relu(self.act(out) - 0.1, inplace=True)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.head = nn.Linear(3, 2)
        self.reached_head = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.block(x)).mean(dim=(2, 3))
        self.reached_head += 1
        return torch.sigmoid(self.head(x))


@pytest.fixture
def whole() -> Whole:
    torch.manual_seed(0)
    return Whole().eval().requires_grad_(False)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


ORDER = [
    "block.one", "block.norm", "block.act", "block.two", "block.@add", "block.act#2", "block.@relu", "block",
    "block.one#2", "block.norm#2", "block.act#3", "block.two#2", "block.@add#2", "block.act#4", "block.@relu#2",
    "block#2",
    "head", "@sigmoid",
]  # fmt: skip


def test_names_in_execution_order(whole: Whole, inputs: Tensor) -> None:
    seen: list[str] = []
    with CallObserver(whole, lambda name, kind, module, output: seen.append(name)):
        whole(inputs)
    assert seen == ORDER


def test_values_by_hand(whole: Whole, inputs: Tensor) -> None:
    """Each call's value, written out step by step without anything in place."""
    block, values = whole.block, {}
    x = inputs
    for suffix, calls in (("", (1, 2)), ("#2", (3, 4))):
        values[f"block.one{suffix}"] = block.one(x)
        values[f"block.norm{suffix}"] = block.norm(values[f"block.one{suffix}"])
        first = f"block.act#{calls[0]}" if calls[0] > 1 else "block.act"
        values[first] = values[f"block.norm{suffix}"].clamp(min=0)
        values[f"block.two{suffix}"] = block.two(values[first])
        values[f"block.@add{suffix}"] = values[f"block.two{suffix}"] + x
        values[f"block.act#{calls[1]}"] = values[f"block.@add{suffix}"].clamp(min=0)
        values[f"block.@relu{suffix}"] = (values[f"block.act#{calls[1]}"] - 0.1).clamp(min=0)
        values[f"block{suffix}"] = x = values[f"block.@relu{suffix}"]
    values["head"] = whole.head(x.mean(dim=(2, 3)))
    values["@sigmoid"] = values["head"].sigmoid()
    seen, output = capture(whole, inputs, ORDER, to_output=True)
    assert list(seen) == ORDER
    for name in ORDER:
        torch.testing.assert_close(seen[name], values[name])
        alone, _ = capture(whole, inputs, [name])
        torch.testing.assert_close(alone[name], values[name])
    torch.testing.assert_close(output, values["@sigmoid"])
    torch.testing.assert_close(seen["block.norm"].min(), values["block.norm"].min())
    assert seen["block.norm"].min() < 0


def test_it_stops_after_the_last_call_wanted(whole: Whole, inputs: Tensor) -> None:
    capture(whole, inputs, ["block#2", "block.one"])
    assert whole.reached_head == 0
    _, output = capture(whole, inputs, ["block.one"], to_output=True)
    assert whole.reached_head == 1
    assert output is not None


def test_gradients_reach_captured_tensors_and_pass_them(whole: Whole, inputs: Tensor) -> None:
    inputs.requires_grad_()
    seen, output = capture(whole, inputs, ["block.norm", "block.norm#2"], to_output=True)
    assert output is not None
    late, early, pixels = torch.autograd.grad(output[:, 0].sum(), [seen["block.norm#2"], seen["block.norm"], inputs])
    (whole_way,) = torch.autograd.grad(whole(inputs)[:, 0].sum(), inputs)
    torch.testing.assert_close(pixels, whole_way)
    assert late.abs().sum() > 0
    assert early.abs().sum() > 0


def test_change_puts_another_value_in_place(whole: Whole, inputs: Tensor) -> None:
    plain, _ = capture(whole, inputs, ["block#2"])
    nothing, _ = capture(whole, inputs, ["block#2"], change={"block.one": lambda tensor: tensor})
    torch.testing.assert_close(plain["block#2"], nothing["block#2"], rtol=0, atol=0)
    changed, _ = capture(whole, inputs, ["block.one", "block"], change={"block": torch.zeros_like})
    assert changed["block"].abs().sum() == 0
    _, output = capture(whole, inputs, [], to_output=True, change={"block#2": torch.zeros_like})
    torch.testing.assert_close(output, whole.head.bias.sigmoid().expand(2, -1))


def test_calls_that_never_happen(whole: Whole, inputs: Tensor) -> None:
    before = traces(whole)
    with pytest.raises(KeyError, match=r"block\.one#3"):
        capture(whole, inputs, ["block.one#3", "block.one"])
    assert {**traces(whole), "attributes": None} == {**before, "attributes": None}


@pytest.mark.parametrize("wanted", [["block.norm"], ["block.@relu#2"], ["head"]])
def test_nothing_is_left_behind(whole: Whole, inputs: Tensor, wanted: list[str]) -> None:
    before, answer = traces(whole), whole(inputs)
    capture(whole, inputs, wanted)
    with pytest.raises(RuntimeError):
        capture(whole, torch.zeros(2, 5, 8, 8), wanted)

    def crash(name: str, kind: str, module: nn.Module | None, output: Tensor) -> Tensor:
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"), CallObserver(whole, crash, wanted):
        whole(inputs)
    assert traces(whole) == before
    assert torch.equal(whole(inputs), answer)


class Act(nn.Module):
    """An activation class as zoos write their own: by name an activation, inside a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=True)


Act.__name__ = "Swish"


def test_functions_inside_activation_classes_count_once() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), Act(), nn.Hardswish(), nn.Sigmoid())
    seen: list[str] = []
    with CallObserver(network, lambda name, kind, module, output: seen.append(f"{name} {kind}")):
        network(torch.zeros(1, 1, 2, 2))
    assert seen == ["0 Conv2d", "1 Swish", "2 Hardswish", "3 Sigmoid"]


def test_a_network_that_is_one_function() -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x)

    seen, output = capture(Bare(), torch.tensor([[-1.0, 2.0]]), ["@relu"], to_output=True)
    assert seen["@relu"].tolist() == [[0.0, 2.0]]
    assert output is not None


class _Quicker(nn.Conv2d):
    """Computes as its parent does, in a function that would be a layer in a class of somebody's own."""

    observed_as = nn.Conv2d

    def forward(self, inputs: Tensor) -> Tensor:
        """As the parent, by way of a ReLU of what is above it."""
        return torch.relu(super().forward(inputs) + 100) - 100


def test_a_class_that_stands_for_another_is_observed_as_that_one() -> None:
    """Its kind is the other's, and what it calls inside is its own business; without the attribute neither holds."""

    def seen(kind: type[nn.Module]) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        network = nn.Sequential(kind(3, 2, 1))
        with torch.no_grad(), CallObserver(network, lambda name, kind, _module, _output: found.append((name, kind))):
            network(torch.zeros(1, 3, 4, 4))
        return found

    assert seen(_Quicker) == [("0", "Conv2d")]
    plain = type("_Plain", (_Quicker,), {"observed_as": _Quicker})
    assert seen(plain) == [("0.@relu", "relu"), ("0", "_Quicker")]
