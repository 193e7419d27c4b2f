"""deconv against the chain of unpooling, rectification and transposed filtering written out, and by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import alexnet, vgg

from tests.workers.fakes import FakeNetwork, image, outcome, pair
from workers.contract import Row
from workers.methods.deconv import METHOD
from workers.networks.architectures import alexnet_2012, digits, zfnet

DEFAULTS = {
    "layers": [], "channels": "strongest", "by": "max", "seed_unit": "max", "rule": "deconvnet", "switches": "sum",
    "nonstandard_gate": False, "precision": "exact", "preprocess": None, "seed": 0,
}  # fmt: skip


def row(picture: Tensor, **wanted: Any) -> Row:
    """A row with the operation's defaults."""
    return Row(SimpleNamespace(**{**DEFAULTS, **wanted}), [picture])


RECTIFICATIONS = (nn.ReLU, nn.ReLU6, nn.PReLU)


def chain(layers: list[nn.Module], x: Tensor, seed: Tensor, rule: str, switches: str) -> Tensor:
    """Forward through `layers`, then the seed back through them: the deconvnet written out, layer by layer."""
    inputs, places = [], []
    for layer in layers:
        inputs.append(x.clone())
        indices = None
        if isinstance(layer, nn.MaxPool2d):
            how = (layer.kernel_size, layer.stride, layer.padding, 1, layer.ceil_mode)
            x, indices = F.max_pool2d(x, *how, return_indices=True)
        else:
            x = layer(x.clone())
        places.append(indices)
    signal = seed
    for layer, given, indices in reversed(list(zip(layers, inputs, places, strict=True))):
        if isinstance(layer, nn.Conv2d):
            height, width = given.shape[2:]
            stride, padding, kernel = pair(layer.stride), pair(layer.padding), pair(layer.kernel_size)
            full = [(signal.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + kernel[i] for i in (0, 1)]
            extra = (height - full[0], width - full[1])
            signal = F.conv_transpose2d(signal, layer.weight, None, stride, padding, extra, layer.groups)
        elif isinstance(layer, nn.MaxPool2d):
            if switches == "last":
                how = (layer.kernel_size, layer.stride, layer.padding)
                signal = F.max_unpool2d(signal, indices, *how, output_size=given.shape[2:])
            else:
                flat = torch.zeros(*given.shape[:2], given.shape[2] * given.shape[3])
                flat.scatter_add_(2, indices.flatten(2), signal.flatten(2))
                signal = flat.view_as(given)
        elif isinstance(layer, RECTIFICATIONS):
            signal = signal * gate(layer, given, signal, rule)
        elif isinstance(layer, nn.BatchNorm2d):
            signal = signal * (layer.weight / torch.sqrt(layer.running_var + layer.eps)).view(1, -1, 1, 1)
        elif isinstance(layer, (nn.LocalResponseNorm, nn.AvgPool2d)):
            _, signal = torch.autograd.functional.vjp(layer, given, signal)
        else:
            raise TypeError(type(layer))
    return signal


def gate(layer: nn.Module, x: Tensor, g: Tensor, rule: str) -> Tensor:
    """By what a signal g is multiplied where the forward input was x."""
    slope = layer.weight.view(1, -1, 1, 1) if isinstance(layer, nn.PReLU) else torch.zeros(())
    limit = 6.0 if isinstance(layer, nn.ReLU6) else float("inf")
    forward = torch.where(x > 0, 1.0, slope) * (x < limit)
    backward = torch.where(g > 0, 1.0, slope)
    return {"gradient": forward, "deconvnet": backward, "guided": forward * backward}[rule]


def rnet() -> nn.Sequential:
    """The convolutions of MTCNN's refinement network: PReLU and overlapping pools in ceiling mode."""
    return nn.Sequential(
        nn.Conv2d(3, 28, 3), nn.PReLU(28, 0.2), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(28, 48, 3), nn.PReLU(48, 0.1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(48, 64, 2), nn.PReLU(64),
    )  # fmt: skip


def mobile() -> nn.Sequential:
    """A chain in the manner of MobileNet: strides, groups, batch normalisation, ReLU6 that saturates, average pools."""
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU6(inplace=True),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU6(), nn.AvgPool2d(2),
        nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.ReLU6(inplace=True), nn.MaxPool2d(2), nn.Conv2d(24, 8, 3),
    )  # fmt: skip
    for layer in module:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 10, 40)
            nn.init.normal_(layer.running_mean, 0, 0.1)
    return module


