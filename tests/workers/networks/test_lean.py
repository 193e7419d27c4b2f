"""The copy for methods that run a network hundreds of times: the same function, the same names, nothing touched."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from tests.workers.fakes import traces
from workers.compiled.minimal_filtering import can_filter
from workers.methods.maximize.redirect import RedirectMode
from workers.networks import LoadedNetwork, load
from workers.networks.lean import make_lean
from workers.passes.calls import capture

SHAPES = {"0": (128, 104, 101), "2": (96, 102, 99)}
"""Outputs of `pair()` at 104×101: neither side a multiple of the tile of four."""


def pair() -> nn.Sequential:
    """Two convolutions, with padding and without, and between them what works in place and has no threshold."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(64, 128, 3, padding=1), nn.SiLU(inplace=True), nn.Conv2d(128, 96, 3, bias=False)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def pixels(images: int = 1) -> Tensor:
    return torch.randn(images, 64, 104, 101, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vgg11() -> LoadedNetwork:
    return load("vgg11-random")


def replaced(network: nn.Module, lean: nn.Module) -> list[str]:
    kinds = {name: type(module) for name, module in network.named_modules()}
    return [name for name, module in lean.named_modules() if type(module) is not kinds[name]]


def test_values_and_slopes_are_those_of_the_convolutions_in_double_precision() -> None:
    network, inputs = pair(), pixels()
    lean = make_lean(network, SHAPES)
    assert replaced(network, lean) == ["0", "2"]
    exact = inputs.double().requires_grad_()
    outputs_in_double = pair().double()(exact)
    expected = outputs_in_double.detach()
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (slopes,) = torch.autograd.grad(outputs_in_double, exact, direction)
    x = inputs.clone().requires_grad_()
    outputs = lean(x)
    (ours,) = torch.autograd.grad(outputs, x, direction.float())
    found = outputs.detach()
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert float((ours - slopes).abs().max() / slopes.abs().max()) < 1e-5


@pytest.mark.parametrize("count", [3, 4])
def test_an_image_is_the_same_alone_and_in_company(count: int) -> None:
    lean = make_lean(pair(), SHAPES)
    images = pixels(count).requires_grad_()
    together = lean(images)
    (slopes,) = torch.autograd.grad(together.square().sum(), images)
    for number in range(count):
        alone = images[number : number + 1].detach().requires_grad_()
        found = lean(alone)
        assert torch.equal(found[0], together[number])
        assert torch.equal(torch.autograd.grad(found.square().sum(), alone)[0][0], slopes[number])


def test_an_image_with_slopes_in_one_channel_is_the_same_beside_one_that_has_them_in_all() -> None:
    lean = make_lean(pair(), SHAPES)
    images = pixels(2).requires_grad_()
    together = lean(images)
    direction = torch.randn(together.shape, generator=torch.Generator().manual_seed(3))
    direction[0, 1:] = 0
    (slopes,) = torch.autograd.grad(together, images, direction)
    for number in range(2):
        alone = images[number : number + 1].detach().requires_grad_()
        (own,) = torch.autograd.grad(lean(alone), alone, direction[number : number + 1])
        assert torch.equal(own[0], slopes[number])


def test_without_a_compiler_networks_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "workers.compiled.tile_transforms", None)
    can_filter.cache_clear()
    try:
        network = pair()
        assert make_lean(network, SHAPES) is network
    finally:
        can_filter.cache_clear()


def test_the_network_keeps_its_weights_names_and_state(vgg11: LoadedNetwork) -> None:
    before = traces(vgg11.module)
    lean = vgg11.lean_module(fast=False)
    assert lean is vgg11.lean_module(fast=False)
    # All eight convolutions and the five poolings, and what runs them.
    places = (0, 2, 3, 5, 6, 8, 10, 11, 13, 15, 16, 18, 20)
    assert replaced(vgg11.module, lean) == ["features", *(f"features.{place}" for place in places)]
    assert all(a is b for a, b in zip(lean.parameters(), vgg11.module.parameters(), strict=True)), "no second copy"
    names = [layer.name for layer in vgg11.table.layers]
    inputs = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, _ = capture(lean, inputs, names)
        plain, _ = capture(vgg11.module, inputs, names)
    assert list(ours) == list(plain)
    for name in names:
        assert float((ours[name] - plain[name]).abs().max()) <= 1e-4 * float(plain[name].abs().max()), name
    assert traces(vgg11.module) == before


def test_small_maps_are_convolved_as_ever(vgg11: LoadedNetwork) -> None:
    inputs = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(vgg11.lean_module(fast=False)(inputs), vgg11.module(inputs))


def first_layers() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 96, 7, stride=2, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(96, 8, 1)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


FIRST_SHAPES = {"0": (96, 33, 30), "1": (96, 33, 30), "2": (96, 16, 15), "3": (8, 16, 15)}


def test_a_first_convolution_and_a_pooling_have_torchs_values_and_slopes() -> None:
    network = first_layers()
    lean = make_lean(network, FIRST_SHAPES)
    assert replaced(network, lean) == ["", "0", "2"]
    x = torch.randn(2, 3, 69, 64, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    found, expected = lean(x), network(x)
    assert torch.equal(found, expected)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (ours,), (theirs,) = (torch.autograd.grad(each, x, direction) for each in (found, expected))
    assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())
    with torch.no_grad():
        seen, _ = capture(lean, x, ["0", "2"])
    assert [tuple(seen[name].shape[1:]) for name in ("0", "2")] == [FIRST_SHAPES["0"], FIRST_SHAPES["2"]]


