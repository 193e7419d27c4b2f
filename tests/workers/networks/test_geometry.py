"""Receptive fields: by hand on VGG, and against the support of the gradient on networks of every shape."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from workers.contract import Layer
from workers.geometry import Box
from workers.networks import validity
from workers.networks.build import table_of
from workers.networks.catalogue import find_entry
from workers.networks.geometry import _adaptive_window
from workers.networks.layers import describe, meta_copy
from workers.passes.calls import capture


def test_vgg16_by_hand() -> None:
    """Every 3×3 convolution adds two jumps, every 2×2 pool adds one and doubles the jump."""
    size, jump, start = 1, 1, 0
    layers = table_of(find_entry("vgg16")).by_name()
    for block, convolutions in enumerate((2, 2, 3, 3, 3), start=1):
        for number in range(1, convolutions + 1):
            size, start = size + 2 * jump, start - jump
            expected = Box((size, size), (float(jump), float(jump)), (float(start), float(start)))
            assert layers[f"conv{block}_{number}"].box == layers[f"relu{block}_{number}"].box == expected
        size, jump = size + jump, 2 * jump
        assert layers[f"pool{block}"].box == Box((size, size), (float(jump),) * 2, (float(start),) * 2)
    assert size == 212
    assert layers["fc6"].box is None


class LinearPools(TorchFunctionMode):
    """Max-pools as average pools over the same windows, so that every pixel of a window counts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.max_pool2d:
            chosen = {key: (kwargs or {})[key] for key in ("stride", "padding", "ceil_mode") if key in (kwargs or {})}
            return F.avg_pool2d(args[0], args[1], *args[2:4], **chosen)
        return func(*args, **(kwargs or {}))


def average_everything(network: nn.Module) -> nn.Module:
    """Every convolution a positive average, so that activations stay small and positive and no gradient is cut."""
    generator = torch.Generator().manual_seed(0)
    if hasattr(network, "transform_input"):
        network.transform_input = False  # it subtracts the mean, after which nothing stays positive
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            module.weight.data.fill_(1.0)  # some begin with 0 at the end of a block, which then hides what it sees
        if isinstance(module, nn.Conv2d):
            weight = torch.rand(module.weight.shape, generator=generator, dtype=torch.float64) + 0.1
            module.weight.data = weight / weight.sum(dim=(1, 2, 3), keepdim=True)
            if module.bias is not None:
                module.bias.data.zero_()
    return network.eval().requires_grad_(False)


def support(gradient: Tensor) -> tuple[int, int, int, int]:
    """The smallest box that holds every non-zero pixel: (top, left, bottom, right), half open."""
    seen = gradient[0].ne(0).any(dim=0)
    rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def chosen_layers(model_id: str, size: tuple[int, int], count: int) -> list[Layer]:
    """Layers with a box, evenly over the depth, the stages among them."""
    table = table_of(find_entry(model_id), size)
    maps = [layer for layer in table.layers if layer.spatial and layer.name not in table.channels_last]
    # `@cat` of the planes belongs to transform_input, which `average_everything` turns off.
    boxed = [layer for layer in maps if layer.box is not None and layer.shape[1] > 1 and layer.name != "@cat"]
    steps = {round(k * (len(boxed) - 1) / (count - 1)) for k in range(count)}
    stages = [layer for layer in validity.stages(table) if layer.box is not None]  # none behind attention
    return list({layer.name: layer for layer in [*(boxed[k] for k in sorted(steps)), *stages]}.values())


THIRTY = (
    "convnext_atto", "cspdarknet53", "cspresnet50", "darknet53", "dla34", "dla46_c", "dpn68", "edgenext_xx_small",
    "fbnetc_100", "hrnet_w18_small", "inception_v4", "legacy_xception", "mnasnet_small", "mobilenetv1_100",
    "mobilenetv2_035", "mobileone_s0", "regnetx_002", "repvgg_a0", "res2net50_26w_4s", "resnest14d", "resnet10t",
    "resnet26d", "resnetaa50", "resnext50_32x4d", "selecsls42b", "spnasnet_100", "tf_efficientnet_lite0", "vovnet39a",
    "wide_resnet50_2", "xception41",
)  # fmt: skip
"""Of thirty families of timm; the first stages of the attentive ones, up to their first attention."""

