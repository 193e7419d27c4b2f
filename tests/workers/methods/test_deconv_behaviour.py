"""deconv's refusals, its traces, its cost in forward passes, the peer, and digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Deconvolution, GuidedBackprop
from skimage import data
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, digit, finish, image, outcome, traces
from tests.workers.methods.test_deconv import plain_net, row
from workers.contract import Grant, MethodError
from workers.methods.deconv import METHOD
from workers.networks.build import load
from workers.passes.calls import capture
from workers.passes.rules import RuleMode


class Counting(nn.Module):
    """Counts its forward passes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.passes = 0

    def forward(self, x: Tensor) -> Any:
        self.passes += 1
        return self.inner(x)


def test_one_forward_serves_all_layers_and_units() -> None:
    network = FakeNetwork(Counting(plain_net()), (24, 24))
    network.module.passes = 0  # type: ignore[assignment]
    wanted = row(image((24, 24)), layers=["inner.3", "inner.7", "inner.0"], channels="top:5", seed_unit="top:2")
    results, said = finish(METHOD.run(network, [wanted], Grant()))
    assert network.module.passes == 1  # type: ignore[comparison-overlap]
    assert not isinstance(results[0], MethodError)
    assert [(one.done, one.total) for one in said] == [(n, 30) for n in range(1, 31)]
    alone = outcome(METHOD, network, row(image((24, 24)), layers=["inner.0"], channels="top:5", seed_unit="top:2"))
    torch.testing.assert_close(results[0].arrays["projection/inner.0"], alone.arrays["projection/inner.0"])  # type: ignore[union-attr]


def test_a_saturated_unit_is_projected_although_its_own_gate_is_closed() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3), nn.ReLU6())
    with torch.no_grad():
        module[2].weight.mul_(400)
    network = FakeNetwork(module, (12, 12))
    found = outcome(METHOD, network, row(image((12, 12)), layers=["3", "2"], rule="guided"))
    unit = found.facts["layers"][0]["projections"][0]
    assert unit["activation"] == 6
    assert unit["largest"] > 0
    assert unit["rectifications"] == 2
    # The same as from the convolution below it, with the unit's value.
    x = network.prepare([image((12, 12))])[0].requires_grad_(True)
    with RuleMode("guided"):
        below = module[:3](x)[0, unit["channel"], unit["y"], unit["x"]]
    (expected,) = torch.autograd.grad(6 * below, x)
    torch.testing.assert_close(found.arrays["projection/3"], expected)


def test_gates_without_a_rule_are_refused_unless_asked_for() -> None:
    network = FakeNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3)), (12, 12))
    with pytest.raises(MethodError, match="silu") as refusal:
        outcome(METHOD, network, row(image((12, 12)), layers=["2"]))
    assert refusal.value.problem == "not-applicable"
    assert "nonstandard_gate" in refusal.value.detail
    allowed = outcome(METHOD, network, row(image((12, 12)), layers=["2"], nonstandard_gate=True))
    assert allowed.facts["layers"][0]["projections"][0]["rectification_kinds"] == {"silu": 1}
    outcome(METHOD, network, row(image((12, 12)), layers=["2"], rule="gradient"))


def test_a_network_without_rectifications_is_refused_not_given_its_gradient() -> None:
    network = FakeNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3)), (12, 12))
    with pytest.raises(MethodError, match="no rectification") as refusal:
        outcome(METHOD, network, row(image((12, 12)), layers=["2"], rule="guided"))
    assert refusal.value.problem == "not-applicable"


