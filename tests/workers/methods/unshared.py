"""A copy of a ResNet in which no ReLU module is called twice, for peers that key their rule on modules."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class _Block(nn.Module):
    """A basic block with a ReLU for each of its two calls, neither in place."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        self.downsample = block.downsample
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.first(self.bn1(self.conv1(x)))))
        return self.second(out + identity)


def unshared(network: nn.Module) -> nn.Module:
    """A deep copy of a ResNet-18 or -34 with a module for each rectification."""
    twin = copy.deepcopy(network)
    twin.relu = nn.ReLU()
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(twin, name, nn.Sequential(*(_Block(block) for block in getattr(twin, name))))
    return twin