TOPOLOGIES = {
    "vgg16": (lambda: vgg.make_layers(vgg.cfgs["D"]), 64),
    "alexnet": (lambda: alexnet(weights=None).features, 95),
    "zfnet": (lambda: zfnet.build(10).features, 96),
    "alexnet_2012": (lambda: alexnet_2012.build(10).features, 99),
    "digits": (lambda: digits.build(10).features, 32),
    "rnet": (rnet, 24),
    "mobile": (mobile, 40),
}


@pytest.mark.parametrize("switches", ["sum", "last"])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_convolution_equals_the_chain_written_out(name: str, switches: str) -> None:
    build, size = TOPOLOGIES[name]
    torch.manual_seed(3)
    network = FakeNetwork(build(), (size, size))
    layers = list(network.module.children())
    convolutions = [str(i) for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    picture = image((size, size), seed=5)
    found = outcome(METHOD, network, row(picture, layers=convolutions, switches=switches))
    x, _ = network.prepare([picture])
    assert len(found.facts["layers"]) == len(convolutions)
    for number, facts in zip(convolutions, found.facts["layers"], strict=True):
        part = layers[: int(number) + 1]
        with torch.no_grad():
            activation = nn.Sequential(*part)(x.clone())
        for k, unit in enumerate(facts["projections"]):
            seed = torch.zeros_like(activation)
            where = (0, unit["channel"], unit["y"], unit["x"])
            seed[where] = activation[where]
            assert unit["activation"] == float(activation[0, unit["channel"]].max()) == float(seed.max())
            with torch.no_grad():
                expected = chain(part, x, seed, "deconvnet", switches)
            got = found.arrays[f"projection/{number}"][k : k + 1]
            assert float(expected.abs().max()) > 0
            assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
            before = part[:-1]
            assert unit["switches"] == sum(isinstance(layer, nn.MaxPool2d) for layer in before)
            assert unit["rectifications"] == sum(isinstance(layer, RECTIFICATIONS) for layer in before)


class PoolsWithIndices(nn.Module):
    """The deconvnet tutorials' networks: pools hand their switches on, asked for as `form` says."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, return_indices=True)
        self.form = form

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map and its switches."""
        forms: dict[str, Any] = {
            "constructor": self.pool,
            "keyword": lambda x: F.max_pool2d(x, 3, 2, return_indices=True),
            "positional": lambda x: F.max_pool2d(x, 3, 2, 0, 1, False, True),
            "with_indices": lambda x: F.max_pool2d_with_indices(x, 3, 2),
            "torch's own": lambda x: torch._C._nn.max_pool2d_with_indices(x, 3, 2),
        }
        pooled: tuple[Tensor, Tensor] = forms[self.form](x)
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.pooled(F.relu(self.first(x)))
        return torch.relu(self.second(x))


@pytest.mark.parametrize("switches", ["sum", "last"])
@pytest.mark.parametrize("form", ["constructor", "keyword", "positional", "with_indices", "torch's own"])
def test_pools_that_return_their_switches(form: str, switches: str) -> None:
    torch.manual_seed(6)
    module = PoolsWithIndices(form)
    network = FakeNetwork(module, (24, 24), chain=False)
    pools = [layer for layer in network.layers.values() if layer.kind in ("MaxPool2d", "max_pool2d")]
    assert [layer.shape for layer in pools] == [(5, 11, 11)]
    picture = image((24, 24), seed=7)
    found = outcome(METHOD, network, row(picture, layers=["second"], channels=[0, 3], switches=switches))
    x, _ = network.prepare([picture])
    plain: list[nn.Module] = [module.first, nn.ReLU(), nn.MaxPool2d(3, 2), module.second]
    with torch.no_grad():
        activation = nn.Sequential(*plain)(x.clone())
        for k, unit in enumerate(found.facts["layers"][0]["projections"]):
            assert unit["switches"] == 1
            seed = torch.zeros_like(activation)
            where = (0, unit["channel"], unit["y"], unit["x"])
            seed[where] = activation[where]
            expected = chain(plain, x, seed, "deconvnet", switches)
            got = found.arrays["projection/second"][k : k + 1]
            assert float(got.abs().max()) > 0
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
def test_a_whole_layer_is_projected_at_once(rule: str) -> None:
    torch.manual_seed(8)
    network = FakeNetwork(rnet(), (24, 24))
    picture = image((24, 24), seed=2)
    asked = row(picture, layers=["3"], channels="all", seed_unit="layer", rule=rule)
    found = outcome(METHOD, network, asked)
    layers = list(network.module.children())[:4]
    x, _ = network.prepare([picture])
    with torch.no_grad():
        activation = nn.Sequential(*layers)(x.clone())
        expected = chain(layers, x, activation.clamp(min=0), rule, "sum")
    got = found.arrays["projection/3"]
    assert got.shape == (1, 3, 24, 24)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    (told,) = found.facts["layers"][0]["projections"]
    assert (told["channel"], told["y"], told["x"]) == (None, None, None)
    assert told["activation"] == pytest.approx(float(activation.max()))
    assert found.arrays["patch/3"].shape == (1, 24, 24, 3)


@pytest.mark.parametrize("rule", ["gradient", "guided"])
@pytest.mark.parametrize(("name", "last"), [("digits", 10), ("rnet", 6), ("mobile", 11)])
def test_other_rules_equal_the_chain_too(name: str, last: int, rule: str) -> None:
    torch.manual_seed(4)
    build, size = TOPOLOGIES[name]
    network = FakeNetwork(build(), (size, size))
    picture = image((size, size), seed=1)
    found = outcome(METHOD, network, row(picture, layers=[str(last)], rule=rule, channels=[5], seed_unit="channel"))
    x, _ = network.prepare([picture])
    part = list(network.module.children())[: last + 1]
    with torch.no_grad():
        activation = nn.Sequential(*part)(x.clone())
        seed = torch.zeros_like(activation)
        seed[0, 5] = activation[0, 5].clamp(min=0)
        expected = chain(part, x, seed, rule, "sum")
    assert float(expected.abs().max()) > 0
    got = found.arrays[f"projection/{last}"]
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_a_saturated_relu6_is_on_the_mobile_chain() -> None:
    """What makes that chain a test of ReLU6 and not of another ReLU."""
    torch.manual_seed(3)
    network = FakeNetwork(mobile(), (40, 40))
    x, _ = network.prepare([image((40, 40), seed=5)])
    assert float((network.module[:3](x) == 6).float().mean()) > 0.01


def test_by_hand() -> None:
    """x = (1, 2 | 3, 4), kernel 2, ReLU, kernel −1, ReLU off: 4 at (1, 1) times 2 comes back through one weight."""
    module = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 2, 1, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([2.0, 0.0, -1.0]).view(1, 3, 1, 1))
        module[2].weight.copy_(torch.tensor([3.0, -1.0]).view(2, 1, 1, 1))
    network = FakeNetwork(module, (2, 2))
    picture = torch.zeros(2, 2, 3, dtype=torch.uint8)
    picture[..., 0] = torch.tensor([[51, 102], [153, 204]])  # red 0.2, 0.4, 0.6, 0.8
    found = outcome(METHOD, network, row(picture, layers=["2"], channels=[0, 1]))
    # Channel 0: strongest at (1, 1): 0.8 · 2 · 3 = 4.8; back 4.8 · 3 = 14.4, rectified, times (2, 0, −1).
    assert found.arrays["projection/2"][0, :, 1, 1].tolist() == pytest.approx([28.8, 0.0, -14.4])
    assert int((found.arrays["projection/2"][0] != 0).sum()) == 2
    assert found.facts["layers"][0]["projections"][0]["activation"] == pytest.approx(4.8)
    # Channel 1 is negative everywhere: not active, so its projection is zero.
    assert found.facts["layers"][0]["projections"][1]["dead"] is True
    assert not bool(found.arrays["projection/2"][1].any())


