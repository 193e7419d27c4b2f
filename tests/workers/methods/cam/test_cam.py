"""Class activation maps against formulas, closed forms, values by hand, and what a shared forward must not mix up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, finish, image, outcome, traces
from tests.workers.methods.cam.cam_peers import build, relative, request
from workers.contract import Grant, MethodError, Outputs, Row
from workers.methods.cam import METHOD
from workers.methods.cam import maps as cam_maps
from workers.methods.cam.fullgrad import FullGradient
from workers.methods.cam.masks import score_weights
from workers.passes.class_targets import ClassTarget

METHODS = ["gradcam", "gradcam++", "hirescam", "elementwise", "xgradcam", "layercam", "eigencam", "eigengradcam"]


@pytest.fixture(scope="module")
def resnet() -> FakeNetwork:
    return build("resnet18")


def head(network: FakeNetwork, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activation of layer4, weight and bias of the linear head."""
    seen: list[Tensor] = []
    handle = network.module.layer4.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    with torch.no_grad():
        network.module(inputs)
    handle.remove()
    return seen[0], network.module.fc.weight, network.module.fc.bias


def test_closed_forms_of_a_pooled_linear_head(resnet: FakeNetwork) -> None:
    uploads = [image((64, 64), 4)]
    methods = ["cam", "gradcam", "hirescam", "xgradcam", "ablationcam"]
    found = outcome(METHOD, resnet, Row(request(methods=methods, layer="layer4", targets=[3]), uploads))
    inputs, _ = resnet.prepare(uploads)
    activation, weight, bias = head(resnet, inputs)
    with torch.no_grad():
        logit = resnet.module(inputs)[0, 3]
    places = activation.shape[2] * activation.shape[3]
    cam = torch.einsum("c,nchw->nhw", weight[3], activation)
    torch.testing.assert_close(found.arrays["cam/cam/3"], cam, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.arrays["cam/gradcam/3"], cam / places, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.arrays["cam/hirescam/3"], cam / places, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.arrays["cam/xgradcam/3"], cam / places, rtol=1e-3, atol=1e-5)
    assert found.arrays["cam/hirescam/3"].sum().item() == pytest.approx((logit - bias[3]).item(), rel=1e-4)
    drops = weight[3] * activation.mean(dim=(2, 3))[0] / logit
    expected = torch.einsum("c,nchw->nhw", drops, activation)
    torch.testing.assert_close(found.arrays["cam/ablationcam/3"], expected, rtol=1e-3, atol=1e-5)
    assert all(one["forwards"] == 0 for one in found.facts["maps"])


def brute_ablation(network: FakeNetwork, layer: str, inputs: Tensor, target: int) -> np.ndarray:
    """Desai 2020, equation 3, one channel after another, by zeroing it in a forward hook."""
    module = network.module.get_submodule(layer)
    with torch.no_grad():
        seen: list[Tensor] = []
        handle = module.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
        base = network.module(inputs)[0, target]
        handle.remove()
        total = torch.zeros(seen[0].shape[2:])
        for k in range(seen[0].shape[1]):

            def zero(m: Any, i: Any, o: Tensor, k: int = k) -> Tensor:
                changed = o.clone()
                changed[:, k] = 0
                return changed

            handle = module.register_forward_hook(zero)
            total += (base - network.module(inputs)[0, target]) / base * seen[0][0, k]
            handle.remove()
    return total.numpy()


@pytest.mark.parametrize(
    ("name", "layer"),
    [("squeezenet1_1", "features.7.expand3x3"), ("resnet18", "layer1.0.conv2")],
)
def test_ablation_equals_one_channel_after_another(name: str, layer: str) -> None:
    """Inside a concatenation, and before a skip connection."""
    network = build(name, 32)
    uploads = [image((32, 32), 5)]
    inputs, _ = network.prepare(uploads)
    with torch.no_grad():
        best = int(network.module(inputs).argmax())
    found = outcome(METHOD, network, Row(request(methods=["ablationcam"], layer=layer, targets=[best]), uploads))
    assert relative(found.arrays[f"cam/ablationcam/{best}"][0], brute_ablation(network, layer, inputs, best)) <= 1e-4
    assert found.facts["maps"][0]["forwards"] == network.layers[layer].shape[0]


