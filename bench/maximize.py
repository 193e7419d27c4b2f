"""maximize against FlashTorch's GradientAscent and against a step of Lucent, and 16 jobs batched against in turn.

Run: python -m bench.maximize. The peers are old and pinned to old companions: put flashtorch 0.1.3, torch-lucent 0.1.8,
kornia, kornia-rs, decorator and importlib-resources on PYTHONPATH; one that is missing is left out and said so.

Weights are random (the arithmetic is the same with any) and shared. Ours and the peer take turns, so that whatever else
the machine does falls on both alike. `--cpu` counts processor time on one thread instead, which a busy machine distorts
less.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.driving import returned
from bench.report import report
from convscope.protocol.operations.presets import FIELDS, OPTIMIZERS, PRESETS
from workers.contract import Grant, MethodError, Row, params
from workers.engine.environment import prepare_process
from workers.engine.process import choose_arithmetic
from workers.methods.maximize import METHOD
from workers.networks.build import LoadedNetwork, load

STEPS, TURNS = 30, 7
FAST_ROWS = 4

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where the jobs in company run; the peers are compared with on the CPU."""


def clock() -> float:
    """Seconds, once the device has done what it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if "--cpu" in sys.argv else time.perf_counter()


def request(preset: str, objectives: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A resolved request of the network's size."""
    filled = {name: PRESETS[preset][name] for name in FIELDS}
    filled |= {"size": [224, 224], "seed": 0, "stop_at": None, "start": "noise", "precision": "exact"}
    filled |= OPTIMIZERS[changes.get("optimizer", filled["optimizer"])]
    return filled | {"preprocess": None, "layer": None, "channels": None, "objective": objectives} | changes


def channels(layer: str, count: int) -> list[dict[str, Any]]:
    """Objectives for the first channels of a layer."""
    return [{"layer": layer, "channel": channel, "reduce": "mean"} for channel in range(count)]


def started(network: LoadedNetwork, asked: dict[str, Any]) -> list[Any]:
    """A job's states."""
    begun = METHOD.start(network, Row(params(asked)), Grant())
    return returned(begun)


def ours(network: LoadedNetwork, asked: dict[str, Any], rows: int, steps: int) -> Callable[[], object]:
    """`steps` steps of a job's rows in tiles of `rows`, beyond those in which gradients may be redirected."""
    states = started(network, asked)

    def run() -> None:
        for _ in range(steps):
            for first in range(0, len(states), rows):
                METHOD.step(network, states[first : first + rows], Grant())

    return run


def taking_turns(works: dict[str, Callable[[], object]], turns: int = TURNS) -> dict[str, float]:
    """Median seconds of each work over so many rounds in which each runs once, after one round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            began = clock()
            work()
            if turn:
                taken[name].append(clock() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def flashtorch(network: LoadedNetwork, layer: int) -> Callable[[], object]:
    """GradientAscent as its README uses it, on the network's `features`; each call takes the next filter."""
    from flashtorch.activmax import GradientAscent

    features: Any = copy.deepcopy(network.module.features).requires_grad_(True)
    peer = GradientAscent(features)
    filters = itertools.count()
    return lambda: peer.optimize(features[layer], next(filters), num_iter=STEPS)


def against_flashtorch(name: str, layer: int, targets: tuple[float, float]) -> list[dict[str, Any]]:
    """The rows of one layer, exact and fast: seconds of a filter, where `fast` takes four at once."""
    network = load("vgg16-random")
    asked = request("flashtorch", channels(f"features.{layer}", FAST_ROWS), steps=10_000)
    alone = asked | {"objective": channels(f"features.{layer}", 1)}
    works = {
        "exact": ours(network, alone, 1, STEPS),
        "fast": ours(network, asked | {"precision": "fast"}, FAST_ROWS, STEPS),
        "peer": flashtorch(network, layer),
    }
    seconds = taking_turns(works)
    seconds["fast"] /= FAST_ROWS
    return [
        {
            "work": f"{name}, a filter, {STEPS} steps, {precision}",
            "ours_s": seconds[precision],
            "peer": "FlashTorch",
            "peer_s": seconds["peer"],
            "target": target,
        }
        for precision, target in zip(("exact", "fast"), targets, strict=True)
    ]


