"""AlexNet as in Krizhevsky et al. 2012, on one device."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AlexNet2012(nn.Module):
    """Krizhevsky et al. 2012, section 3.5: 96, 256, 384, 384, 256 kernels; 227 px input; maps of 55, 27, 13, 13, 13, 6.

    The paper spread it over two devices, so that the second, fourth and fifth convolution see half of the channels
    each (`groups=2`). Max-pools are 3×3 with stride 2 and overlap (section 3.4); responses are normalised across
    channels after the first two rectifications (section 3.3). torchvision's `alexnet` is the smaller one of 2014.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 11, stride=4),  # 55
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2),  # 27
            nn.Conv2d(96, 256, 5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2),  # 13
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),  # 6
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(6 * 6 * 256, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised images N×3×227×227 → logits N×classes."""
        return self.classifier(torch.flatten(self.features(inputs), 1))  # type: ignore[no-any-return]


def build(classes: int = 1000) -> nn.Module:
    """The untrained network."""
    return AlexNet2012(classes)


ENTRY = {
    "title": "AlexNet (Krizhevsky et al. 2012), untrained",
    "weights": "random",
    "classes": 1000,
    "preprocess": {"size": 227, "resize": 256},
}