def test_no_trace_after_success_refusal_error_and_cancel() -> None:
    network = FakeNetwork(plain_net(), (24, 24))
    before = traces(network.module)
    picture = image((24, 24))
    x, _ = network.prepare([picture])
    answer = network.module(x)
    outcome(METHOD, network, row(picture, layers=["7"], channels="all"))
    with pytest.raises(KeyError):
        outcome(METHOD, network, row(picture, layers=["nowhere"]))
    work = METHOD.run(network, [row(picture, layers=["7"], channels="all")], Grant())
    next(work)
    # Between two slices other work runs on this thread: it must see no rule.
    signal = torch.tensor([-1.0, 2.0], requires_grad=True)
    assert torch.autograd.grad(F.relu(signal).sum(), signal)[0].tolist() == [0.0, 1.0]
    work.close()
    broken = plain_net()
    with torch.no_grad():
        broken[6].weight.fill_(float("nan"))
    results, _ = finish(METHOD.run(FakeNetwork(broken, (24, 24)), [row(picture, layers=["6"], channels=[0])], Grant()))
    assert isinstance(results[0], MethodError)
    assert traces(network.module) == before
    assert torch.equal(network.module(x), answer)


def test_captum_agrees_where_it_is_right_and_not_where_it_is_wrong() -> None:
    torch.manual_seed(1)
    network = FakeNetwork(nn.Sequential(*plain_net(), nn.Flatten(), nn.Linear(6 * 100, 3)), (24, 24))
    picture = image((24, 24), 4)
    x, _ = network.prepare([picture])
    for rule, peer in (("deconvnet", Deconvolution), ("guided", GuidedBackprop)):
        ours = outcome(METHOD, network, row(picture, layers=["9"], channels=[0, 1, 2], rule=rule))
        for k, unit in enumerate(ours.facts["layers"][0]["projections"]):
            theirs = peer(network.module).attribute(x.clone().requires_grad_(True), target=k)
            scale = max(unit["activation"], 0.0)
            torch.testing.assert_close(ours.arrays["projection/9"][k], theirs[0] * scale, rtol=1e-4, atol=1e-6)
    # ReLU6 is no nn.ReLU: the peer returns the plain gradient, we do not.
    clipped = FakeNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 2, 10)), (12, 12))
    x, _ = clipped.prepare([image((12, 12), 4)])
    theirs = GuidedBackprop(clipped.module).attribute(x.requires_grad_(True), target=(0, 0, 0))
    (plain,) = torch.autograd.grad(clipped.module(x)[0, 0, 0, 0], x)
    torch.testing.assert_close(theirs, plain)
    found = {
        rule: outcome(METHOD, clipped, row(image((12, 12), 4), layers=["2"], channels="strongest", rule=rule))
        for rule in ("guided", "gradient")
    }
    assert not torch.allclose(found["guided"].arrays["projection/2"], found["gradient"].arrays["projection/2"])


def test_a_projection_is_homogeneous_in_its_seed() -> None:
    """D(3s) = 3 D(s): three times the seed by a kernel of 3 above, whose transpose gives a factor 3 again."""
    tripled = nn.Sequential(*plain_net(), nn.Conv2d(6, 6, 1, groups=6, bias=False))
    with torch.no_grad():
        tripled[8].weight.fill_(3.0)
    wanted = row(image((24, 24), 2), layers=["7", "8"], channels="all", seed_unit="top:2")
    found = outcome(METHOD, FakeNetwork(tripled, (24, 24)), wanted)
    assert bool(found.arrays["projection/7"].any())
    torch.testing.assert_close(found.arrays["projection/8"], 9 * found.arrays["projection/7"], rtol=1e-6, atol=1e-7)