def test_score_weights_are_a_distribution_and_know_no_common_offset() -> None:
    """Every score shifted by a constant changes nothing; a channel that does not vary makes no NaN."""
    torch.manual_seed(3)
    linear = nn.Linear(3 * 64, 4)

    def scores(offset: float) -> Tensor:
        class Net(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return linear(x.flatten(1)) + offset

        activation = torch.rand(1, 5, 4, 4)
        activation[0, 2] = 0.7
        targets = [ClassTarget(0), ClassTarget(3)]
        work = score_weights(Net(), torch.rand(1, 3, 8, 8), activation, targets, Outputs(count=4), lambda: 2)
        while True:
            try:
                next(work)
            except StopIteration as stop:
                return stop.value

    torch.manual_seed(4)
    plain = scores(0.0)
    torch.manual_seed(4)
    shifted = scores(100.0)
    assert plain.shape == (2, 5)
    assert (plain >= 0).all()
    torch.testing.assert_close(plain.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(plain, shifted, rtol=1e-3, atol=1e-5)


class Tiny(nn.Module):
    """Two 1×1 kernels and a linear head on 2×2 maps, small enough to follow with a pencil."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]).reshape(2, 3, 1, 1))
            self.fc.weight.copy_(torch.tensor([[4.0, -8.0], [0.0, 4.0]]))
            self.fc.bias.copy_(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean(dim=(2, 3)))


def test_values_by_hand() -> None:
    """A₀ = [[1, 0], [0, 0]], A₁ = [[0, 0], [0, 1]]; y₀ = 4/4 − 8/4 + 1 = 0, y₁ = 1; g of y₀: 1 and −2 everywhere.

    Grad-CAM: A₀ − 2A₁. Grad-CAM++: ΣA = 1; α₀ = 1/(2 + 1) = 1/3, summed over four places 4/3; g₁ < 0 gives 0.
    LayerCAM: A₀. Element-wise: A₀. CAM: 4A₀ − 8A₁.
    """
    upload = torch.zeros(2, 2, 3, dtype=torch.uint8)
    upload[0, 0, 0] = 255
    upload[1, 1, 1] = 255
    network = FakeNetwork(Tiny(), size=(2, 2))
    methods = ["cam", "gradcam", "gradcam++", "hirescam", "elementwise", "xgradcam", "layercam"]
    found = outcome(METHOD, network, Row(request(methods=methods, layer="conv", targets=[0]), [upload]))
    expected = {
        "cam": [[4, 0], [0, -8]], "gradcam": [[1, 0], [0, -2]], "gradcam++": [[4 / 3, 0], [0, 0]],
        "hirescam": [[1, 0], [0, -2]], "elementwise": [[1, 0], [0, 0]], "xgradcam": [[1, 0], [0, -2]],
        "layercam": [[1, 0], [0, 0]],
    }  # fmt: skip
    for method, values in expected.items():
        torch.testing.assert_close(found.arrays[f"cam/{method}/0"], torch.tensor([values], dtype=torch.float32))
    assert found.facts["maps"][0]["logit"] == pytest.approx(0.0)
    assert [one["minimum"] for one in found.facts["maps"]][:2] == [-8, -2]


def test_all_evidence_negative_is_said_not_drawn_as_noise() -> None:
    upload = torch.zeros(2, 2, 3, dtype=torch.uint8)
    upload[1, 1, 1] = 255
    network = FakeNetwork(Tiny(), size=(2, 2))
    found = outcome(METHOD, network, Row(request(layer="conv", targets=[0]), [upload]))
    assert found.facts["maps"][0]["all_negative"]
    assert found.arrays["cam/gradcam/0"].min() < 0
    assert "negative evidence only" in found.facts["notes"][0]


def test_eigen_map_carries_the_largest_variance_with_a_stable_sign() -> None:
    torch.manual_seed(7)
    for shape in ((2, 12, 5, 5), (2, 60, 4, 4)):
        values = torch.randn(shape).relu() + torch.randn(1, 1, *shape[2:])
        found = cam_maps.principal(values)
        for one, data in zip(found, values.flatten(2), strict=True):
            centred = data - data.mean(dim=1, keepdim=True)
            largest = torch.linalg.eigvalsh(centred @ centred.T)[-1]
            assert one.square().sum().item() == pytest.approx(largest.item(), rel=1e-4)
            assert (one.flatten() * centred.mean(dim=0)).sum() > 0
        permuted = cam_maps.principal(values[:, torch.randperm(shape[1])])
        torch.testing.assert_close(permuted, found, rtol=1e-3, atol=1e-4)


class Saturating(nn.Module):
    """ReLU6 whose units saturate: the case in which FullGrad's published terms do not add up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.Conv2d(8, 6, 3), nn.ReLU6()
        )
        self.fc = nn.Linear(6, 3)
        with torch.no_grad():
            self.body[0].weight *= 30
            self.body[1].running_mean.normal_()
            self.body[1].bias.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean(dim=(2, 3)))


