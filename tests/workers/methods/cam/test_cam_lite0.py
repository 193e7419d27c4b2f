"""Class activation maps of the default network with its real weights: closed forms of its head, and photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

from tests.workers.fakes import outcome
from tests.workers.methods.cam.cam_peers import relative, request
from workers.contract import Grant, Outcome, Row, params
from workers.methods.cam import METHOD
from workers.methods.cam.fullgrad import FullGradient
from workers.methods.cam.masks import ablation_weights, score_weights
from workers.networks.build import LoadedNetwork, load
from workers.passes.class_targets import ClassTarget

BOXES = json.loads((Path(__file__).parent / "photograph_boxes.json").read_text())
PHOTOGRAPHS = ("chelsea", "coffee", "rocket")
PREDICTED = {"chelsea": "tiger cat", "coffee": "espresso", "rocket": "missile"}
LAYER = "bn2"
"""The last spatial map before global pooling: the 1280 channels of the head, 7×7."""


@pytest.fixture(scope="module")
def lite0() -> LoadedNetwork:
    return load("efficientnet_lite0")


@pytest.fixture(scope="module")
def photographs() -> list[Tensor]:
    return [torch.from_numpy(getattr(data, name)().copy()) for name in PHOTOGRAPHS]


@pytest.fixture(scope="module")
def found(lite0: LoadedNetwork, photographs: list[Tensor]) -> Outcome:
    methods = ["cam", "gradcam", "hirescam", "xgradcam", "ablationcam", "eigencam", "fullgrad"]
    return outcome(METHOD, lite0, Row(request(methods=methods, layer=LAYER, upsampled=True), photographs))


@pytest.fixture(scope="module")
def head(lite0: LoadedNetwork, photographs: list[Tensor]) -> dict[str, Any]:
    """What the closed forms need: inputs, activation A, logits, weight and bias of the linear layer."""
    inputs, _ = lite0.prepare(photographs)
    seen: list[Tensor] = []
    handle = lite0.module.bn2.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    with torch.no_grad():
        logits = lite0.module(inputs)
    handle.remove()
    classifier = lite0.module.classifier
    return {"inputs": inputs, "A": seen[0], "logits": logits, "w": classifier.weight, "b": classifier.bias}


def map_of(found: Outcome, method: str, image: int, full: bool = False) -> Tensor:
    (one,) = [fact for fact in found.facts["maps"] if fact["method"] == method and fact["image"] == image]
    return found.arrays[one["array"] + ("/full" if full else "")][one["item"]]


def target_of(found: Outcome, image: int) -> int:
    return next(int(fact["target"]) for fact in found.facts["maps"] if fact["image"] == image)


@pytest.mark.parametrize("image", range(3))
def test_closed_forms_of_the_head(found: Outcome, head: dict[str, Any], image: int) -> None:
    target = target_of(found, image)
    cam = torch.einsum("c,chw->hw", head["w"][target], head["A"][image])
    assert relative(map_of(found, "cam", image), cam) <= 1e-5
    assert relative(map_of(found, "gradcam", image), cam / 49) <= 1e-5
    assert relative(map_of(found, "hirescam", image), map_of(found, "gradcam", image)) <= 1e-5
    evidence = (head["logits"][image, target] - head["b"][target]).item()
    assert map_of(found, "hirescam", image).sum().item() == pytest.approx(evidence, rel=1e-4)
    scaled = [
        (one - one.min()) / (one.max() - one.min())
        for one in (map_of(found, method, image) for method in ("cam", "gradcam", "xgradcam"))
    ]
    assert relative(scaled[1], scaled[0]) <= 1e-4
    assert relative(scaled[2], scaled[0]) <= 1e-4


def test_ablation_in_closed_form_is_brute_force(lite0: LoadedNetwork, found: Outcome, head: dict[str, Any]) -> None:
    """64 channels drawn at random, each zeroed in turn; and the formula w_k·mean A_k / y over all of them."""
    target = target_of(found, 0)
    y = head["logits"][0, target]
    weights = head["w"][target] * head["A"][0].mean(dim=(1, 2)) / y
    assert relative(map_of(found, "ablationcam", 0), torch.einsum("c,chw->hw", weights, head["A"][0])) <= 1e-4
    assert all(fact["forwards"] == 0 for fact in found.facts["maps"] if fact["method"] == "ablationcam")
    channels = torch.randperm(1280, generator=torch.Generator().manual_seed(0))[:64]
    copies = head["A"][:1].repeat(64, 1, 1, 1)
    copies[torch.arange(64), channels] = 0
    with torch.no_grad():
        ablated = lite0.module.classifier(lite0.module.global_pool(copies))[:, target]
    torch.testing.assert_close((y - ablated) / y, weights[channels], rtol=1e-4, atol=1e-6)


def test_ablation_by_forwards_agrees_with_the_closed_form(lite0: LoadedNetwork, head: dict[str, Any]) -> None:
    """What runs for heads that are not linear, on this one that is."""
    activation, target = head["A"][:1], 282
    score = float(head["logits"][0, target])
    targets = [ClassTarget(target)]
    work = ablation_weights(
        lite0.module, head["inputs"][:1], LAYER, activation, targets, [score], lite0.outputs, lambda: 320
    )
    weights = last(work)[0]
    expected = head["w"][target] * activation[0].mean(dim=(1, 2)) / score
    assert relative(weights, expected) <= 1e-4


def last(work: Any) -> Tensor:
    """Run a generator of weights to its end."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def test_score_cam_in_batches_of_one_and_of_thirty_two(lite0: LoadedNetwork, photographs: list[Tensor]) -> None:
    """32 channels of an early layer at 96 px; weights ≥ 0 that sum to 1 for each class."""
    inputs, _ = lite0.prepare(photographs[:1], params({"size": (96, 96), "crop": "center", "resize_mode": None}))
    seen: list[Tensor] = []
    handle = lite0.module.bn1.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    with torch.no_grad():
        lite0.module(inputs)
    handle.remove()
    targets = [ClassTarget(282), ClassTarget(281)]
    one, many = (
        last(score_weights(lite0.module, inputs, seen[0], targets, lite0.outputs, lambda n=n: n)) for n in (1, 32)
    )
    assert one.shape == (2, 32)
    assert (one >= 0).all()
    torch.testing.assert_close(one.sum(dim=1), torch.ones(2), rtol=0, atol=1e-5)
    assert relative(many, one) <= 1e-4


