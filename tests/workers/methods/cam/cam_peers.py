"""What the tests of class activation maps share: requests, networks with seeded weights, and the peers' raw maps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_grad_cam as peers
import torch
import torchvision
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork
from workers.contract import params

DEFAULTS: dict[str, Any] = {
    "methods": ["gradcam"], "layer": "", "targets": ["predicted"], "upsampled": False, "nonstandard_gate": False,
    "precision": "exact", "preprocess": None, "seed": 0,
}  # fmt: skip

GRADIENT_PEERS = {
    "gradcam": peers.GradCAM, "gradcam++": peers.GradCAMPlusPlus, "hirescam": peers.HiResCAM,
    "elementwise": peers.GradCAMElementWise, "xgradcam": peers.XGradCAM, "layercam": peers.LayerCAM,
    "eigencam": peers.EigenCAM, "eigengradcam": peers.EigenGradCAM,
}  # fmt: skip


def request(**changes: Any) -> Any:
    """A resolved `cam` request as the method sees it."""
    return params({**DEFAULTS, **changes})


def relative(found: Any, expected: Any) -> float:
    """Largest difference as a share of the largest expected magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


@functools.lru_cache(maxsize=4)
def build(name: str, size: int = 64, head: float = 10) -> FakeNetwork:
    """A torchvision network with seeded weights and lively statistics; shared, as no method may change it.

    `head` is the spread of the last layer's weights.
    """
    torch.manual_seed(0x5EED)
    module = torchvision.models.get_model(name, weights=None)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):  # statistics of their own, so that biases and signs matter
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
    if linear := [part for part in module.modules() if isinstance(part, nn.Linear)]:
        # Gradients of order one: pytorch-grad-cam adds 1e-6 to Grad-CAM++'s denominator, which decides small ones.
        nn.init.normal_(linear[-1].weight, 0, head)
    return FakeNetwork(module, size=(size, size), chain=False)


def peer_maps(
    methods: Sequence[str], network: Any, layer: str, inputs: Tensor, target: int, classes: Any = None
) -> dict[str, np.ndarray]:
    """pytorch-grad-cam's raw maps, before it rectifies, scales and resizes; one backward for all methods."""
    module, wanted = network.module, {**GRADIENT_PEERS, **(classes or {})}
    target_layer = module.get_submodule(layer)
    targets = [ClassifierOutputTarget(target)] * len(inputs)
    with peers.GradCAM(module, [target_layer]) as cam:
        x = inputs.clone().requires_grad_()
        scores = cam.activations_and_grads(x)
        scores[:, target].sum().backward()
        activation = cam.activations_and_grads.activations[0].numpy()
        gradient = cam.activations_and_grads.gradients[0].numpy()
    found = {}
    for method in methods:
        with wanted[method](module, [target_layer]) as peer:
            drawn = peer.get_cam_image(inputs, target_layer, targets, activation, gradient, False)
        found[method] = np.asarray(drawn)
    return found
