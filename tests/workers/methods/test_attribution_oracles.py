"""Judges of attributions on networks whose answer is known, and on the default network as its weights are lost.

Infidelity (Yeh 2019), sensitivity-n (Ancona 2018), deletion (Petsiuk 2018) and the pointing game (Wang 2020) are
written out here, each with an oracle of its own; the randomisation of weights is that of Adebayo 2018.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage import data
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, image, outcome
from tests.workers.methods.cam.cam_peers import request
from tests.workers.methods.occlusion.test_occlusion import row as occluded
from tests.workers.methods.saliency.test_saliency import linear, row
from workers.contract import Row
from workers.methods.cam import METHOD as CAM
from workers.methods.occlusion import METHOD as OCCLUSION
from workers.methods.saliency import METHOD as SALIENCY
from workers.networks.build import LoadedNetwork, load


def infidelity(attribution: Tensor, weights: Tensor, x: Tensor, perturbations: Tensor) -> float:
    """E[(I · φ − (f(x) − f(x − I)))²] for f(x) = w · x, float64."""
    falls = ((x - (x - perturbations)) * weights).flatten(1).sum(1)
    return float(((perturbations * attribution).flatten(1).sum(1) - falls).square().mean())


def sensitivity(attribution: Tensor, weights: Tensor, x: Tensor, n: int, seed: int) -> float:
    """Correlation over random sets of n inputs of the sum of φ with the fall of f(x) = w · x when they become 0."""
    generator = torch.Generator().manual_seed(seed)
    sets = torch.stack([torch.randperm(x.numel(), generator=generator)[:n] for _ in range(200)])
    sums, falls = attribution.flatten()[sets].sum(1), (weights * x).flatten()[sets].sum(1)
    return float(torch.corrcoef(torch.stack([sums, falls]))[0, 1])


def test_the_gradient_of_a_linear_network_is_faithful() -> None:
    network, weights = linear()
    x = network.prepare([image((16, 16), 3)])[0].double()
    found = {
        method: outcome(SALIENCY, network, row(image((16, 16), 3), target=0, method=method)).arrays["attribution"]
        for method in ("gradient", "gradient-x-input", "integrated-gradients")
    }
    perturbations = torch.randn(50, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradient = found["gradient"].double()
    assert infidelity(gradient, weights.double(), x, perturbations) <= 1e-10
    assert infidelity(1.1 * gradient, weights.double(), x, perturbations) > 1e-3
    for method in ("gradient-x-input", "integrated-gradients"):
        for n in (1, 20, 300):
            assert sensitivity(found[method].double(), weights.double(), x, n, seed=n) == pytest.approx(1, abs=1e-6)
    noise = torch.randn(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert abs(sensitivity(noise, weights.double(), x, 20, seed=0)) < 0.5


def deletion(score: Any, x: Tensor, order: Tensor) -> float:
    """Area under the score as the pixels (C×H×W, flat positions) become 0 in that order, the score at x being 1."""
    pixels, curve = x.flatten(1).clone(), [score(x)]
    for chunk in order.chunk(100):
        pixels[:, chunk] = 0
        curve.append(score(pixels.view_as(x)))
    values = np.asarray(curve, np.float64) / curve[0]
    return float(np.trapezoid(values) / (len(curve) - 1))


def test_deletion_of_a_mean_is_a_half_for_every_map() -> None:
    ones = torch.ones(1, 20, 20, dtype=torch.float64)
    for seed in range(5):
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
        assert deletion(lambda x: float(x.mean()), ones, order) == pytest.approx(0.5, abs=1e-9)


def test_deletion_ranks_the_true_map_before_chance_before_its_reverse() -> None:
    """f = Σ w·x with positive parts: the service's gradient times input takes the most away first."""
    network, weights = linear()
    network.module.function = lambda x: (x * weights.abs()).sum((1, 2, 3))
    picture = image((16, 16), 9)
    found = outcome(SALIENCY, network, row(picture, target=0, method="gradient-x-input"))
    value = found.arrays["attribution"][0].sum(0).flatten()
    x = network.prepare([picture])[0][0]

    def area(order: Tensor) -> float:
        return deletion(lambda pixels: float((pixels * weights.abs()).sum()), x, order)

    best = area(value.argsort(descending=True))
    chance = [area(torch.randperm(256, generator=torch.Generator().manual_seed(seed))) for seed in range(5)]
    assert best < min(chance) <= max(chance) < area(value.argsort())