def test_eigen_cam_holds_the_largest_variance(found: Outcome, head: dict[str, Any]) -> None:
    for image in range(3):
        flat = head["A"][image].flatten(1).double()
        centred = flat - flat.mean(dim=1, keepdim=True)
        largest = torch.linalg.eigvalsh(centred.T @ centred)[-1].item()
        drawn = map_of(found, "eigencam", image).double()
        assert drawn.square().sum().item() == pytest.approx(largest, rel=1e-4)
        assert (drawn.flatten() * centred.mean(dim=0)).sum() > 0


def test_fullgrad_completes_and_misses_the_saturation_exactly_without_it(
    lite0: LoadedNetwork, found: Outcome, head: dict[str, Any]
) -> None:
    gaps = [fact["completeness_gap"] for fact in found.facts["maps"] if fact["method"] == "fullgrad"]
    assert len(gaps) == 3 and max(map(abs, gaps)) <= 1e-4
    terms = FullGradient(lite0.module, head["inputs"], lite0.outputs).of(
        [ClassTarget(index) for index in head["logits"].argmax(dim=1).tolist()]
    )
    saturation = terms.saturation()
    assert (saturation.abs() > 0.1 * terms.logit.abs()).all(), "ReLU6 saturates on photographs"
    terms.terms = [term for k, term in enumerate(terms.terms) if k not in terms.saturated]
    torch.testing.assert_close(terms.gap(), saturation, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("image", range(3), ids=PHOTOGRAPHS)
def test_the_evidence_lies_on_the_object(found: Outcome, photographs: list[Tensor], image: int) -> None:
    """At least 80 % of Grad-CAM's positive mass, upsampled as it is drawn, inside a box drawn by hand."""
    name = PHOTOGRAPHS[image]
    (fact,) = [one for one in found.facts["maps"] if one["method"] == "gradcam" and one["image"] == image]
    assert fact["name"] == PREDICTED[name]
    positive = map_of(found, "gradcam", image, full=True).clamp_min(0).numpy()
    transform = found.facts["transforms"][image]
    assert transform["upload_size"] == list(photographs[image].shape[:2])
    axes = [
        (np.arange(positive.shape[k]) + 0.5) * transform["scale"][k] + transform["offset"][k] for k in (0, 1)
    ]  # centres of the input's pixels in the photograph
    top, left, bottom, right = BOXES[name]["box"]
    rows, columns = (axes[0] >= top) & (axes[0] < bottom), (axes[1] >= left) & (axes[1] < right)
    assert positive[np.ix_(rows, columns)].sum() / positive.sum() >= 0.8


def test_fast_arithmetic_gives_the_same_picture(lite0: LoadedNetwork, photographs: list[Tensor]) -> None:
    asked = {"methods": ["gradcam", "eigencam", "fullgrad"], "layer": LAYER, "targets": [282]}
    grant = Grant()
    exact = outcome(METHOD, lite0, Row(request(**asked), photographs[:1]), grant)
    fast = outcome(METHOD, lite0, Row(request(**asked, precision="fast"), photographs[:1]), grant)
    for name, values in exact.arrays.items():
        assert np.corrcoef(values.flatten(), fast.arrays[name].flatten())[0, 1] > 0.98, name
    small = params({"size": (64, 64), "crop": "none", "resize_mode": None})
    asked = {"methods": ["scorecam", "ablationcam", "guided-gradcam"], "layer": "bn1", "targets": [282]}
    exact, fast = (
        outcome(METHOD, lite0, Row(request(**asked, preprocess=small, precision=precision), photographs[:1]))
        for precision in ("exact", "fast")
    )
    for name, values in exact.arrays.items():
        assert np.corrcoef(values.flatten(), fast.arrays[name].flatten())[0, 1] > 0.9, name
