"""Class activation maps against pytorch-grad-cam, Captum and TorchCAM: equal where they are right, and where not, why.

Each difference that docs/methods/cam.md names has its test here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as peers
import torch
import torchcam.methods
from captum.attr import GuidedBackprop, LayerGradCam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, image, outcome, traces
from tests.workers.methods.cam.cam_peers import GRADIENT_PEERS, build, peer_maps, relative, request
from workers.contract import Row, params
from workers.methods.cam import METHOD
from workers.methods.cam import maps as cam_maps
from workers.methods.cam.fullgrad import Decomposition, fullgrad_map
from workers.networks.build import load

NETWORKS = {
    "resnet18": ("layer4", "relu"),
    "resnet50": ("layer4", "relu"),
    "vgg16": ("features.29", "features.3"),
    "densenet121": ("features.denseblock4", "features.relu0"),
    "efficientnet_lite0": ("bn2", "bn1"),
}
"""The layer of the gradient methods, and an early one with few channels for those that need a forward for each."""

TINY = params({"size": (32, 32), "crop": "none", "resize_mode": "bilinear"})
SMALL = params({"size": (64, 64), "crop": "none", "resize_mode": "bilinear"})


@pytest.fixture(scope="module", params=list(NETWORKS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network_of(name: str, head: float = 10) -> Any:
    """Real weights for EfficientNet-Lite0, seeded random ones for the others."""
    return load(name) if name == "efficientnet_lite0" else build(name, head=head)


def test_gradient_methods_equal_pytorch_grad_cam(name: str) -> None:
    network, layer = network_of(name), NETWORKS[name][0]
    uploads = [image((64, 64), seed) for seed in (1, 2)]
    before = traces(network.module)
    asked = request(methods=list(GRADIENT_PEERS), layer=layer, targets=[7], preprocess=SMALL)
    found = outcome(METHOD, network, Row(asked, uploads))
    assert traces(network.module) == before
    inputs, _ = network.prepare(uploads, SMALL)
    # One image at a time, as ours: with other company the layers' last bits are others, and xgradcam divides by sums of
    # either sign.
    peers = [peer_maps(list(GRADIENT_PEERS), network, layer, one, 7) for one in inputs.split(1)]
    for method in peers[0]:
        expected = np.concatenate([peer[method] for peer in peers])
        ours = found.arrays[f"cam/{method}/7"].numpy()
        if method.startswith("eigen"):  # their sign is the linear algebra library's
            expected = np.stack([e * np.sign((e * o).sum()) for e, o in zip(expected, ours, strict=True)])
        if method == "gradcam++" and name == "efficientnet_lite0":
            continue  # real gradients are small: the next test
        assert relative(ours, expected) <= 1e-4, method


def test_grad_cam_plus_plus_of_small_gradients_is_where_pytorch_grad_cam_differs() -> None:
    """Their 1e-6 in α's denominator outweighs real gradients; the published formula without it is ours."""
    network = network_of("efficientnet_lite0")
    uploads = [image((64, 64), 1)]
    found = outcome(METHOD, network, Row(request(methods=["gradcam++"], layer="bn2", targets=[7]), uploads))
    inputs, _ = network.prepare(uploads)
    theirs = peer_maps(["gradcam++"], network, "bn2", inputs, 7)["gradcam++"]
    with peers.GradCAM(network.module, [network.module.bn2]) as cam:
        cam.activations_and_grads(inputs.clone().requires_grad_())[:, 7].sum().backward()
        a = cam.activations_and_grads.activations[0].double()
        g = cam.activations_and_grads.gradients[0].double()
    total = a.sum(dim=(2, 3), keepdim=True)
    for epsilon, expected in ((0.0, found.arrays["cam/gradcam++/7"].numpy()), (1e-6, theirs)):
        alpha = torch.where(g != 0, g**2 / (2 * g**2 + total * g**3 + epsilon), 0.0)
        by_formula = ((alpha * g.relu()).sum(dim=(2, 3), keepdim=True) * a).sum(dim=1)
        assert relative(by_formula, expected) <= 1e-3, epsilon
    # α = g²/(2g² + ΣA·g³): with ΣA = 0 it is 1/2 however small g is; theirs falls to g²/1e-6.
    activation, gradient = torch.tensor([[[[1.0, -1.0]]]]), torch.full((1, 1, 1, 2), 1e-4)
    torch.testing.assert_close(cam_maps.gradcam_plus_plus(activation, gradient), torch.tensor([[[1e-4, -1e-4]]]))
    weights = peers.GradCAMPlusPlus.get_cam_weights(None, None, None, None, activation.numpy(), gradient.numpy())
    assert weights[0, 0] < 0.05 * 1e-4


