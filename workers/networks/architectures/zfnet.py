"""ZFNet, the network of Zeiler & Fergus 2013, figure 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ZFNet(nn.Module):
    """Zeiler & Fergus 2013, figure 3: 224 px input, maps of 110, 55, 26, 13 and 6, then 4096, 4096, classes.

    Max-pools are 3×3 with stride 2 and overlap; contrast is normalised across channels (Krizhevsky 2012, section 3.3)
    after the first two. Where the figure's sizes ask for it, pools round their size up (ceil mode).
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 7, stride=2, padding=1),  # 110
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),  # 55
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            nn.Conv2d(96, 256, 5, stride=2),  # 26
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),  # 13
            nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0),
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),  # 6
        )
        self.classifier = nn.Sequential(
            nn.Linear(6 * 6 * 256, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, classes),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised images N×3×224×224 → logits N×classes."""
        return self.classifier(torch.flatten(self.features(inputs), 1))  # type: ignore[no-any-return]


def build(classes: int = 1000) -> nn.Module:
    """The untrained network."""
    return ZFNet(classes)


ENTRY = {
    "title": "ZFNet (Zeiler & Fergus 2013), untrained",
    "weights": "random",
    "classes": 1000,
    "preprocess": {"size": 224, "resize": 256},
}