SIDES = {"inception_v4": 107, "legacy_xception": 107}
"""Where a stride leaves out the last column of 96, which then nothing sees though it lies within the box."""


@pytest.mark.parametrize(
    ("model_id", "size"),
    [
        ("googlenet", (72, 88)),
        ("densenet121", (80, 80)),
        ("resnet18", (100, 130)),
        ("convnext_tiny", (64, 96)),
        ("efficientnet_lite0", (80, 96)),
        ("vgg11", (64, 48)),
        ("shufflenet_v2_x0_5", (80, 80)),
        ("alexnet", (127, 111)),
        ("timm:resnetblur50", (96, 96)),
        pytest.param("inception_v3", (107, 107), marks=pytest.mark.slow),
        *(pytest.param(f"timm:{name}", (SIDES.get(name, 96),) * 2, marks=pytest.mark.slow) for name in THIRTY),
        pytest.param("resnet50", (96, 96), marks=pytest.mark.slow),
        pytest.param("squeezenet1_1", (95, 95), marks=pytest.mark.slow),
        ("digits", (32, 32)),
    ],
)
def test_boxes_are_the_support_of_the_gradient(model_id: str, size: tuple[int, int]) -> None:
    layers = chosen_layers(model_id, size, 6)
    assert len(layers) >= 6
    network = find_entry(model_id).source_or_raise().build().double()
    network = average_everything(network)
    inputs = torch.rand(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e-3
    inputs.requires_grad_()
    with LinearPools():
        seen, _ = capture(network, inputs, [layer.name for layer in layers])
    for k, layer in enumerate(layers):
        assert layer.box is not None
        output = seen[layer.name]
        assert tuple(output.shape[1:]) == layer.shape
        y, x = (layer.shape[1] // 2, layer.shape[2] // 2) if k % 2 == 0 else (0, layer.shape[2] - 1)
        # Channels count differently: those of a layer normalisation add up to the same whatever is seen.
        seen_there = output[0, :, y, x] @ torch.linspace(1, 2, layer.shape[0], dtype=torch.float64)
        (gradient,) = torch.autograd.grad(seen_there, inputs, retain_graph=True)
        assert support(gradient) == layer.box.of(y, x, *size), (layer.name, y, x)


@pytest.mark.parametrize(
    ("model_id", "before", "after"),
    [
        ("mobilenet_v3_small", "features.1.block.0", "features.1.block.1"),  # squeeze and excitation
        ("efficientnet_b0", "features.1.0.block.0", "features.1.0.block.2"),
        ("regnet_y_400mf", "trunk_output.block1.block1-0.f.b", "trunk_output.block1.block1-0.f.se"),
        ("swin_t", "features.1.0.norm1", "features.1.0.attn"),  # attention
        ("maxvit_t", "stem", "blocks.0.layers.0"),
        ("resnet18", "layer4", "avgpool"),  # global pooling
        ("densenet121", "@relu", "@adaptive_avg_pool2d"),
        ("alexnet", "avgpool", "classifier.1"),
    ],
)
def test_no_box_after_an_operation_that_sees_everything(model_id: str, before: str, after: str) -> None:
    layers = table_of(find_entry(model_id)).by_name()
    assert layers[before].box is not None
    assert layers[after].box is None
    later = [layer for layer in layers.values() if layer.order > layers[after].order and model_id != "densenet121"]
    assert all(layer.box is None for layer in later)


@pytest.mark.parametrize("model_id", ["zfnet", "alexnet_2012"])
def test_response_normalisation_looks_at_channels_only(model_id: str) -> None:
    layers = table_of(find_entry(model_id)).by_name()
    for number in (1, 2):
        before = layers[f"relu{number}" if model_id == "alexnet_2012" else f"pool{number}"]
        assert layers[f"norm{number}"].box == before.box is not None
    assert layers["pool5"].box is not None


class Oddities(nn.Module):
    """Slices, padding on one side, dilation, a gate by channels, layout changes and a channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, (1, 5), dilation=(1, 2), padding=(0, 4))
        self.pick = nn.Identity()
        self.shuffled = nn.Identity()
        self.last = nn.Identity()
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.gated = nn.Identity()
        self.grouped = nn.GroupNorm(2, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(F.pad(x, (0, 0, 2, 0)))
        x = self.pick(x[:, :, 1::2, 3:])
        n, c, h, w = x.shape
        x = self.shuffled(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
        x = self.mix(self.norm(x.permute(0, 2, 3, 1)))
        x = self.last(x.permute(0, 3, 1, 2))
        return self.gated(x * x.mean((2, 3), keepdim=True).sigmoid()) + self.grouped(x)


def test_oddities_by_hand() -> None:
    layers = describe(Oddities().eval(), (20, 30)).by_name()
    assert layers["wide"].box == Box((1, 9), (1.0, 1.0), (-2.0, -4.0))
    picked = Box((1, 9), (2.0, 1.0), (-1.0, -1.0))
    assert [layers[name].box for name in ("pick", "shuffled", "norm", "mix", "last")] == [picked] * 5
    assert layers["gated"].box is None
    assert layers["grouped"].box is None
    assert layers["gated"].shape == (8, 11, 27)


class Mirrored(nn.Module):
    """A reflected edge before a convolution, then a pool whose windows overlap: 9 rows to 4."""

    def __init__(self, edge: int, kernel: int, mode: str = "reflect") -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.pad = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d}[mode](edge)
        self.second = nn.Conv2d(4, 4, kernel)
        self.pool = nn.AdaptiveAvgPool2d((4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.second(self.pad(self.first(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("mode", "edge", "kernel"), [("reflect", 1, 3), ("reflect", 2, 5), ("replicate", 1, 3)])
def test_mirrored_edges_and_overlapping_windows_are_followed(mode: str, edge: int, kernel: int) -> None:
    network = average_everything(Mirrored(edge, kernel, mode).double())
    found = {layer.name: layer for layer in describe(meta_copy(lambda: Mirrored(edge, kernel, mode)), (18, 18)).layers}
    assert found["pad"].box is None  # its edge repeats what lies further in
    x = torch.rand(1, 3, 18, 18, dtype=torch.float64, requires_grad=True)
    for name in ("second", "pool"):
        layer = found[name]
        assert layer.box is not None
        seen, _ = capture(network, x, [name])
        for row in range(layer.shape[1]):
            for column in range(layer.shape[2]):
                (gradient,) = torch.autograd.grad(seen[name][0, :, row, column].sum(), x, retain_graph=True)
                assert support(gradient) == layer.box.of(row, column, 18, 18), (name, row, column)


def test_what_a_mirrored_edge_hides_is_unknown() -> None:
    """A window of three cannot take in an edge of two: unit 0 would be said to see what it does not."""
    found = {layer.name: layer for layer in describe(Mirrored(2, 3), (18, 18)).layers}
    assert found["second"].box is None and found["pool"].box is None


@pytest.mark.parametrize(
    ("have", "want", "window"),
    [(7, 6, (2, 1)), (13, 6, (3, 2)), (12, 6, (2, 2)), (7, 3, (3, 2)), (9, 4, (3, 2)), (5, 3, None), (6, 7, None)],
)
def test_windows_of_adaptive_pools(have: int, want: int, window: tuple[int, int] | None) -> None:
    """By torch's own gradient; None where the windows are not all alike."""
    x = torch.zeros(1, 1, have, 1, requires_grad=True)
    pooled = F.adaptive_avg_pool2d(x, (want, 1))
    spans = []
    for place in range(want):
        (gradient,) = torch.autograd.grad(pooled[0, 0, place, 0], x, retain_graph=True)
        rows = gradient[0, 0, :, 0].nonzero().flatten().tolist()
        spans.append((rows[0], len(rows)))
    alike = len({length for _, length in spans}) == 1 and len({b - a for (a, _), (b, _) in pairwise(spans)}) == 1
    assert alike is (window is not None)
    assert _adaptive_window(have, want) == window
    if window is not None:
        assert spans[0][1] == window[0] and spans[1][0] - spans[0][0] == window[1]
