"""Class activation maps against pytorch-grad-cam: one request for six methods, Ablation-CAM, Score-CAM and its memory.

Run: python -m bench.cam, with names of parts (gradient, ablation, score, memory) for some of them. `--cpu` counts
processor time on one thread instead of time, which a busy machine distorts less.

Both sides get the same prepared inputs and random weights (the arithmetic is the same with any), and give maps at the
input's size. What the peer does and we do not (rectify, scale to [0, 1]) takes microseconds.
"""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_grad_cam as peers
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from bench.report import median_s, report
from workers.contract import Context, MethodError, Row, params
from workers.methods.cam import METHOD
from workers.networks.build import LoadedNetwork, load

SIX: dict[str, Any] = {
    "gradcam": peers.GradCAM,
    "gradcam++": peers.GradCAMPlusPlus,
    "hirescam": peers.HiResCAM,
    "elementwise": peers.GradCAMElementWise,
    "xgradcam": peers.XGradCAM,
    "layercam": peers.LayerCAM,
}
TARGET = 281
CPU = "--cpu" in sys.argv
clock = time.process_time if CPU else time.perf_counter


def photograph() -> Tensor:
    """An upload, uint8 224×224×3: smooth, so that no layer is fed with noise."""
    coarse = torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (224, 224), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0) * 255).to(torch.uint8).contiguous()


def ours(network: LoadedNetwork, methods: list[str], layer: str, precision: str = "exact") -> Callable[[], object]:
    """The whole operation in the worker, preparation of the image included."""
    request = {
        "methods": methods, "layer": layer, "targets": [TARGET], "upsampled": True, "nonstandard_gate": False,
        "precision": precision, "preprocess": None, "seed": 0,
    }  # fmt: skip
    row, context = Row(params(request), [photograph()]), Context()

    def run() -> object:
        work = METHOD.run(network, [row], context)
        while True:
            try:
                next(work)
            except StopIteration as stop:
                if isinstance(stop.value[0], MethodError):
                    raise stop.value[0] from None
                return stop.value

    return run


def theirs(network: LoadedNetwork, kinds: list[Any], layer: str) -> Callable[[], object]:
    """One call for each method, as its documentation shows; on a copy that may collect weight gradients, as it does."""
    module = copy.deepcopy(network.module).requires_grad_(True)
    inputs, _ = network.prepare([photograph()])

    def run() -> object:
        found = []
        for kind in kinds:
            with quiet(), kind(model=module, target_layers=[module.get_submodule(layer)]) as cam:
                found.append(cam(input_tensor=inputs, targets=[ClassifierOutputTarget(TARGET)]))
        return found

    return run


@contextlib.contextmanager
def quiet() -> Any:
    """Without the peer's progress bars."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def compare(work: str, mine: Callable[[], object], peer: Callable[[], object], target: float, repeats: int) -> Any:
    """One row: the peer is `pytorch-grad-cam`."""
    return {
        "work": work,
        "ours_s": median_s(mine, repeats, clock=clock),
        "peer": "pytorch-grad-cam",
        "peer_s": median_s(peer, repeats, warmup=1 if repeats > 1 else 0, clock=clock),
        "target": target,
        "clock": "processor time, one thread" if CPU else "time",
    }


def gradient_methods() -> list[dict[str, Any]]:
    """Six gradient methods of one image in one request, against six calls."""
    rows = []
    for name, layer in (("vgg16-random", "features.29"), ("resnet50-random", "layer4"), ("efficientnet_lite0", "bn2")):
        network = load(name)
        mine, peer = ours(network, list(SIX), layer), theirs(network, list(SIX.values()), layer)
        rows.append(compare(f"six gradient methods, {name} {layer}", mine, peer, 4.0, 3))
    return rows


def ablation() -> list[dict[str, Any]]:
    """Inside VGG16, where the network runs on from the layer, and under a pooled linear head, where no forward is."""
    rows = []
    for name, layer in (("vgg16-random", "features.28"), ("efficientnet_lite0", "bn2")):
        network = load(name)
        mine, peer = ours(network, ["ablationcam"], layer), theirs(network, [peers.AblationCAM], layer)
        rows.append(compare(f"ablationcam, {name} {layer}", mine, peer, 50.0, 1))
    return rows


def score() -> list[dict[str, Any]]:
    """Score-CAM on VGG16's 512 channels, exact and fast."""
    network = load("vgg16-random")
    row = compare(
        "scorecam exact, vgg16 features.29",
        ours(network, ["scorecam"], "features.29"),
        theirs(network, [peers.ScoreCAM], "features.29"),
        1.0,
        1,
    )
    fast = median_s(ours(network, ["scorecam"], "features.29", "fast"), 1, warmup=0, clock=clock)
    return [row, row | {"work": "scorecam fast, vgg16 features.29", "ours_s": fast, "target": 2.5}]


def _peak(side: str, queue: Any) -> None:
    network = load("vgg16-random")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work = (
        ours(network, ["scorecam"], "features.29")
        if side == "ours"
        else theirs(network, [peers.ScoreCAM], "features.29")
    )
    work()
    queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> dict[str, Any]:
    """Score-CAM's peak beyond the loaded network, MiB, each side in a process of its own."""
    row: dict[str, Any] = {"work": "scorecam peak memory, vgg16 features.29", "peer": "pytorch-grad-cam"}
    context = multiprocessing.get_context("spawn")
    for side in ("ours", "peer"):
        queue = context.Queue()
        process = context.Process(target=_peak, args=(side, queue))
        process.start()
        row[f"{side}_MiB"] = queue.get(timeout=1800)
        process.join()
    return row


def main() -> None:
    """Measure and report; names of parts as arguments run those only."""
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "gradient": gradient_methods, "ablation": ablation, "score": score, "memory": lambda: [memory()],
    }  # fmt: skip
    if CPU:
        torch.set_num_threads(1)
    chosen = [name for name in sys.argv[1:] if name in parts] or list(parts)
    rows: list[dict[str, Any]] = []
    for name in chosen:  # reported as they come: some parts take many minutes
        rows += parts[name]()
        report("cam", rows)


if __name__ == "__main__":
    main()