def test_grad_cam_equals_captum(name: str) -> None:
    network, layer = network_of(name), NETWORKS[name][0]
    uploads = [image((64, 64), 3)]
    found = outcome(METHOD, network, Row(request(layer=layer, targets=[5], preprocess=SMALL), uploads))
    inputs, _ = network.prepare(uploads, SMALL)
    expected = LayerGradCam(network.module, network.module.get_submodule(layer)).attribute(
        inputs.requires_grad_(), target=5
    )
    assert relative(found.arrays["cam/gradcam/5"], expected.detach()[:, 0]) <= 1e-4


def test_score_and_ablation_cam_equal_pytorch_grad_cam(name: str) -> None:
    """Two classes from the same forwards; after a ReLU, where theirs removes a channel as the paper does.

    Scores of order one: Score-CAM's softmax turns the last digits of large scores into the first of its weights.
    """
    network, layer = network_of(name, head=0.1), NETWORKS[name][1]
    uploads = [image((32, 32), 6)]
    inputs, _ = network.prepare(uploads, TINY)
    asked = request(methods=["scorecam", "ablationcam"], layer=layer, targets=[1, 2], preprocess=TINY)
    found = outcome(METHOD, network, Row(asked, uploads))
    classes = {"scorecam": peers.ScoreCAM, "ablationcam": peers.AblationCAM}
    for method, expected in peer_maps(list(classes), network, layer, inputs, 2, classes).items():
        assert relative(found.arrays[f"cam/{method}/2"], expected) <= 1e-4, method


def test_ablation_of_a_signed_layer_is_where_pytorch_grad_cam_differs() -> None:
    """A removed channel is zero (Desai 2020, section 3); theirs is ten million below the minimum."""
    network = network_of("efficientnet_lite0")
    layer, module = "blocks.1.0", network.module
    uploads = [image((32, 32), 6)]
    inputs, _ = network.prepare(uploads, TINY)
    asked = request(methods=["ablationcam"], layer=layer, targets=[2], preprocess=TINY)
    found = outcome(METHOD, network, Row(asked, uploads))
    theirs = peer_maps(["a"], network, layer, inputs, 2, {"a": peers.AblationCAM})["a"]
    part = module.get_submodule(layer)
    seen: list[Tensor] = []
    drops = []
    with torch.no_grad():
        handle = part.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
        score = module(inputs)[0, 2]
        handle.remove()
        for k in range(seen[0].shape[1]):
            zeroed = seen[0].clone()
            zeroed[:, k] = 0
            handle = part.register_forward_hook(lambda m, i, o, zeroed=zeroed: zeroed.clone())
            drops.append((score - module(inputs)[0, 2]) / score)
            handle.remove()
    expected = torch.einsum("c,nchw->nhw", torch.stack(drops), seen[0])
    assert relative(found.arrays["cam/ablationcam/2"], expected) <= 1e-4
    assert relative(theirs, expected) > 1


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
    theirs = peer_maps(["gradcam"], network, "features", inputs, 1)["gradcam"]
    assert relative(theirs, torch.einsum("nc,nchw->nhw", weights, activation.relu())) <= 1e-3
    assert (activation < 0).any()


def test_negative_evidence_is_kept_where_pytorch_grad_cam_returns_an_empty_map() -> None:
    class Against(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1, bias=False)
            nn.init.constant_(self.conv.weight, 1.0)

        def forward(self, x: Tensor) -> Tensor:
            return -self.conv(x).mean(dim=(2, 3))

    network = FakeNetwork(Against(), size=(8, 8))
    upload = image((8, 8), 2)
    found = outcome(METHOD, network, Row(request(layer="conv", targets=[0]), [upload]))
    inputs, _ = network.prepare([upload])
    with peers.GradCAM(network.module, [network.module.conv]) as cam:
        theirs = cam(inputs.requires_grad_(), [ClassifierOutputTarget(0)])
    assert not theirs.any()
    assert found.facts["maps"][0]["all_negative"] and found.arrays["cam/gradcam/0"].max() < 0


