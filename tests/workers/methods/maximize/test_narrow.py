"""A last convolution in few channels: the numbers of the whole one, and a network left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.workers.fakes import traces
from tests.workers.methods import ascents, cases
from workers.methods.maximize import step as ascending
from workers.methods.maximize.narrow import narrow_activations
from workers.methods.maximize.objectives import Objective, Term, read_channels
from workers.networks import load
from workers.passes.calls import capture
from workers.passes.scores import OUTPUT


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(inplace=True), nn.Conv2d(16, 24, 3, stride=2, padding=1, dilation=2)]
    more = [nn.ReLU(), nn.Conv2d(24, 24, 1, groups=2), nn.Conv2d(24, 8, 3, padding="same"), nn.Linear(1, 1)]
    return nn.Sequential(*layers, *more).eval().requires_grad_(False)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 15, 13, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize("layer", ["0", "2"])
def test_the_channels_and_their_slopes_are_those_of_the_whole_layer(layer: str) -> None:
    net, x = network(), images()
    before = traces(net)
    found = narrow_activations(net, x, layer, {3, 1})
    assert found is not None
    assert traces(net) == before
    whole = capture(net, x, [layer])[0][layer]
    assert found.shape == whole.shape
    torch.testing.assert_close(found[:, [1, 3]], whole[:, [1, 3]])
    others = [channel for channel in range(whole.shape[1]) if channel not in (1, 3)]
    assert not found[:, others].any()
    (ours,), (theirs,) = (torch.autograd.grad(each[:, 3].square().sum(), x) for each in (found, whole))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        ("1", {0}),  # no convolution
        ("2#2", {0}),  # no module's first call
        ("4", {0}),  # groups
        ("5", {0}),  # padding by name
        ("2", set()),
        ("2", set(range(7))),  # more than a quarter
        ("2", {24}),
        ("2", {-1}),
    ],
)
def test_else_the_whole_layer_is_wanted(layer: str, channels: set[int]) -> None:
    assert narrow_activations(network(), images(), layer, channels) is None


class Doubling(nn.Conv2d):
    """As timm's convolutions that pad or scale their weights in a way of their own."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(inputs, 2 * self.weight, self.bias)


def test_what_a_class_does_in_a_way_of_its_own_is_left_to_it() -> None:
    assert narrow_activations(nn.Sequential(Doubling(3, 8, 3)).eval(), images(), "0", {0}) is None
    net = network()
    handle = net[2].register_forward_hook(lambda module, given, output: output * 2)
    assert narrow_activations(net, images(), "2", {0}) is None
    handle.remove()
    assert narrow_activations(net, images(), "2", {0}) is not None


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg11-random"])
def test_every_convolution_of_a_network_is_what_the_network_makes(name: str) -> None:
    loaded = load(name)
    lean = loaded.lean_module(fast=False)
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    layers = [layer for layer, module in lean.named_modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        whole, _ = capture(lean, x, layers)
        found = {layer: narrow_activations(lean, x, layer, {1}) for layer in layers}
    narrow = {layer: tensor for layer, tensor in found.items() if tensor is not None}
    assert len(narrow) >= 8
    for layer, tensor in narrow.items():
        assert tensor.shape == whole[layer].shape, layer
        torch.testing.assert_close(tensor[:, 1], whole[layer][:, 1], rtol=1e-3, atol=1e-4)


def test_a_call_that_never_happens_is_told_and_nothing_stays_behind() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Conv2d(3, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    skips = Skips().eval().requires_grad_(False)
    before = traces(skips)
    with pytest.raises(KeyError, match="never happened: unused"):
        narrow_activations(skips, images(), "unused", {0})
    assert traces(skips) == before


CHANNEL, SAME_LAYER = Term("channel", "0", 5), Term("channel", "0", 7)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ((CHANNEL,), {5}),
        ((Term("unit", "0", 5, place=(1, 2)),), {5}),
        ((CHANNEL, SAME_LAYER), {5, 7}),
        ((CHANNEL, Term("channel", "1", 5)), None),
        ((CHANNEL, Term("layer", "0")), None),
        ((Term("direction", "0", direction=(1.0, 2.0)),), None),
        ((Term("class", OUTPUT, 3),), None),
    ],
)
def test_what_an_objective_reads(terms: tuple[Term, ...], expected: set[int] | None) -> None:
    found = Objective(tuple((1.0, term) for term in terms)).channels
    assert found == (None if expected is None else frozenset(expected))


def test_what_several_objectives_read_together() -> None:
    one, two, other = (Objective(((1.0, term),)) for term in (CHANNEL, SAME_LAYER, Term("channel", "1", 5)))
    assert read_channels([one, two, one]) == {5, 7}
    assert read_channels([one, other]) == set(), "two layers"
    assert read_channels([one, Objective(((1.0, Term("layer", "0")),))]) == set()


@pytest.mark.parametrize("changes", [{}, {"diversity": 0.5}])
def test_only_fast_ascents_on_channels_alone_are_narrow(
    changes: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, set[int], bool]] = []

    def narrow(module: nn.Module, inputs: torch.Tensor, layer: str, channels: set[int]) -> torch.Tensor | None:
        found = narrow_activations(module, inputs, layer, channels)
        asked.append((layer, channels, found is not None))
        return found

    monkeypatch.setattr(ascending, "narrow_activations", narrow)
    losses = {}
    for precision in ("fast", "exact"):
        request = ascents.request(
            "pixel", objective=[ascents.channel(1, "6"), ascents.channel(3, "6")], size=[32, 32], steps=3,
            precision=precision, **changes,
        )  # fmt: skip
        _, states = ascents.started(cases.network("cpu"), request)
        for _ in range(3):
            assert not any(ascents.step(cases.network("cpu"), states))
        losses[precision] = torch.tensor([state.losses for state in states])
    assert asked == ([] if changes else [("6", {1, 3}, True)] * 3), "fast ones only"
    torch.testing.assert_close(losses["fast"], losses["exact"], rtol=0.05, atol=1e-4)