@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 1, 1), (3, 2, 3)])
def test_one_convolution_is_its_transpose(stride: int, padding: int, groups: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 6, 5, stride=stride, padding=padding, groups=groups)
    network = FakeNetwork(nn.Sequential(convolution), (17, 20))
    picture = image((17, 20))
    found = outcome(METHOD, network, row(picture, layers=["0"], channels=[4], seed_unit="channel"))
    x, _ = network.prepare([picture])
    with torch.no_grad():
        seed = torch.zeros_like(convolution(x))
        seed[:, 4] = convolution(x)[:, 4].clamp(min=0)
        expected = chain([convolution], x, seed, "deconvnet", "sum")
    torch.testing.assert_close(found.arrays["projection/0"], expected, rtol=1e-6, atol=1e-7)
    assert found.facts["layers"][0]["projections"][0]["rectifications"] == 0


def plain_net(pools: bool = True) -> nn.Sequential:
    """Three convolutions with ReLUs, with or without pools."""
    torch.manual_seed(7)
    pool = [nn.MaxPool2d(2)] if pools else [nn.AvgPool2d(2)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), *pool,
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3), nn.ReLU(),
    )  # fmt: skip


def test_without_pools_a_projection_does_not_depend_on_the_image_and_says_so() -> None:
    network = FakeNetwork(plain_net(pools=False), (24, 24))
    found = [
        outcome(METHOD, network, row(image((24, 24), seed), layers=["7"], channels=[2], seed_unit="max"))
        for seed in (1, 2)
    ]
    facts = [one.facts["layers"][0]["projections"][0] for one in found]
    assert all(one["image_independent"] and one["switches"] == 0 for one in facts)
    unit = facts[0]
    other = outcome(METHOD, network, row(image((24, 24), 2), layers=["7"], channels=[2], seed_unit="top:100"))
    match = next(
        k
        for k, one in enumerate(other.facts["layers"][0]["projections"])
        if (one["y"], one["x"]) == (unit["y"], unit["x"])
    )
    scale = other.facts["layers"][0]["projections"][match]["activation"] / unit["activation"]
    torch.testing.assert_close(
        other.arrays["projection/7"][match], found[0].arrays["projection/7"][0] * scale, rtol=1e-5, atol=1e-8
    )
    guided = outcome(METHOD, network, row(image((24, 24), 1), layers=["7"], channels=[2], rule="guided"))
    assert guided.facts["layers"][0]["projections"][0]["image_independent"] is False
    pooled = outcome(METHOD, FakeNetwork(plain_net(), (24, 24)), row(image((24, 24), 1), layers=["7"], channels=[2]))
    assert pooled.facts["layers"][0]["projections"][0]["image_independent"] is False