def lucent() -> Any:
    """Lucent's `render`, `objectives` and `param`, on today's companions."""
    # Lucent imports IPython for a display that is not used here.
    for missing in ("IPython", "IPython.display"):
        sys.modules.setdefault(missing, types.ModuleType(missing))
    kornia = importlib.import_module("kornia")
    # Lucent calls these by the names that they had in kornia 0.4.
    for name in ("get_rotation_matrix2d", "warp_affine"):
        setattr(kornia, name, getattr(kornia.geometry.transform, name))
    return importlib.import_module("lucent.optvis")


def render(model: nn.Module, layer: str, channel: int, size: int, steps: int, *, preprocess: bool) -> Any:
    """Lucent's render_vis with everything at its default but the size: its picture, H×W×3 in [0, 1]."""
    lucent()
    modules = {name: importlib.import_module(f"lucent.optvis.{name}") for name in ("objectives", "param", "render")}
    pictures = modules["render"].render_vis(
        model,
        modules["objectives"].channel(layer, channel),
        lambda: modules["param"].image(size),
        thresholds=(steps,),
        progress=False,
        show_image=False,
        preprocess=preprocess,
    )
    for part in model.modules():  # its hooks stay otherwise, and each call adds as many again
        part._forward_hooks.clear()
    return pictures[0][0]


def lucent_step(module: nn.Module, layer: str, channel: int, size: int, steps: int) -> Callable[[], object]:
    """`steps` steps of Lucent on a network whose weights require gradients, as it takes networks."""
    lucent()
    model = copy.deepcopy(module).requires_grad_(True)
    return lambda: render(model, layer, channel, size, steps, preprocess=True)


def lucent_pictures(model: nn.Module, class_index: int, size: int, steps: int) -> Tensor:
    """Lucent's picture of a class, as 8-bit pixels, from a model that normalises for itself."""
    found = render(model.requires_grad_(True), "labels", class_index, size, steps, preprocess=False)
    return torch.from_numpy(found).mul(255).round().clamp(0, 255).to(torch.uint8)


def against_lucent() -> list[dict[str, Any]]:
    """A `lucid` step of VGG16 at 224 px."""
    network = load("vgg16-random")
    asked = request("lucid", channels("features.24", FAST_ROWS), steps=10_000)
    alone = asked | {"objective": channels("features.24", 1)}
    works = {
        "exact": ours(network, alone, 1, 4),
        "fast": ours(network, asked | {"precision": "fast"}, FAST_ROWS, 4),
        "peer": lucent_step(network.module, "features_24", 0, 224, 4),
    }
    seconds = taking_turns(works)
    seconds["fast"] /= FAST_ROWS
    return [
        {
            "work": f"a lucid step, conv5_1, 224 px, a picture, {precision}",
            "ours_s": seconds[precision] / 4,
            "peer": "Lucent",
            "peer_s": seconds["peer"] / 4,
            "target": target,
        }
        for precision, target in (("exact", 2.0), ("fast", 5.0))
    ]


def company(device: str) -> LoadedNetwork:
    """EfficientNet-Lite0, with random weights where the package with its own is not installed."""
    try:
        return load("efficientnet_lite0", device)
    except MethodError as error:
        print(f"random weights instead: {error.detail}")
        return load("efficientnet_lite0-random", device)


def in_company(precision: str) -> dict[str, Any]:
    """16 one-picture jobs on EfficientNet-Lite0: in tiles against one after another."""
    # A GPU takes all of them at once, and steps enough for it to record them.
    rows, steps, target = (16, 30, 5.0) if DEVICE == "cuda" else (8, 1, None)
    network = company(DEVICE)
    asked = request("lucid", channels("blocks.4", 16), steps=10_000, precision=precision)
    works = {"together": ours(network, asked, rows, steps), "in turn": ours(network, asked, 1, steps)}
    seconds = taking_turns(works)
    return {
        "work": f"16 jobs, a lucid step each, Lite0 blocks.4, {precision}, tiles of {rows}, {DEVICE}",
        "ours_s": seconds["together"] / steps,
        "peer": "one after another",
        "peer_s": seconds["in turn"] / steps,
        "target": target,
    }


def main() -> None:
    """Measure and report."""
    prepare_process()
    choose_arithmetic()
    rows = [in_company("fast"), in_company("exact")]
    for work in (
        lambda: against_flashtorch("conv5_1", 24, (1.7, 7.0)),
        lambda: against_flashtorch("conv3_1", 10, (2.0, 7.0)),
        against_lucent,
    ):
        try:
            rows += work()
        except ImportError as error:
            print(f"a peer is left out: {error}")
    report("maximize", rows)


if __name__ == "__main__":
    if "--cpu" in sys.argv:
        torch.set_num_threads(1)
    main()