def test_the_patch_in_other_surroundings_gives_the_activation_again() -> None:
    """The box is all that the unit sees: with noise everywhere else its activation stays what it was."""
    network = FakeNetwork(plain_net(), (24, 24))
    picture = image((24, 24), 5)
    found = outcome(METHOD, network, row(picture, layers=["7"], channels="top:6"))
    noise = torch.randint(0, 256, (24, 24, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    for unit in found.facts["layers"][0]["projections"]:
        top, left, bottom, right = unit["box"]
        assert (bottom - top) * (right - left) < 24 * 24
        other = noise.clone()
        other[top:bottom, left:right] = picture[top:bottom, left:right]
        with torch.no_grad():
            again = network.module(network.prepare([other])[0])[0, unit["channel"], unit["y"], unit["x"]]
        assert float(again) == pytest.approx(unit["activation"], rel=1e-5)


def test_the_default_network_without_pools_and_with_relu6() -> None:
    """Two photographs, one unit and signal: bitwise equal by the deconvnet; the guided rule is not the gradient."""
    network = load("efficientnet_lite0")
    found: dict[str, list[Tensor]] = {}
    for rule in ("deconvnet", "guided", "gradient"):
        for photograph in (data.chelsea(), data.coffee()):
            x = network.prepare([torch.from_numpy(photograph.copy())])[0][:, :, :96, :96].clone().requires_grad_(True)
            mode = RuleMode(rule)
            with mode:
                seen, _ = capture(network.module, x, ["blocks.3"])
            with mode.from_unit(seen["blocks.3"]):
                found.setdefault(rule, []).append(torch.autograd.grad(seen["blocks.3"][0, 5, 3, 3], x)[0])
    assert bool(found["deconvnet"][0].any())
    assert torch.equal(*found["deconvnet"])
    assert not torch.equal(*found["guided"])
    for guided, gradient in zip(found["guided"], found["gradient"], strict=True):
        assert float((guided - gradient).norm() / gradient.norm()) > 0.1


def test_digits_projections_follow_the_strokes_and_differ() -> None:
    network = load("digits")
    found = []
    for label in (0, 1, 7):
        picture = digit(label)
        one = outcome(METHOD, network, row(picture, layers=["features.8"], channels="strongest"))
        projection = one.arrays["projection/features.8"][0].abs().sum(0)
        x, _ = network.prepare([picture])
        strokes = x[0, 0] > x[0, 0].mean()
        near = F.max_pool2d(strokes[None, None].float(), 3, 1, 1)[0, 0] > 0
        top, left, bottom, right = one.facts["layers"][0]["projections"][0]["box"]
        share = float(near[top:bottom, left:right].float().mean())
        assert float(projection[near].sum() / projection.sum()) > share  # more of it near strokes than chance gives
        assert float(projection.sum()) == pytest.approx(float(projection[top:bottom, left:right].sum()), rel=1e-6)
        found.append(projection / projection.norm())
    for i in range(3):
        for j in range(i):
            assert float((found[i] * found[j]).sum()) < 0.9


@pytest.mark.parametrize(("model", "layer"), [("digits", "features.6"), ("vgg11-random", "features.8")])
def test_a_unit_is_what_its_box_makes_of_it(model: str, layer: str) -> None:
    """papers.md A7: the patch alone, with whatever around it, gives the activation again; another patch does not."""
    network = load(model)
    picture = digit(7) if model == "digits" else torch.from_numpy(data.chelsea().copy())
    found = outcome(METHOD, network, row(picture, layers=[layer], channels="top:3", rule="gradient"))
    inputs, _ = network.prepare([picture])
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    for unit in found.facts["layers"][0]["projections"]:
        top, left, bottom, right = unit["box"]
        assert (bottom - top) * (right - left) < inputs.shape[2] * inputs.shape[3], "a part of the picture"
        inside = torch.zeros_like(inputs, dtype=torch.bool)
        inside[..., top:bottom, left:right] = True

        def activation(pixels: Tensor, unit: dict[str, Any] = unit) -> float:
            with torch.no_grad():
                seen, _ = capture(network.module, pixels, [layer])
            return float(seen[layer][0, unit["channel"], unit["y"], unit["x"]])

        assert activation(torch.where(inside, inputs, noise)) == pytest.approx(unit["activation"], rel=1e-5)
        assert activation(torch.where(inside, noise, inputs)) != pytest.approx(unit["activation"], rel=1e-2)
