"""A small classifier fitted with a seed: what the digits network and the networks of the layer matching share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Move = Callable[[Tensor, torch.Generator], Tensor]


def fit(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    seed: int,
    move: Move,
    batch: int = 64,
    say: bool = False,
) -> nn.Module:
    """Fit with one cycle of the optimizer's rate; the seed decides order and shifts, not the network's start.

    Args:
        network: N×… → N×classes; changed, and left in evaluation mode.
        inputs: N×C×H×W.
        labels: N class numbers.
        optimizer: of the network's parameters, at the highest rate.
        epochs: passes over the inputs; the last, incomplete batch of each is left out.
        seed: of a generator of its own.
        move: what a batch is before each step, by that generator.
        batch: inputs of a step.
        say: whether to print each epoch's last loss.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, optimizer.defaults["lr"], total_steps=max(steps, 1))
    for epoch in range(epochs):
        network.train()
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels) - batch + 1, batch):
            chosen = order[start : start + batch]
            loss = F.cross_entropy(network(move(inputs[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if say:
            print(f"epoch {epoch + 1}: loss {float(loss.detach()):.4f}", flush=True)
    return network.eval()


def shifted(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """The batch moved by up to two pixels either way, all by the same."""
    dy, dx = (int(one) for one in torch.randint(-2, 3, (2,), generator=generator))
    return torch.roll(inputs, (dy, dx), (2, 3))


def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of correct answers."""
    network.eval()
    with torch.no_grad():
        return float((network(inputs).argmax(1) == labels).float().mean())
