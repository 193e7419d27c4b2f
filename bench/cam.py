"""Class activation maps against pytorch-grad-cam: one request for six methods, Ablation-CAM, Score-CAM and its memory.

Run: python -m bench.cam, with names of parts (gradient, ablation, score) for some of them. `--cpu` counts
processor time on one thread instead of time, which a busy machine distorts less.

Both sides get the same prepared inputs and random weights (the arithmetic is the same with any), and give maps at the
input's size. What the peer does and we do not (rectify, scale to [0, 1]) takes microseconds.
"""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_grad_cam as peers
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from bench.driving import outcome
from bench.report import PROCESSOR_TIME, alternating_s, report
from workers.contract import Row, params
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
CLOCK = PROCESSOR_TIME if CPU else "time"
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
    row = Row(params(request), [photograph()])
    return lambda: outcome(METHOD, network, row)


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
    """One row: the peer is `pytorch-grad-cam`. Long work runs once, and needs no warming up."""
    taken = alternating_s({"ours": mine, "peer": peer}, repeats, warmup=1 if repeats > 1 else 0, clock=clock)
    return {
        "work": work,
        "ours_s": taken["ours"],
        "peer": "pytorch-grad-cam",
        "peer_s": taken["peer"],
        "target": target,
        "clock": CLOCK,
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


def resident_mib(field: str) -> float:
    """Memory of this process: VmRSS now, VmHWM at most. (After a spawn, getrusage's peak is the parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the kernel says no {field}")


def _score(side: str, queue: Any) -> None:
    """One Score-CAM in this process: seconds, and the peak of memory beyond the loaded network, MiB."""
    if CPU:
        torch.set_num_threads(1)
    network = load("vgg16-random")
    if side == "fast":
        network.fast_module()  # cast once when first asked for, not a part of each request
    work = (
        theirs(network, [peers.ScoreCAM], "features.29")
        if side == "peer"
        else ours(network, ["scorecam"], "features.29", side)
    )
    before = resident_mib("VmRSS")
    began = clock()
    work()
    queue.put((clock() - began, resident_mib("VmHWM") - before))


def score() -> list[dict[str, Any]]:
    """Score-CAM on VGG16's 512 channels, exact and fast, each side in a process of its own for the sake of its peak."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, tuple[float, float]] = {}
    for side in ("fast", "exact", "peer"):
        queue = context.Queue()
        process = context.Process(target=_score, args=(side, queue))
        process.start()
        found[side] = queue.get(timeout=3600)
        process.join()
    return [
        {
            "work": f"scorecam {precision}, vgg16 features.29",
            "ours_s": found[precision][0],
            "peer": "pytorch-grad-cam",
            "peer_s": found["peer"][0],
            "target": target,
            "clock": CLOCK,
            "ours_peak_MiB": found[precision][1],
            "peer_peak_MiB": found["peer"][1],
        }
        for precision, target in (("exact", 1.0), ("fast", 2.5))
    ]


def main() -> None:
    """Measure and report; names of parts as arguments run those only."""
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "gradient": gradient_methods, "ablation": ablation, "score": score,
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
