"""saliency against formulas, values computed by hand, and the peer where it is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop, IntegratedGradients
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, finish, image, outcome, traces
from workers.contract import Grant, MethodError, Row
from workers.methods.saliency import METHOD
from workers.methods.saliency.points import gauss_legendre
from workers.passes.fills import blurred

DEFAULTS = {
    "method": "gradient", "target": "predicted", "samples": 32, "noise": 0.1, "steps": 50, "max_steps": 400,
    "tolerance": 0.01, "baseline": "black", "nonstandard_gate": False, "precision": "exact", "preprocess": None,
    "seed": 0,
}  # fmt: skip
SIZE = (16, 16)


def row(pictures: Tensor | list[Tensor], **wanted: Any) -> Row:
    """A row with the operation's defaults."""
    images = pictures if isinstance(pictures, list) else [pictures]
    return Row(SimpleNamespace(**{**DEFAULTS, **wanted}), images)


def small_net(classes: int = 4) -> nn.Sequential:
    """Convolutions, in-place ReLUs, an overlapping pool and a linear layer."""
    torch.manual_seed(11)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 3),
        nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 25, classes),
    )  # fmt: skip


class Function(nn.Module):
    """A function of the input as a network of two classes: f and 0."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        value = self.function(x)
        return torch.stack([value, torch.zeros_like(value)], 1)


def linear() -> tuple[FakeNetwork, Tensor]:
    """A linear network and its weights."""
    weights = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1))
    return FakeNetwork(Function(lambda x: (x * weights).sum((1, 2, 3))), SIZE), weights


METHODS = ["gradient", "gradient-x-input", "guided", "smoothgrad", "vargrad", "integrated-gradients"]


def by_hand(network: FakeNetwork, x: Tensor, target: int) -> Tensor:
    """The plain gradient."""
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(network.module(x)[0, target], x)[0]


def test_gradient_of_a_linear_network_is_its_weights_for_every_gradient_method() -> None:
    network, weights = linear()
    picture = image(SIZE)
    x, _ = network.prepare([picture])
    found = {one: outcome(METHOD, network, row(picture, method=one, target=0)) for one in METHODS if one != "guided"}
    assert torch.equal(found["gradient"].arrays["attribution"][0], weights)
    torch.testing.assert_close(found["smoothgrad"].arrays["attribution"][0], weights)
    torch.testing.assert_close(found["vargrad"].arrays["attribution"][0], torch.zeros_like(weights), atol=1e-9, rtol=0)
    for one in ("gradient-x-input", "integrated-gradients"):  # the baseline is black, which is zero here
        torch.testing.assert_close(found[one].arrays["attribution"][0], x[0] * weights)
    facts = found["integrated-gradients"].facts["images"][0]["completeness"]
    assert facts["gap"] < 1e-5
    assert facts["within_tolerance"]


def test_integrated_gradients_are_exact_with_few_points_where_gauss_legendre_is() -> None:
    network, weights = linear()
    one = outcome(METHOD, network, row(image(SIZE), method="integrated-gradients", target=0, steps=1, max_steps=1))
    x, _ = network.prepare([image(SIZE)])
    torch.testing.assert_close(one.arrays["attribution"][0], x[0] * weights, rtol=1e-6, atol=1e-6)
    cubic = FakeNetwork(Function(lambda x: (x**3).sum((1, 2, 3))), SIZE)
    two = outcome(METHOD, cubic, row(image(SIZE), method="integrated-gradients", target=0, steps=2, max_steps=2))
    torch.testing.assert_close(two.arrays["attribution"][0], x[0] ** 3, rtol=1e-5, atol=1e-7)
    # By hand: one point at 1/2 gives x · 3 (x/2)² = 3/4 x³, a gap of a quarter.
    rough = outcome(METHOD, cubic, row(image(SIZE), method="integrated-gradients", target=0, steps=1, max_steps=1))
    assert rough.facts["images"][0]["completeness"]["gap"] == pytest.approx(0.25, rel=1e-4)
    assert not rough.facts["images"][0]["completeness"]["within_tolerance"]
    finer = outcome(METHOD, cubic, row(image(SIZE), method="integrated-gradients", target=0, steps=1, max_steps=8))
    assert finer.facts["images"][0]["completeness"]["steps"] == 2


def test_gauss_legendre_integrates_what_it_should() -> None:
    points, weights = gauss_legendre(3)
    for power in range(6):
        total = sum(w * p**power for p, w in zip(points, weights, strict=True))
        assert total == pytest.approx(1 / (power + 1))


@pytest.mark.parametrize("baseline", ["black", "mean", "blur"])
def test_integrated_gradients_against_the_sum_written_out(baseline: str) -> None:
    network = FakeNetwork(small_net(), SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    picture = image(SIZE, 2)
    x, _ = network.prepare([picture])
    start = {
        "black": network.normalize(torch.zeros_like(x)),
        "mean": torch.zeros_like(x),
        "blur": blurred(x, 1.6),
    }[baseline]
    expected = torch.zeros_like(x)
    for point, weight in zip(*gauss_legendre(20), strict=True):
        expected += weight * by_hand(network, start + point * (x - start), 1)
    wanted = row(picture, method="integrated-gradients", target=1, steps=20, max_steps=20, baseline=baseline)
    found = outcome(METHOD, network, wanted)
    torch.testing.assert_close(found.arrays["attribution"], (x - start) * expected, rtol=1e-4, atol=1e-6)
    theirs = IntegratedGradients(network.module).attribute(x, baselines=start, target=1, n_steps=20)
    torch.testing.assert_close(found.arrays["attribution"], theirs.float(), rtol=1e-3, atol=1e-5)
    facts = found.facts["images"][0]["completeness"]
    with torch.no_grad():
        difference = float(network.module(x)[0, 1] - network.module(start)[0, 1])
    assert facts["difference"] == pytest.approx(difference, rel=1e-4)
    gap = abs(float(found.arrays["attribution"].sum()) - difference) / abs(difference)
    assert facts["gap"] == pytest.approx(gap, abs=1e-4)


def test_more_steps_are_taken_until_the_gap_is_closed() -> None:
    network = FakeNetwork(small_net(), SIZE)
    found = outcome(METHOD, network, row(image(SIZE, 3), method="integrated-gradients", target=1, steps=3))
    facts = found.facts["images"][0]["completeness"]
    assert facts["within_tolerance"]
    assert facts["gap"] <= 0.01
    limited = row(image(SIZE, 3), method="integrated-gradients", target=1, steps=3, max_steps=6, tolerance=1e-7)
    facts = outcome(METHOD, network, limited).facts["images"][0]["completeness"]
    assert (facts["steps"], facts["within_tolerance"]) == (6, False)


def test_smoothgrad_without_noise_is_the_gradient_and_noise_is_what_it_says() -> None:
    network = FakeNetwork(small_net(), SIZE)
    picture = image(SIZE, 4)
    plain = outcome(METHOD, network, row(picture, target=2))
    still = outcome(METHOD, network, row(picture, target=2, method="smoothgrad", noise=0.0, samples=1))
    assert torch.equal(still.arrays["attribution"], plain.arrays["attribution"])
    seen: list[Tensor] = []
    probe = FakeNetwork(Function(lambda x: (seen.append(x.detach().clone()), x.sum((1, 2, 3)))[1]), SIZE)
    seen.clear()
    outcome(METHOD, probe, row(picture, target=0, method="smoothgrad", noise=0.2, samples=64))
    x, _ = probe.prepare([picture])
    noise = torch.cat([one for one in seen if one.shape[0] > 1]) - x
    assert len(noise) == 64
    wanted = 0.2 * float(x.max() - x.min())
    assert float(noise.std()) == pytest.approx(wanted, rel=0.02)
    assert abs(float(noise.mean())) < 0.02 * wanted
    assert not torch.equal(noise[0], noise[1])


def test_smoothgrad_error_falls_with_the_root_of_the_samples() -> None:
    matrix = torch.randn(48, 48, generator=torch.Generator().manual_seed(0))
    matrix = matrix + matrix.T
    network = FakeNetwork(Function(lambda x: 0.5 * (x.flatten(1) @ matrix * x.flatten(1)).sum(1)), (4, 4))
    x, _ = network.prepare([image((4, 4))])
    truth = (x.flatten() @ matrix).view_as(x)
    error = {100: 0.0, 400: 0.0}
    for seed in range(6):
        for samples in error:
            wanted = row(image((4, 4)), target=0, method="smoothgrad", samples=samples, seed=seed)
            error[samples] += float((outcome(METHOD, network, wanted).arrays["attribution"] - truth).norm())
    assert 0.35 <= error[400] / error[100] <= 0.7


def test_vargrad_against_the_variance_written_out_and_a_sample_depends_on_its_number_alone() -> None:
    network = FakeNetwork(small_net(), SIZE)
    seen: list[Tensor] = []
    hook = network.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    picture = image(SIZE, 4)
    found = outcome(METHOD, network, row(picture, target=2, method="vargrad", samples=6))
    first = torch.cat(seen)[-6:]
    seen.clear()
    outcome(METHOD, network, row(picture, target=2, method="smoothgrad", samples=9))
    second = torch.cat(seen)[-9:]
    hook.remove()
    assert torch.equal(first, second[:6])
    gradients = torch.cat([by_hand(network, one[None], 2) for one in first])
    torch.testing.assert_close(found.arrays["attribution"][0], gradients.var(0, unbiased=False), rtol=1e-3, atol=1e-9)


def test_guided_and_gradient_agree_with_the_peer() -> None:
    network = FakeNetwork(small_net(), SIZE)
    picture = image(SIZE, 5)
    x, _ = network.prepare([picture])
    guided = outcome(METHOD, network, row(picture, method="guided", target=1))
    torch.testing.assert_close(
        guided.arrays["attribution"],
        GuidedBackprop(network.module).attribute(x.clone().requires_grad_(True), target=1),
        rtol=1e-4,
        atol=1e-7,
    )
    assert guided.facts["images"][0]["rectifications"] == 2
    plain = outcome(METHOD, network, row(picture, target=1))
    theirs = CaptumSaliency(network.module).attribute(x.clone().requires_grad_(True), target=1, abs=False)
    torch.testing.assert_close(plain.arrays["attribution"], theirs, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(guided.arrays["attribution"], plain.arrays["attribution"])


def test_gradient_times_input_of_a_network_without_biases_adds_up_to_the_logit() -> None:
    module = small_net()
    for layer in module:
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    found = outcome(METHOD, FakeNetwork(module, SIZE), row(image(SIZE, 6), method="gradient-x-input", target=3))
    assert float(found.arrays["attribution"].sum()) == pytest.approx(found.facts["images"][0]["logit"], rel=1e-4)


def test_targets() -> None:
    network = FakeNetwork(small_net(), SIZE, classes=["ant", "bee", "cat", "dog"])
    picture = image(SIZE, 7)
    x, _ = network.prepare([picture])
    scores = network.module(x)[0]
    best = int(scores.argmax())
    found = outcome(METHOD, network, row(picture))
    facts = found.facts["images"][0]
    assert (facts["target"], facts["target_name"]) == (best, network.classes[best])
    assert facts["logit"] == pytest.approx(float(scores[best]), rel=1e-5)
    x.requires_grad_(True)
    activation = network.module[:4](x)
    for y, xx in ((2, 3), (None, None)):
        value = activation[0, 5, 2, 3] if y is not None else activation[0, 5].mean()
        (expected,) = torch.autograd.grad(value, x, retain_graph=True)
        unit = SimpleNamespace(layer="3", channel=5, y=y, x=xx)
        unit_found = outcome(METHOD, network, row(picture, target=unit))
        torch.testing.assert_close(unit_found.arrays["attribution"], expected, rtol=1e-4, atol=1e-7)
        assert unit_found.facts["images"][0]["target"] == {"layer": "3", "channel": 5, "y": y, "x": xx}
        assert unit_found.facts["images"][0]["logit"] == pytest.approx(float(value.detach()), rel=1e-5)


def test_rows_in_company_are_what_they_are_alone() -> None:
    network = FakeNetwork(small_net(), SIZE)
    rows = [
        row([image(SIZE, 1), image(SIZE, 2), image(SIZE, 3)], method="smoothgrad", samples=2, target=1),
        row(image(SIZE, 4), method="smoothgrad", samples=5, seed=3, target=0),
        row([image(SIZE, 5), image(SIZE, 6)], method="integrated-gradients", steps=7, max_steps=7, target=2),
        row(image(SIZE, 7), method="vargrad", samples=6),
    ]
    assert len({METHOD.group_key(one.request) for one in rows}) == 1
    assert METHOD.group_key(row(image(SIZE, 8)).request) != METHOD.group_key(rows[0].request), "another module"
    together, said = finish(METHOD.run(network, rows, Grant()))
    assert said[-1].done == said[-1].total == 6 + 5 + 14 + 6
    for one, company in zip(rows, together, strict=True):
        alone = outcome(METHOD, network, one)
        assert not isinstance(company, MethodError)
        torch.testing.assert_close(company.arrays["attribution"], alone.arrays["attribution"], rtol=1e-4, atol=1e-6)
        assert company.arrays["attribution"].shape[0] == len(one.images)
    guided = row(image(SIZE), method="guided")
    assert METHOD.group_key(guided.request) != METHOD.group_key(rows[0].request)


def test_guided_is_refused_where_it_would_be_the_plain_gradient() -> None:
    for activation, words in ((nn.SiLU(), "silu"), (nn.Tanh(), "no rectification")):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Flatten(), nn.Linear(4 * 14 * 14, 2))
        with pytest.raises(MethodError, match=words) as refusal:
            outcome(METHOD, FakeNetwork(module, SIZE), row(image(SIZE), method="guided", target=0))
        assert refusal.value.problem == "not-applicable"
    gelu = FakeNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)), SIZE)
    found = outcome(METHOD, gelu, row(image(SIZE), method="guided", target=0, nonstandard_gate=True))
    assert found.facts["images"][0]["rectifications"] == 1


def test_a_row_that_fails_leaves_the_others_alone_and_nothing_leaves_a_trace() -> None:
    module = small_net()
    network = FakeNetwork(module, SIZE)
    before = traces(module)
    with pytest.raises(KeyError):
        nowhere = SimpleNamespace(layer="nowhere", channel=0, y=None, x=None)
        outcome(METHOD, network, row(image(SIZE), target=nowhere))
    guided = [row(image(SIZE), method="guided", target=0), row(image(SIZE, 2), method="guided")]
    work = METHOD.run(network, guided, Grant())
    next(work)
    work.close()
    work = METHOD.run(network, [row(image(SIZE), method="integrated-gradients", target=0)], Grant())
    next(work)
    signal = torch.tensor([-1.0, 2.0], requires_grad=True)
    assert torch.autograd.grad(F.relu(signal).sum(), signal)[0].tolist() == [0.0, 1.0]
    work.close()
    assert traces(module) == before
    steep = FakeNetwork(Function(lambda x: x.sum((1, 2, 3)).exp()), SIZE)
    white, black = torch.full((*SIZE, 3), 255, dtype=torch.uint8), torch.zeros(*SIZE, 3, dtype=torch.uint8)
    results, _ = finish(METHOD.run(steep, [row(white, target=0), row(black, target=0)], Grant()))
    assert isinstance(results[0], MethodError)
    assert results[0].problem == "numerical-error"
    assert not isinstance(results[1], MethodError)


def test_a_tiny_memory_grant_changes_nothing_but_the_tiles() -> None:
    network = FakeNetwork(small_net(), SIZE)
    wanted = row(image(SIZE), method="smoothgrad", samples=6, target=0)
    small = outcome(METHOD, network, wanted, Grant(memory_bytes=1))
    torch.testing.assert_close(
        small.arrays["attribution"], outcome(METHOD, network, wanted).arrays["attribution"], rtol=1e-4, atol=1e-6
    )


def test_large_inputs_are_computed_in_short_slices() -> None:
    rows: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return x.mean((2, 3))

    network = FakeNetwork(Counting(), SIZE)
    rows.clear()
    pictures = [image((64, 64), seed=n) for n in range(4)]
    preprocess = SimpleNamespace(size=(64, 64))
    finish(METHOD.run(network, [row(pictures, preprocess=preprocess)], Grant()))
    # One picture of sixteen times the network's own size first; more of the predictions where they proved to be quick.
    assert sum(rows) == 8 and rows[0] == 1 and rows[-4:] == [1] * 4