def in_box(heat: Tensor, box: tuple[int, int, int, int]) -> float:
    """The energy pointing game (Wang 2020): share of a map's positive mass inside a box."""
    top, left, bottom, right = box
    positive = heat.clamp(min=0)
    return float(positive[top:bottom, left:right].sum() / positive.sum())


def test_the_pointing_game_of_one_hot_evidence_is_won_or_lost() -> None:
    """One channel, one place: Grad-CAM lies where the network looks and nowhere else."""
    module = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        module[3].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    upload = torch.zeros(9, 9, 3, dtype=torch.uint8)
    upload[2, 6] = 200
    found = outcome(CAM, FakeNetwork(module, (9, 9)), Row(request(layer="0", targets=[0]), [upload]))
    heat = found.arrays["cam/gradcam/0"][0]
    assert in_box(heat, (2, 6, 3, 7)) == 1
    assert in_box(heat, (3, 0, 9, 9)) == 0
    assert in_box(torch.ones(10, 10), (0, 0, 5, 10)) == 0.5


def photographs(count: int) -> list[Tensor]:
    """Crops of photographs, uint8."""
    wholes = [data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]
    places = [(0, 0), (40, 60), (80, 100)]
    found = []
    for turn in range(count):
        whole = wholes[turn % 4]
        top, left = places[turn // 4]
        found.append(torch.from_numpy(whole[top : top + 200, left : left + 260].copy()))
    return found


SIDE = 160
"""Input of the default network here, pixels: Grad-CAM's map is 5×5."""


def cascade(fresh: LoadedNetwork, uploads: list[Tensor], stages: list[list[str]]) -> dict[str, list[float]]:
    """Spearman's correlation of |map| with the original's, as the weights of each stage in turn are drawn anew.

    Adebayo 2018, section 3.1: from the logits down; the mean over the uploads, one value for each stage.
    """
    preprocess = SimpleNamespace(size=[SIDE, SIDE], resize=SIDE, crop="none", resize_mode=None)
    module = fresh.module
    found: dict[str, list[list[Tensor]]] = {"gradient": [], "guided": [], "gradcam": []}
    classes: list[int] = []

    def look() -> None:
        for method in ("gradient", "guided"):
            maps = []
            for upload, target in zip(uploads, classes, strict=True):
                one = outcome(SALIENCY, fresh, row(upload, method=method, target=target, preprocess=preprocess))
                maps.append(one.arrays["attribution"][0].abs().sum(0))
            found[method].append(maps)
        asked = [request(layer="bn2", targets=[target], preprocess=preprocess) for target in classes]
        cams = [outcome(CAM, fresh, Row(one, [upload])) for one, upload in zip(asked, uploads, strict=True)]
        found["gradcam"].append([next(iter(one.arrays.values()))[0].clamp(min=0) for one in cams])

    inputs, _ = fresh.prepare(uploads, preprocess)
    with torch.no_grad():
        classes.extend(module(inputs).argmax(1).tolist())
    look()
    torch.manual_seed(0)
    for stage in stages:
        for name in stage:
            for part in module.get_submodule(name).modules():
                if isinstance(part, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
                    part.reset_parameters()
        look()
    return {
        method: [
            float(np.mean([_rank(now, then) for now, then in zip(maps, all_maps[0], strict=True)])) for maps in all_maps
        ]
        for method, all_maps in found.items()
    }


def _rank(one: Tensor, other: Tensor) -> float:
    if float(one.std()) == 0 or float(other.std()) == 0:
        return 0.0
    return float(spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic)


@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_maps_depend_on_the_weights(count: int) -> None:
    """At full randomisation less than half of the gradient's and Grad-CAM's likeness is left.

    Guided backpropagation keeps more than the gradient: known, and what its facts warn of.
    """
    fresh = copy.copy(load("efficientnet_lite0"))
    fresh.module = copy.deepcopy(fresh.module)
    stages = [["classifier"], ["conv_head", "bn2"], ["blocks"], ["conv_stem", "bn1"]]
    found = cascade(fresh, photographs(count), stages)
    for method in ("gradient", "gradcam"):
        assert found[method][0] == pytest.approx(1)
        assert found[method][-1] < 0.5
    assert found["guided"][1] > 0.9 > found["gradient"][1] + 0.2  # another classifier altogether, the same picture
    assert found["guided"][-1] > found["gradient"][-1]


def test_integrated_gradients_of_the_default_network_complete() -> None:
    """Within 1 % at 200 steps, and the error falls; left to itself the service takes as many as it needs."""
    network = load("efficientnet_lite0")
    upload = torch.from_numpy(data.chelsea().copy())
    preprocess = SimpleNamespace(size=[64, 64], resize=64, crop="none", resize_mode=None)
    target = 282

    def facts(steps: int, most: int) -> dict[str, Any]:
        wanted = row(
            upload, method="integrated-gradients", target=target, steps=steps, max_steps=most, preprocess=preprocess
        )
        return dict(outcome(SALIENCY, network, wanted).facts["images"][0]["completeness"])

    few, many, free = facts(5, 5), facts(200, 200), facts(5, 400)
    assert many["gap"] <= 0.01
    assert many["gap"] < few["gap"]
    assert free["within_tolerance"]
    assert 5 <= free["steps"] <= 400


def two_layers(shuffle: bool = False, mirror: bool = False) -> FakeNetwork:
    """The same small network with its channels in another order, or with mirrored kernels."""
    torch.manual_seed(21)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    first, second = module[0], module[2]
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    with torch.no_grad():
        module[6].weight.mul_(20)
        if shuffle:
            first.weight.copy_(first.weight[order].clone())
            first.bias.copy_(first.bias[order].clone())
            second.weight.copy_(second.weight[:, order].clone())
        if mirror:
            first.weight.copy_(first.weight.flip(3))
            second.weight.copy_(second.weight.flip(3))
    return FakeNetwork(module, (15, 15))


@pytest.mark.parametrize("method", ["gradient", "gradient-x-input", "guided", "integrated-gradients"])
def test_saliency_of_permuted_channels_and_of_mirrored_kernels(method: str) -> None:
    upload = image((15, 15), 2)
    plain, shuffled = (
        outcome(SALIENCY, two_layers(shuffle), row(upload, method=method, target=1)).arrays["attribution"]
        for shuffle in (False, True)
    )
    flipped = outcome(SALIENCY, two_layers(mirror=True), row(upload.flip(1), method=method, target=1))
    largest = float(plain.abs().max())
    assert float((shuffled - plain).abs().max()) <= 1e-5 * largest
    assert float((flipped.arrays["attribution"].flip(3) - plain).abs().max()) <= 1e-5 * largest


def test_occlusion_of_permuted_channels_and_of_mirrored_kernels() -> None:
    upload = image((15, 15), 2)
    wanted = {"window": (5, 5), "stride": (2, 2), "target": 1}
    unit = {"layer": "2", "channel": 1}
    plain, shuffled = (
        outcome(OCCLUSION, two_layers(shuffle), occluded(upload, unit, **wanted)).arrays for shuffle in (False, True)
    )
    flipped = outcome(OCCLUSION, two_layers(mirror=True), occluded(upload.flip(1), unit, **wanted)).arrays
    for name in ("probability", "activation"):
        torch.testing.assert_close(shuffled[name], plain[name], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(flipped[name].flip(2), plain[name], rtol=1e-5, atol=1e-5)