def test_projection_does_not_depend_on_what_else_was_asked_for() -> None:
    network = FakeNetwork(plain_net(), (24, 24))
    picture = image((24, 24), 3)
    alone = outcome(METHOD, network, row(picture, layers=["7"], channels=[1]))
    company = outcome(METHOD, network, row(picture, layers=["3", "7"], channels=[4, 1, 0]))
    assert torch.equal(alone.arrays["projection/7"][0], company.arrays["projection/7"][1])


def test_support_is_the_receptive_field_and_boxes_are_those_of_the_literature() -> None:
    torch.manual_seed(2)
    network = FakeNetwork(vgg.make_layers(vgg.cfgs["D"]), (64, 64))
    sizes = {"2": (5, 1), "7": (14, 2), "14": (40, 4), "21": (92, 8), "28": (196, 16)}
    for name, (size, jump) in sizes.items():
        box = network.layers[name].box
        assert box is not None
        assert (box.size, box.jump) == ((size, size), (jump, jump))
    found = outcome(METHOD, network, row(image((64, 64), 8), layers=["2", "7", "14"], channels="top:3"))
    for facts in found.facts["layers"]:
        for k, unit in enumerate(facts["projections"]):
            top, left, bottom, right = unit["box"]
            assert 0 <= top < bottom <= 64
            assert 0 <= left < right <= 64
            projection = found.arrays[f"projection/{facts['layer']}"][k].clone()
            assert bool(projection.any())
            projection[:, top:bottom, left:right] = 0
            assert not bool(projection.any())


