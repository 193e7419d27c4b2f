"""Class activation maps against formulas, closed forms and pytorch-grad-cam, where it is right and where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as peers
import torch
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, finish, image, outcome, traces
from workers.contract import Context, MethodError, Row, params
from workers.mathematics import cam_maps
from workers.methods.cam import METHOD

DEFAULTS: dict[str, Any] = {
    "methods": ["gradcam"], "layer": "", "targets": ["predicted"], "upsampled": False, "nonstandard_gate": False,
    "precision": "exact", "preprocess": None, "seed": 0,
}  # fmt: skip

PARITY = {
    "gradcam": peers.GradCAM, "gradcam++": peers.GradCAMPlusPlus, "hirescam": peers.HiResCAM,
    "elementwise": peers.GradCAMElementWise, "xgradcam": peers.XGradCAM, "layercam": peers.LayerCAM,
    "eigencam": peers.EigenCAM, "eigengradcam": peers.EigenGradCAM,
}  # fmt: skip


def request(**changes: Any) -> Any:
    return params({**DEFAULTS, **changes})


def relative(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def build(name: str, size: int = 64) -> FakeNetwork:
    torch.manual_seed(0x5EED)
    module = torchvision.models.get_model(name, weights=None)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):  # statistics of their own, so that biases and signs matter
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
    if linear := [part for part in module.modules() if isinstance(part, nn.Linear)]:
        # Gradients of order one: pytorch-grad-cam adds 1e-6 to Grad-CAM++'s denominator, which decides small ones.
        nn.init.normal_(linear[-1].weight, 0, 10)
    return FakeNetwork(module, size=(size, size), chain=False)


NETWORKS = {
    "resnet18": "layer4", "resnet50": "layer4", "vgg16": "features.29", "densenet121": "features.denseblock4",
}  # fmt: skip


@pytest.fixture(scope="module", params=list(NETWORKS))
def network_and_layer(request: pytest.FixtureRequest) -> tuple[FakeNetwork, str]:
    return build(request.param), NETWORKS[request.param]


def peer_map(peer: type, network: FakeNetwork, layer: str, inputs: Tensor, target: int) -> np.ndarray:
    """pytorch-grad-cam's raw map, before it rectifies, scales and resizes."""
    with peer(network.module, [network.module.get_submodule(layer)]) as cam:
        x = inputs.clone().requires_grad_()
        scores = cam.activations_and_grads(x)
        if cam.uses_gradients:
            scores[:, target].sum().backward(retain_graph=True)
        activation = cam.activations_and_grads.activations[0].numpy()
        gradient = cam.activations_and_grads.gradients[0].numpy() if cam.uses_gradients else None
        targets = [ClassifierOutputTarget(target)] * len(inputs)
        return np.asarray(cam.get_cam_image(x, cam.target_layers[0], targets, activation, gradient, False))


def test_parity_with_pytorch_grad_cam(network_and_layer: tuple[FakeNetwork, str]) -> None:
    network, layer = network_and_layer
    uploads = [image(network.input_size, seed) for seed in (1, 2)]
    before = traces(network.module)
    found = outcome(METHOD, network, Row(request(methods=list(PARITY), layer=layer, targets=[7]), uploads))
    assert traces(network.module) == before
    inputs, _ = network.prepare(uploads)
    for method, peer in PARITY.items():
        expected = peer_map(peer, network, layer, inputs, 7)
        ours = found.arrays[f"cam/{method}/7"].numpy()
        if method.startswith("eigen"):  # their sign is the linear algebra library's
            expected = np.stack([e * np.sign((e * o).sum()) for e, o in zip(expected, ours, strict=True)])
        assert relative(ours, expected) <= 1e-4, method
    network.module.zero_grad(set_to_none=True)


def test_small_gradients_are_where_pytorch_grad_cam_leaves_grad_cam_plus_plus() -> None:
    """α = g²/(2g² + ΣA·g³): with ΣA = 0 it is 1/2 however small g is; theirs falls to g²/1e-6."""
    activation, gradient = torch.tensor([[[[1.0, -1.0]]]]), torch.full((1, 1, 1, 2), 1e-4)
    torch.testing.assert_close(cam_maps.gradcam_plus_plus(activation, gradient), torch.tensor([[[1e-4, -1e-4]]]))
    theirs = peers.GradCAMPlusPlus.get_cam_weights(None, None, None, None, activation.numpy(), gradient.numpy())
    assert theirs[0, 0] < 0.05 * 1e-4


def test_parity_with_captum(network_and_layer: tuple[FakeNetwork, str]) -> None:
    network, layer = network_and_layer
    uploads = [image(network.input_size, 3)]
    found = outcome(METHOD, network, Row(request(layer=layer, targets=[5]), uploads))
    inputs, _ = network.prepare(uploads)
    expected = LayerGradCam(network.module, network.module.get_submodule(layer)).attribute(
        inputs.requires_grad_(), target=5
    )
    assert relative(found.arrays["cam/gradcam/5"], expected.detach()[:, 0]) <= 1e-4


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
    network = build(name)
    uploads = [image((64, 64), 5)]
    inputs, _ = network.prepare(uploads)
    with torch.no_grad():
        best = int(network.module(inputs).argmax())
    found = outcome(METHOD, network, Row(request(methods=["ablationcam"], layer=layer, targets=[best]), uploads))
    assert relative(found.arrays[f"cam/ablationcam/{best}"][0], brute_ablation(network, layer, inputs, best)) <= 1e-4
    assert found.facts["maps"][0]["forwards"] == network.layers[layer].shape[0]