def rectified_pairs() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(96, 64, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(64, 8, 1)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


SIDES = (209, 106)
"""An odd side, whose last row no pooling sees."""


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of the outputs of its layers, at SIDES."""
    found, _ = capture(network, torch.zeros(1, 3, *SIDES), [name for name, _ in network.named_children()])
    return {name: tuple(tensor.shape[1:]) for name, tensor in found.items()}


def test_what_follows_a_convolution_is_done_by_it_unless_somebody_looks() -> None:
    network = rectified_pairs()
    lean = make_lean(network, shapes_of(network))
    assert replaced(network, lean) == ["", "0", "2", "4", "5"]
    x = torch.randn(2, 3, *SIDES, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    alone, expected = lean(x), network(x)
    direction = torch.randn(alone.shape, generator=torch.Generator().manual_seed(2))
    (slopes,) = torch.autograd.grad(alone, x, direction)
    assert steps_back(alone) == ["_Convolution", "_Convolution", "_Thin"], "no ReLU and no pooling of their own"
    (theirs,) = torch.autograd.grad(expected, x, direction)
    # Of thousands of windows, one or the other has its largest elsewhere, by rounding.
    assert float((slopes - theirs).norm()) < 1e-3 * float(theirs.norm())
    for name in ("0", "1", "2", "3", "4", "5", "6"):
        with torch.enable_grad():
            _, output = capture(lean, x, [name], to_output=True)
        assert output is not None
        assert torch.equal(output, alone), name
        assert torch.equal(torch.autograd.grad(output, x, direction)[0], slopes), name
        with torch.no_grad():
            seen, plain = (capture(each, x, [name])[0] for each in (lean, network))
        assert float((seen[name] - plain[name]).abs().max()) < 1e-4 * float(plain[name].abs().max()), name
        assert (float(seen[name].min()) < 0) == (name in "025"), "a convolution's own output"


def steps_back(output: Tensor) -> list[str]:
    """The functions of the gradient before the last layer's, from the last to the first."""
    function, names = output.grad_fn.next_functions[0][0], []
    while type(function).__name__ != "AccumulateGrad":
        names.append(type(function).__name__.removesuffix("Backward"))
        function = function.next_functions[0][0]
    return names


def test_maps_too_small_to_filter_minimally_are_rectified_and_pooled_all_the_same() -> None:
    network = rectified_pairs()
    lean = make_lean(network, shapes_of(network))
    x = torch.randn(1, 3, 40, 38, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found, expected = lean(x), network(x)
    assert "_Convolution" not in steps_back(found)
    assert torch.equal(found, expected)
    (ours,), (theirs,) = (torch.autograd.grad(each.sum(), x) for each in (found, expected))
    assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def test_a_redirected_relu_is_not_passed_over() -> None:
    network = rectified_pairs()
    torch.nn.init.constant_(network[5].bias, -1000.0)  # nothing passes the last ReLU
    lean = make_lean(network, shapes_of(network))
    x = torch.randn(1, 3, *SIDES, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert not torch.autograd.grad(lean(x).sum(), x)[0].any()
    with RedirectMode([True], x.device):
        redirected = torch.autograd.grad(-lean(x).sum(), x)[0]
    assert redirected.any()


def test_pooling_of_pixels_that_lie_in_planes_is_torchs() -> None:
    lean = make_lean(nn.Sequential(nn.MaxPool2d(2)).eval(), {"0": (4, 80, 80)})
    x = torch.randn(2, 4, 10, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = lean(x)
    assert "MaxPool2DWithIndices" in type(found.grad_fn).__name__
    assert torch.equal(found, nn.functional.max_pool2d(x, 2))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, 5, padding=2),
        nn.Conv2d(32, 512, 3, padding=1),
        nn.Conv2d(3, 64, (3, 5), padding=1),
        nn.Conv2d(3, 64, 3, stride=(1, 2), padding=1),
        nn.Conv2d(3, 64, 3, padding=3),
        nn.Conv2d(3, 64, 3, padding="same"),
        nn.Conv2d(3, 64, 1),
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2, 1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, return_indices=True),
    ],
)
def test_what_it_cannot_or_need_not_do_stays(module: nn.Module) -> None:
    network = nn.Sequential(module).eval()
    assert make_lean(network, {"0": (64, 104, 104)}) is network


@pytest.mark.parametrize("module", [nn.MaxPool2d(2), nn.Conv2d(3, 64, 3, padding=1)])
def test_what_is_small_stays(module: nn.Module) -> None:
    network = nn.Sequential(module).eval()
    assert make_lean(network, {"0": (64, 16, 16)}) is network
    assert make_lean(network, {"0": (64, 64, 64)}) is not network


def test_in_bfloat16_it_is_the_fast_network_with_a_little_more_noise(vgg11: LoadedNetwork) -> None:
    lean, fast = vgg11.lean_module(fast=True), vgg11.fast_module()
    assert len(replaced(fast, lean)) == 14
    inputs = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = vgg11.module(inputs)
        ours, usual = lean(inputs), fast(inputs)
    assert ours.dtype == torch.float32
    for found in (ours, usual):
        assert float(torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1]) > 0.999


def test_the_transformed_kernels_count_as_memory_once_they_are_there() -> None:
    network = load("vgg11-random")
    weights = network.nbytes
    inputs = torch.rand(1, 3, 224, 224, requires_grad=True)
    outputs = network.lean_module(fast=False)(inputs)
    products = 64 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 3 * 512 * 512
    assert network.nbytes == weights + 36 * products * 4
    outputs.sum().backward()
    assert network.nbytes == weights + 2 * 36 * products * 4
