"""Recomputing only what a window touches, against the whole network on seven topologies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.workers.fakes import traces
from workers.methods.occlusion.incremental import Tape
from workers.methods.occlusion.recording import NoTape
from workers.networks.architectures import digits


def pooled_net(classes: int = 4) -> nn.Sequential:
    """A chain with overlapping pools in ceil mode, in-place ReLUs, normalisation and dropout."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(8, 8, 5, stride=2, padding=2), nn.ReLU(inplace=True), nn.LocalResponseNorm(3),
        nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2), nn.ReLU6(inplace=True),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(32, classes),
    )  # fmt: skip


NETWORKS = {
    "chain": (pooled_net, (30, 27)),
    "digits": (digits.build, (32, 32)),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None), (64, 64)),
    "squeezenet1_1": (lambda: torchvision.models.squeezenet1_1(weights=None), (64, 64)),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=10), (64, 64)),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(weights=None, width_mult=0.25), (64, 64)),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(weights=None, width_mult=0.5), (64, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shortcut_equals_the_whole_network(name: str) -> None:
    build, size = NETWORKS[name]
    torch.manual_seed(9)
    module = build().eval().requires_grad_(False)
    before = traces(module)
    x = torch.randn(1, 3, *size)
    convolution = next(path for path, part in module.named_modules() if isinstance(part, nn.Conv2d))
    tape = Tape(module, x, convolution)
    corners = [(0, 0), (3, 5), (size[0] - 7, size[1] - 9), (11, 0), (1, size[1] - 9)]
    patch = torch.randn(3, 7, 9)
    scores, maps = tape.run(corners, patch, channel=1)
    assert traces(module) == before
    first = dict(module.named_modules())[convolution]
    for n, (top, left) in enumerate(corners):
        hidden = x.clone()
        hidden[0, :, top : top + 7, left : left + 9] = patch
        with torch.no_grad():
            expected, here = module(hidden), first(hidden)
        assert float((scores[n] - expected[0]).abs().max()) <= 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(maps[n], here[0, 1], rtol=1e-5, atol=1e-6)


def test_the_shortcut_computes_less() -> None:
    """Multiplications of the convolutions, counted, with a small square on a chain."""
    module = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(4)], nn.Flatten()).eval()
    tape = Tape(module, torch.randn(1, 3, 64, 64))
    sizes: list[int] = []
    real = torch.nn.functional.conv2d

    def counting(x: Tensor, *args: Any) -> Tensor:
        output = real(x, *args)
        sizes.append(output.shape[0] * output.shape[2] * output.shape[3])
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "conv2d", counting)
        tape.run([(20, 20), (30, 40)], torch.zeros(3, 8, 8))
    assert sizes == [2 * side * side for side in (10, 12, 14, 16)]  # of 2 · 64 · 64 each


class Mixed(nn.Module):
    """A network that computes under autocast by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.body(x).float()  # type: ignore[no-any-return]


def test_there_is_no_shortcut_through_autocast() -> None:
    """Steps that are repeated one by one would be computed in another precision than the network's."""
    with pytest.raises(NoTape, match="precision of each operation"):
        Tape(Mixed().eval().requires_grad_(False), torch.rand(1, 3, 16, 16))