def test_an_activation_is_taken_before_it_is_overwritten() -> None:
    """DenseNet rectifies `features` in place: pytorch-grad-cam's hook sees the rectified map, ours the layer's own."""
    network = build("densenet121", 32)
    uploads = [image((32, 32), 5)]
    inputs, _ = network.prepare(uploads)
    found = outcome(METHOD, network, Row(request(layer="features", targets=[1]), uploads))
    with torch.no_grad():
        activation = network.module.features(inputs)
    weights = network.module.classifier.weight[1] * (activation > 0).float().mean(dim=(2, 3))
    own = torch.einsum("nc,nchw->nhw", weights / (activation.shape[2] * activation.shape[3]), activation)
    assert relative(found.arrays["cam/gradcam/1"], own) <= 1e-4
    theirs = peer_map(peers.GradCAM, network, "features", inputs, 1)
    assert relative(theirs, torch.einsum("nc,nchw->nhw", weights, activation.relu())) <= 1e-3
    assert (activation < 0).any()


def test_score_cam_equals_pytorch_grad_cam_for_two_classes_from_the_same_forwards() -> None:
    network = build("squeezenet1_1")
    uploads = [image((64, 64), 6)]
    inputs, _ = network.prepare(uploads)
    layer = "features.12.expand3x3_activation"
    found = outcome(METHOD, network, Row(request(methods=["scorecam"], layer=layer, targets=[1, 2]), uploads))
    for target in (1, 2):
        expected = peer_map(peers.ScoreCAM, network, layer, inputs, target)
        assert relative(found.arrays[f"cam/scorecam/{target}"], expected) <= 1e-4


def test_score_weights_are_a_distribution_and_know_no_common_offset() -> None:
    """Every score shifted by a constant changes nothing; a channel that does not vary makes no NaN."""
    from workers.mathematics.cam_masks import score_weights

    torch.manual_seed(3)
    linear = nn.Linear(3 * 64, 4)

    def scores(offset: float) -> Tensor:
        class Net(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return linear(x.flatten(1)) + offset

        activation = torch.rand(1, 5, 4, 4)
        activation[0, 2] = 0.7
        work = score_weights(Net(), torch.rand(1, 3, 8, 8), activation, [0, 3], lambda: 2)
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
    from workers.mathematics.fullgrad import FullGradient

    network = FakeNetwork(Saturating(), size=(12, 12), chain=False)
    inputs, _ = network.prepare([image((12, 12), 8), image((12, 12), 9)])
    graph = FullGradient(network.module, inputs)
    terms = graph.of(torch.tensor([1, 2]))
    torch.testing.assert_close(terms.gap() / terms.logit, torch.zeros(2), atol=1e-4, rtol=0)
    saturation = [
        t
        for t, b in zip(terms.terms[1:], [b for b in graph._biases if b is None or b.dim()][:-1], strict=False)
        if b is None
    ]
    missing = torch.stack([term.flatten(1).sum(dim=1) for term in saturation]).sum(dim=0)
    assert missing.abs().max() > 0.01 * terms.logit.abs().max()
    terms.terms = [term for term in terms.terms if not any(term is one for one in saturation)]
    torch.testing.assert_close(terms.gap(), missing, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_fullgrad_completes_on_published_networks(name: str) -> None:
    network = build(name)
    found = outcome(
        METHOD, network, Row(request(methods=["fullgrad"], layer=NETWORKS[name], targets=[4]), [image((64, 64))])
    )
    fact = found.facts["maps"][0]
    assert abs(fact["completeness_gap"]) <= 1e-4
    assert found.arrays["cam/fullgrad/4"].shape == (1, 64, 64)
    assert fact["minimum"] >= 0


def test_guided_gradcam_is_the_product_and_refuses_networks_without_rectifications(resnet: FakeNetwork) -> None:
    upload = image((64, 64), 10)
    found = outcome(
        METHOD, resnet, Row(request(methods=["gradcam", "guided-gradcam"], layer="layer4", targets=[2]), [upload])
    )
    inputs, _ = resnet.prepare([upload])
    from captum.attr import GuidedBackprop

    # Where no module is shared captum's rule is right: a copy of the network with a ReLU for each call.
    from tests.workers.methods.unshared import unshared

    guided = GuidedBackprop(unshared(resnet.module)).attribute(inputs.requires_grad_(), target=2).detach()
    coarse = found.arrays["cam/gradcam/2"].relu()[:, None]
    expected = guided * nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear", align_corners=False)
    assert relative(found.arrays["cam/guided-gradcam/2"], expected) <= 1e-4
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
    together, _ = finish(METHOD.run(resnet, rows, Context()))
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
    results, _ = finish(METHOD.run(vgg, rows, Context()))
    assert isinstance(results[0], MethodError) and results[0].problem == "not-applicable"
    assert isinstance(results[1], MethodError) and results[1].problem == "invalid-request"
    assert not isinstance(results[2], MethodError)