def test_torchcam_leaves_out_alphas_denominator() -> None:
    """TorchCAM 0.5 divides a copy, so its α of Grad-CAM++ is g², whatever the activation."""
    network = build("resnet18", 32)
    inputs, _ = network.prepare([image((32, 32), 3)])
    module = network.module.requires_grad_(True)
    try:
        with torchcam.methods.GradCAMpp(module, "layer4") as cam:
            module.zero_grad(set_to_none=True)
            scores = module(inputs)
            weights = cam._get_weights(5, scores)[0]
            gradient = cam.hook_g[0]
    finally:
        module.requires_grad_(False).zero_grad(set_to_none=True)
    without = (gradient**2 * gradient.relu()).sum(dim=(2, 3))
    assert relative(weights.detach(), without.detach()) <= 1e-5


def test_guided_gradcam_equals_captum_and_is_more_than_the_gradient_with_relu6() -> None:
    network = build("resnet18")
    upload = image((64, 64), 10)
    asked = request(methods=["gradcam", "guided-gradcam"], layer="layer4", targets=[2])
    found = outcome(METHOD, network, Row(asked, [upload]))
    inputs, _ = network.prepare([upload])
    # Where no module is shared captum's rule is right: a copy of the network with a ReLU for each call.
    from tests.workers.methods.unshared import unshared

    guided = GuidedBackprop(unshared(network.module)).attribute(inputs.requires_grad_(), target=2).detach()
    coarse = found.arrays["cam/gradcam/2"].relu()[:, None]
    expected = guided * nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear", align_corners=False)
    assert relative(found.arrays["cam/guided-gradcam/2"], expected) <= 1e-4

    lite = load("efficientnet_lite0")
    inputs, _ = lite.prepare([upload], SMALL)
    inputs = inputs.requires_grad_()
    plain = torch.autograd.grad(lite.module(inputs)[0, 2], inputs)[0]
    with pytest.warns(UserWarning, match="backward hooks"):
        theirs = GuidedBackprop(lite.module).attribute(inputs, target=2)
    assert relative(theirs.detach(), plain) <= 1e-5, "captum knows nn.ReLU only: with ReLU6 it is the plain gradient"
    found = outcome(
        METHOD, lite, Row(request(methods=asked.methods, layer="bn2", targets=[2], preprocess=SMALL), [upload])
    )
    coarse = nn.functional.interpolate(found.arrays["cam/gradcam/2"].relu()[:, None], size=(64, 64), mode="bilinear")
    assert relative(found.arrays["cam/guided-gradcam/2"], plain * coarse) > 0.1


def test_fullgrad_scales_over_all_channels_where_pytorch_grad_cam_scales_each_by_itself() -> None:
    """A channel a million times weaker than its neighbour: nothing here, as much as the strongest there."""
    term = torch.zeros(1, 2, 4, 4)
    term[0, 0, 0, 0], term[0, 1, 3, 3] = 1.0, 1e-6
    ours = fullgrad_map(Decomposition([term], [], torch.zeros(1), torch.ones(1)), (4, 4))[0]
    assert ours[0, 0] == pytest.approx(1.0) and ours[3, 3] == pytest.approx(1e-6)
    theirs = peers.fullgrad_cam.scale_accross_batch_and_channels(term.numpy(), (4, 4)).sum(axis=1)[0]
    assert theirs[0, 0] == pytest.approx(1.0, abs=1e-6) and theirs[3, 3] > 0.9


def test_pytorch_grad_cam_fullgrad_sees_no_bias_inside_timms_layers() -> None:
    """It takes exact types only; all of Lite0's BatchNorms are a subclass, so nothing but the input's term is left."""
    lite = load("efficientnet_lite0")
    with peers.FullGrad(lite.module, []) as cam:
        assert len(cam.bias_data) == 0
