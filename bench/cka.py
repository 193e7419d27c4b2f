"""CKA: our one matrix product against the double loop of blog code, and against torch-cka and pytorch-cka on layers.

Run: python -m bench.cka (the two peers are in the `bench` extra; missing ones are left out and said so).
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bench.report import median_s, report
from workers.mathematics import hsic
from workers.mathematics.calls import capture, reduce
from workers.mathematics.similarity import Comparison, Options, Samples


def double_loop(maps: Tensor, pairs: int) -> list[float]:
    """The blog code: rows of each map are samples; every pair anew. Stops after `pairs` pairs."""
    n = maps.shape[1]
    centring = torch.eye(n) - torch.ones(n, n) / n

    def hsic(k: Tensor, other: Tensor) -> Tensor:
        return torch.trace(k @ centring @ other @ centring) / (n - 1) ** 2

    found: list[float] = []
    for x in maps:
        for y in maps:
            k, other = x @ x.T, y @ y.T
            found.append((hsic(k, other) / torch.sqrt(hsic(k, k) * hsic(other, other))).item())
            if len(found) == pairs:
                return found
    return found


def ours(features: Tensor, permutations: int = 0) -> Tensor:
    """The whole matrix with its exact baseline, and as many sampled pairings as asked for."""
    labels = [str(i) for i in range(len(features))]
    comparison = Comparison(labels, None, Options("linear", 0.5, "biased", permutations, 0, 0, 1))
    comparison.add(Samples.of_channels(features))
    return comparison.summary().matrix


def channels() -> dict[str, Any]:
    """512 channels at 28×28; the loop is timed on 4000 pairs and scaled to all."""
    maps = torch.randn(512, 28, 28).relu()
    counted = 4000
    loop_s = median_s(lambda: double_loop(maps, counted), repeats=1) * 512**2 / counted
    matrix = ours(maps)
    error = max(abs(a - b) for a, b in zip(double_loop(maps, 1000), matrix.flatten()[:1000].tolist(), strict=True))
    return {
        "work": "channels, 512 at 28×28",
        "ours_s": median_s(lambda: ours(maps)),
        "with_20_pairings_s": median_s(lambda: ours(maps, 20)),
        "peer": "double loop",
        "peer_s": loop_s,
        "target": 500,
        "largest_difference": error,
    }


def layers() -> list[dict[str, Any]]:
    """ResNet-18 with random weights on 128 images at 96 px in batches of 32, 20 layers, debiased; forwards included."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval().requires_grad_(False)
    images = torch.randn(128, 3, 96, 96)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]

    shapes, _ = capture(network, images[:1], names)
    widths = [shapes[name][0].numel() for name in names]

    def run() -> Tensor:
        comparison = Comparison(names, None, Options("linear", 0.5, "debiased", 0, 0, 0, 4))
        for batch in images.split(32):
            with torch.no_grad():
                grams = reduce(network, batch, names, lambda maps: hsic.centred_gram(maps.flatten(1)))
            comparison.add(Samples.of_grams([grams[name] for name in names], widths))
        return comparison.summary().matrix

    work = f"layers, {len(names)} of ResNet-18, 128 images"
    rows = []
    for peer, target, compute in (("torch-cka", 10, _torch_cka), ("pytorch-cka", 1, _pytorch_cka)):
        try:
            theirs = compute(network, images, names)
            peer_s = median_s(theirs, repeats=1, warmup=0)
        except ImportError:
            print(f"{peer} is not installed; its row is left out")
            continue
        rows.append({"work": work, "ours_s": median_s(run, 3), "peer": peer, "peer_s": peer_s, "target": target})
    return rows


def _loader(images: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=32)


def _torch_cka(network: nn.Module, images: Tensor, names: list[str]) -> Any:
    from torch_cka import CKA

    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            peer = CKA(network, network, model1_layers=names, model2_layers=names, device="cpu")
            peer.compare(_loader(images), _loader(images))
            return peer.export()["CKA"]

    return run


def _pytorch_cka(network: nn.Module, images: Tensor, names: list[str]) -> Any:
    from cka import compute_cka

    def run() -> Any:
        return compute_cka(network, network, _loader(images), layers=names, device="cpu", progress=False)

    return run


def main() -> None:
    """Measure and report."""
    report("cka", [channels(), *layers()])


if __name__ == "__main__":
    main()