def test_fullgrad_terms_sum_to_the_logit_with_saturation_and_miss_by_it_without() -> None:
    network = FakeNetwork(Saturating(), size=(12, 12), chain=False)
    inputs, _ = network.prepare([image((12, 12), 8), image((12, 12), 9)])
    before = traces(network.module)
    terms = FullGradient(network.module, inputs, network.outputs).of([ClassTarget(1), ClassTarget(2)])
    assert traces(network.module) == before
    torch.testing.assert_close(terms.gap() / terms.logit, torch.zeros(2), atol=1e-4, rtol=0)
    assert terms.saturation().abs().max() > 0.01 * terms.logit.abs().max()
    saturation = terms.saturation()
    terms.terms = [term for k, term in enumerate(terms.terms) if k not in terms.saturated]
    torch.testing.assert_close(terms.gap(), saturation, atol=1e-4, rtol=1e-3)


def test_fullgrad_by_hand() -> None:
    """y = Σ relu6(2x − 1) over the colours x = (1, 0, 5) of one pixel: 1 + 0 + 6; the gradient is 2 at x = 1 alone."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1, groups=3)
            nn.init.constant_(self.conv.weight, 2.0)
            nn.init.constant_(self.conv.bias, -1.0)

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.relu6(self.conv(x)).sum(dim=(1, 2, 3))[:, None]

    terms = FullGradient(One().eval(), torch.tensor([1.0, 0.0, 5.0]).reshape(1, 3, 1, 1), Outputs()).of(
        [ClassTarget(0)]
    )
    values = [term.flatten().tolist() for term in terms.terms]
    assert values == [[2, 0, 0], [-1, 0, 0], [0, 0, 6]]
    assert terms.saturated == [2]
    assert terms.logit.item() == 7 and terms.gap().item() == 0


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer4"), ("densenet121", "features.denseblock4")])
def test_fullgrad_completes_on_published_networks(name: str, layer: str) -> None:
    network = build(name, 32)
    found = outcome(METHOD, network, Row(request(methods=["fullgrad"], layer=layer, targets=[4]), [image((32, 32))]))
    fact = found.facts["maps"][0]
    assert abs(fact["completeness_gap"]) <= 1e-4
    assert found.arrays["cam/fullgrad/4"].shape == (1, 32, 32)
    assert fact["minimum"] >= 0


def test_guided_gradcam_refuses_networks_without_rectifications() -> None:
    smooth = FakeNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (16, 16))
    with pytest.raises(MethodError, match="not-applicable"):
        outcome(METHOD, smooth, Row(request(methods=["guided-gradcam"], layer="0"), [image((16, 16))]))


def test_batch_mates_and_several_targets_change_nothing(resnet: FakeNetwork) -> None:
    uploads = [image((64, 64), seed) for seed in range(3)]
    methods = ["gradcam", "layercam", "eigengradcam"]
    alone = [
        outcome(METHOD, resnet, Row(request(methods=methods, layer="layer4", targets=[k]), [uploads[k]]))
        for k in range(3)
    ]
    rows = [Row(request(methods=methods, layer="layer4", targets=[k, "top:2"]), [uploads[k]]) for k in range(3)]
    together, _ = finish(METHOD.run(resnet, rows, Grant()))
    for k in range(3):
        assert not isinstance(together[k], MethodError)
        for method in methods:
            assert relative(together[k].arrays[f"cam/{method}/{k}"], alone[k].arrays[f"cam/{method}/{k}"]) <= 1e-4


def test_several_images_with_their_own_predictions(resnet: FakeNetwork) -> None:
    uploads = [image((64, 64), seed) for seed in range(4)]
    found = outcome(METHOD, resnet, Row(request(layer="layer4", targets=["top:2"], upsampled=True), uploads))
    inputs, _ = resnet.prepare(uploads)
    with torch.no_grad():
        best = resnet.module(inputs).topk(2).indices.tolist()
    assert [[one["target"] for one in found.facts["maps"] if one["image"] == k] for k in range(4)] == best
    for one in found.facts["maps"]:
        raw = found.arrays[one["array"]][one["item"]]
        assert raw.shape == (2, 2)
        assert found.arrays[f"{one['array']}/full"][one["item"]].shape == (64, 64)
        assert one["maximum"] == pytest.approx(raw.max().item())


def test_wrong_rows_fail_alone(resnet: FakeNetwork) -> None:
    vgg = build("squeezenet1_1")
    rows = [
        Row(request(layer="features.12", methods=["cam"]), [image((64, 64))]),
        Row(request(layer="features.12", targets=[5000]), [image((64, 64))]),
        Row(request(layer="features.12"), [image((64, 64))]),
    ]
    results, _ = finish(METHOD.run(vgg, rows, Grant()))
    assert isinstance(results[0], MethodError) and results[0].problem == "not-applicable"
    assert isinstance(results[1], MethodError) and results[1].problem == "invalid-request"
    assert not isinstance(results[2], MethodError)


def test_permuted_channels_with_their_weights_change_no_map() -> None:
    torch.manual_seed(5)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 81, 5))
    other = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 81, 5))
    order = torch.randperm(8)
    with torch.no_grad():
        other[0].weight.copy_(plain[0].weight[order])
        other[0].bias.copy_(plain[0].bias[order])
        other[3].weight.copy_(plain[3].weight.reshape(5, 8, 81)[:, order].reshape(5, -1))
        other[3].bias.copy_(plain[3].bias)
    asked = request(methods=[*METHODS, "scorecam", "ablationcam", "fullgrad"], layer="1", targets=[1])
    ours, theirs = (
        outcome(METHOD, FakeNetwork(one, size=(9, 9)), Row(asked, [image((9, 9))])) for one in (plain, other)
    )
    for name, values in ours.arrays.items():
        assert relative(theirs.arrays[name], values) <= 1e-5, name


def test_flipped_input_and_kernels_flip_the_maps() -> None:
    torch.manual_seed(6)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)
    )
    mirrored = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)
    )
    with torch.no_grad():
        mirrored[0].weight.copy_(plain[0].weight.flip(3))
        mirrored[0].bias.copy_(plain[0].bias)
        mirrored[4].weight.copy_(plain[4].weight.reshape(5, 8, 3, 3).flip(3).reshape(5, -1))
        mirrored[4].bias.copy_(plain[4].bias)
    asked = request(methods=[*METHODS, "scorecam", "ablationcam", "fullgrad"], layer="1", targets=[1])
    upload = image((9, 9))
    ours = outcome(METHOD, FakeNetwork(plain, size=(9, 9)), Row(asked, [upload]))
    theirs = outcome(METHOD, FakeNetwork(mirrored, size=(9, 9)), Row(asked, [upload.flip(1)]))
    for name, values in ours.arrays.items():
        assert relative(theirs.arrays[name].flip(2), values) <= 1e-5, name