def test_patch_is_the_image_in_the_receptive_field_and_grey_beyond() -> None:
    network = FakeNetwork(plain_net(), (24, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    picture = image((24, 24), 6)
    found = outcome(METHOD, network, row(picture, layers=["7"], channels="all"))
    patches, inside = found.arrays["patch/7"], found.arrays["patch_projection/7"]
    assert patches.dtype == torch.uint8
    assert patches.shape[:3] == (6, inside.shape[2], inside.shape[3])
    for k, unit in enumerate(found.facts["layers"][0]["projections"]):
        top, left, bottom, right = unit["window"]
        for y in range(top, bottom):
            for x in range(left, right):
                within = 0 <= y < 24 and 0 <= x < 24
                expected = picture[y, x] if within else torch.full((3,), 128, dtype=torch.uint8)
                assert patches[k, y - top, x - left].tolist() == expected.tolist()
                value = found.arrays["projection/7"][k, :, y, x] if within else torch.zeros(3)
                assert torch.equal(inside[k, :, y - top, x - left], value)


def test_boxes_in_the_upload() -> None:
    network = FakeNetwork(plain_net(), (24, 24))
    found = outcome(METHOD, network, row(image((48, 72), 6), layers=["0"]))
    unit = found.facts["layers"][0]["projections"][0]
    top, left, bottom, right = unit["box"]
    assert unit["box_in_upload"] == [top * 2, left * 3, bottom * 2, right * 3]


def test_seeds_channels_and_ties() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False))
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        module[2].weight.copy_(torch.diag(torch.tensor([1.0, 2.0, 2.0, 1.0]))[:, :, None, None])
    network = FakeNetwork(module, (3, 3))
    picture = torch.full((3, 3, 3), 50, dtype=torch.uint8)
    picture[1, 2] = 200
    ranked = outcome(METHOD, network, row(picture, layers=["2"], channels="top:3"))
    assert [one["channel"] for one in ranked.facts["layers"][0]["projections"]] == [1, 2, 0]
    several = outcome(METHOD, network, row(picture, layers=["2"], channels=[3], seed_unit="top:4"))
    places = [(one["y"], one["x"]) for one in several.facts["layers"][0]["projections"]]
    assert places == [(1, 2), (0, 0), (0, 1), (0, 2)]
    whole = outcome(METHOD, network, row(picture, layers=["2"], channels=[3], seed_unit="channel"))
    every = outcome(METHOD, network, row(picture, layers=["2"], channels=[3], seed_unit="top:9"))
    torch.testing.assert_close(whole.arrays["projection/2"][0], every.arrays["projection/2"].sum(0))
    unit = whole.facts["layers"][0]["projections"][0]
    assert (unit["y"], unit["x"], unit["box"]) == (None, None, [0, 0, 3, 3])


def test_channels_permuted_with_their_weights_and_flipped_images() -> None:
    network = FakeNetwork(plain_net(), (24, 24))
    picture = image((24, 24), 9)
    # Guided: a pooling window of zeros only has its switch at its first place, which a flip moves.
    wanted = {"layers": ["7"], "channels": [0, 1, 2], "seed_unit": "channel", "rule": "guided"}
    first = outcome(METHOD, network, row(picture, **wanted))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    shuffled, mirrored = plain_net(), plain_net()
    with torch.no_grad():
        shuffled[0].weight.copy_(shuffled[0].weight[order])
        shuffled[0].bias.copy_(shuffled[0].bias[order])
        shuffled[3].weight.copy_(shuffled[3].weight[:, order])
        for layer in mirrored:
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight.flip(3))
    again = outcome(METHOD, FakeNetwork(shuffled, (24, 24)), row(picture, **wanted))
    torch.testing.assert_close(again.arrays["projection/7"], first.arrays["projection/7"], rtol=1e-4, atol=1e-6)
    flipped = outcome(METHOD, FakeNetwork(mirrored, (24, 24)), row(picture.flip(1), **wanted))
    torch.testing.assert_close(
        flipped.arrays["projection/7"].flip(3), first.arrays["projection/7"], rtol=1e-4, atol=1e-6
    )
