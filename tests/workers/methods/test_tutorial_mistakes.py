"""What tutorials compute by mistake is not what is answered here: each mistake written out, on random weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, image, outcome
from workers.contract import Row
from workers.methods.cam import METHOD as CAM
from workers.methods.deconv import METHOD as DECONV
from workers.methods.feature_maps import METHOD as MAPS
from workers.methods.saliency import METHOD as SALIENCY

SIZE = (20, 20)


def network() -> FakeNetwork:
    """Two convolutions with in-place ReLUs, a pool between them, five classes."""
    torch.manual_seed(5)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    return FakeNetwork(module, SIZE)


def row(**wanted: Any) -> Row:
    common = {"precision": "exact", "preprocess": None, "seed": 0, "nonstandard_gate": False}
    return Row(SimpleNamespace(**common, **wanted), [image(SIZE, 4)])


def back(own: FakeNetwork, x: Tensor, signal: Tensor, biases: bool) -> Tensor:
    """ConvTranspose, unpooling, ReLU, ConvTranspose; with the biases that torch makes its own, or none."""
    first, second = own.module.get_submodule("0"), own.module.get_submodule("3")
    up, top = nn.ConvTranspose2d(8, 6, 3, padding=1, bias=biases), nn.ConvTranspose2d(6, 3, 3, padding=1, bias=biases)
    with torch.no_grad():
        up.weight.copy_(second.weight)
        top.weight.copy_(first.weight)
        before = F.relu(first(x))
        _, places = F.max_pool2d(before, 2, return_indices=True)
        unpooled = F.max_unpool2d(up(signal), places, 2)
        pixels: Tensor = top(F.relu(unpooled))
    return pixels


def test_one_unit_is_projected_without_the_channels_behind_it_and_without_biases() -> None:
    own = network()
    x, _ = own.prepare([image(SIZE, 4)])
    with torch.no_grad():
        activation = own.module[:4](x.clone())  # type: ignore[index]
    channel = int(activation[0, :7].flatten(1).amax(1).argmax())
    asked = row(layers=["3"], channels=[channel], by="max", seed_unit="max", rule="deconvnet", switches="sum")
    ours = outcome(DECONV, own, asked).arrays["projection/3"]
    alone = torch.zeros_like(activation)
    place = int(activation[0, channel].argmax())
    alone[0, channel].view(-1)[place] = activation[0, channel].view(-1)[place]
    torch.testing.assert_close(ours, back(own, x, alone, biases=False), rtol=1e-4, atol=1e-6)
    kept = activation.clamp(min=0)
    kept[0, : channel + 1] = alone[0, : channel + 1]
    assert float((ours - back(own, x, kept, biases=False)).abs().max()) > 0.5 * float(ours.abs().max())
    biased = back(own, x, alone, biases=True)
    silent = ours == 0
    assert bool(silent.any())
    assert not bool((biased[silent] == 0).any())


def test_maps_are_those_before_the_relu_behind_them_overwrote_them() -> None:
    own = network()
    ours = outcome(MAPS, own, row(layers=["3"], channels="all", by="mean")).arrays["maps/3"]
    kept: list[Tensor] = []
    hook = own.module.get_submodule("3").register_forward_hook(lambda _, __, output: kept.append(output))
    x, _ = own.prepare([image(SIZE, 4)])
    with torch.no_grad():
        own.module(x)
    hook.remove()
    assert float(kept[0].min()) == 0.0  # what the hook kept is the ReLU's
    assert float(ours.min()) < 0.0
    torch.testing.assert_close(ours.clamp(min=0), kept[0])


def test_guided_gradients_keep_their_signs() -> None:
    own = network()
    asked = row(method="guided", target=2, samples=1, noise=0.1, steps=1, max_steps=1, tolerance=1.0, baseline="black")
    ours = outcome(SALIENCY, own, asked).arrays["attribution"]
    x, _ = own.prepare([image(SIZE, 4)])
    x.requires_grad_(True)
    first, second = own.module.get_submodule("0"), own.module.get_submodule("3")
    one = first(x)
    pooled = F.max_pool2d(F.relu(one), 2)
    two = second(pooled)
    weights = own.module.get_submodule("7").weight[2]
    above = (weights / 100).view(1, 8, 1, 1).expand_as(two)  # the mean over 10×10 places
    through = above.clamp(min=0) * (two > 0)
    (lower,) = torch.autograd.grad(pooled, one, torch.autograd.grad(two, pooled, through, retain_graph=True)[0],
                                   retain_graph=True)  # fmt: skip
    (expected,) = torch.autograd.grad(one, x, lower.clamp(min=0) * (one > 0))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)
    assert float((ours < 0).float().mean()) > 0.1
    assert float((ours - ours**2).abs().max()) > 0.5 * float(ours.abs().max())


def test_the_map_is_of_the_class_asked_for() -> None:
    own = network()
    x, _ = own.prepare([image(SIZE, 4)])
    with torch.no_grad():
        activation = own.module[:5](x.clone())  # type: ignore[index]
        predicted = int(own.module(x.clone()).argmax())
    asked = (predicted + 2) % 5
    found = outcome(CAM, own, row(methods=["gradcam"], layer="4", targets=[asked, "predicted"], upsampled=False))
    ours, theirs = (found.arrays[one["array"]][one["item"]] for one in found.facts["maps"])
    assert [one["target"] for one in found.facts["maps"]] == [asked, predicted]
    for given, index in ((ours, asked), (theirs, predicted)):
        weights = own.module.get_submodule("7").weight[index] / 100
        torch.testing.assert_close(given, (weights.view(8, 1, 1) * activation[0]).sum(0), rtol=1e-4, atol=1e-6)
    assert float((ours - theirs).abs().max()) > 0.5 * float(ours.abs().max())
