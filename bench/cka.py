"""CKA: our one matrix product against the double loop of blog code, and against torch-cka and pytorch-cka on layers.

Run: python -m bench.cka (the two peers are in the `bench` extra; missing ones are left out and said so). `--cpu` counts
processor time on one thread instead of time, which a busy machine distorts less.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bench.photographs import crops
from bench.report import median_s, report
from workers.methods.cka.similarity import Comparison, Estimation, Samples
from workers.passes import hsic
from workers.passes.calls import capture, reduce

BATCH = 32
CPU = "--cpu" in sys.argv
clock = time.process_time if CPU else time.perf_counter


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
    comparison = Comparison(labels, None, Estimation("linear", 0.5, "biased", permutations, 0, 0, 1))
    comparison.add(Samples.of_channels(features))
    return comparison.summary().matrix


def channels() -> dict[str, Any]:
    """512 channels at 28×28; the loop is timed on 4000 pairs and scaled to all."""
    maps = torch.randn(512, 28, 28).relu()
    counted = 4000
    loop_s = median_s(lambda: double_loop(maps, counted), repeats=1, clock=clock) * 512**2 / counted
    matrix = ours(maps)
    error = max(abs(a - b) for a, b in zip(double_loop(maps, 1000), matrix.flatten()[:1000].tolist(), strict=True))
    return {
        "work": "channels, 512 at 28×28",
        "ours_s": median_s(lambda: ours(maps), clock=clock),
        "with_20_pairings_s": median_s(lambda: ours(maps, 20), clock=clock),
        "peer": "double loop",
        "peer_s": loop_s,
        "target": 500,
        "largest_difference": error,
    }


class Replay(nn.Module):
    """Gives a network's activations again, batch after batch, to hooks on its parts; so peers see the same for nothing.

    Args:
        network: run once on each batch.
        batches: its inputs.
        names: calls to keep.
    """

    def __init__(self, network: nn.Module, batches: Sequence[Tensor], names: list[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Identity() for _ in names)
        with torch.no_grad():
            self._kept = [capture(network, batch, names)[0] for batch in batches]
        self._names = names

    def forward(self, batch: Tensor) -> Tensor:
        """`batch` holds its own number, once for each sample."""
        kept = self._kept[int(batch.flatten()[0])]
        for part, name in zip(self.parts, self._names, strict=True):
            part(kept[name])
        return batch


def layers() -> list[dict[str, Any]]:
    """All 53 convolutions of ResNet-50 on 128 images at 64 px in batches of 32, debiased.

    Once on activations computed before, which is what the methods differ in, and once with the forwards included.
    """
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval().requires_grad_(False)
    images = torch.stack([_input(crop) for crop in crops(128)])
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    replay = Replay(network, images.split(BATCH), names).eval()
    numbers = torch.arange(len(images) // BATCH).repeat_interleave(BATCH)[:, None].float()
    parts = [f"parts.{k}" for k in range(len(names))]
    rows = []
    for work, module, inputs, calls, repeats in (
        ("activations given", replay, numbers, parts, 3),
        ("forwards included", network, images, names, 1),
    ):
        run = _ours(module, inputs, calls)
        for peer, target, compute in (("torch-cka", 10, _torch_cka), ("pytorch-cka", 1, _pytorch_cka)):
            try:
                theirs = compute(module, inputs, calls)
                theirs_s, matrix = _turns(theirs, 1 if peer == "torch-cka" else repeats)
            except ImportError:
                print(f"{peer} is not installed; its row is left out")
                continue
            ours_s, mine = _turns(run, 3)
            rows.append(
                {
                    "work": f"layers, {len(names)} of ResNet-50, {len(images)} images, {work}",
                    "ours_s": ours_s,
                    "peer": peer,
                    "peer_s": theirs_s,
                    "target": target if work == "activations given" else None,
                    "largest_difference": float((mine - matrix).abs().max()),
                    "clock": "processor time, one thread" if CPU else "time",
                }
            )
    return rows


def _turns(work: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Median seconds of some runs after a warm one, and what the last gave."""
    found = work() if repeats > 1 else torch.empty(0)
    taken = []
    for _ in range(repeats):
        began = clock()
        found = work()
        taken.append(clock() - began)
    return statistics.median(taken), found


def _ours(network: nn.Module, inputs: Tensor, names: list[str]) -> Callable[[], Tensor]:
    shapes: dict[str, int] = {}
    with torch.no_grad():
        reduce(network, inputs[:BATCH], names, lambda maps: shapes.setdefault(str(len(shapes)), maps[0].numel()))
    widths = list(shapes.values())

    def run() -> Tensor:
        comparison = Comparison(names, None, Estimation("linear", 0.5, "debiased", 0, 0, 0, len(inputs) // BATCH))
        for batch in inputs.split(BATCH):
            with torch.inference_mode():
                grams = reduce(network, batch, names, lambda maps: hsic.offset_free_gram(maps.flatten(1)))
            comparison.add(Samples.of_grams([grams[name] for name in names], widths))
        return comparison.summary().matrix

    return run


def _input(crop: Tensor) -> Tensor:
    planes = crop.permute(2, 0, 1)[None].float() / 255
    return (F.interpolate(planes, (64, 64), mode="bilinear", antialias=True)[0] - 0.5) / 0.25


def _loader(images: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=BATCH)


def _torch_cka(network: nn.Module, images: Tensor, names: list[str]) -> Callable[[], Tensor]:
    from torch_cka import CKA

    def run() -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            peer = CKA(network, network, model1_layers=names, model2_layers=names, device="cpu")
            peer.compare(_loader(images), _loader(images))
            found: Tensor = peer.export()["CKA"]
            return found.double()

    return run


def _pytorch_cka(network: nn.Module, images: Tensor, names: list[str]) -> Callable[[], Tensor]:
    from cka import compute_cka

    def run() -> Tensor:
        (found,) = compute_cka(network, network, _loader(images), layers=names, device="cpu", progress=False)
        return torch.as_tensor(found).double()

    return run


def main() -> None:
    """Measure and report."""
    if CPU:
        torch.set_num_threads(1)
    report("cka", [channels(), *layers()])


if __name__ == "__main__":
    main()
