"""Occlusion, VGG16 at 224 px: ours exact, fast and incremental against Captum, in one run.

python -m bench.occlusion [--window 56] [--stride 28] [--model vgg16-random] [--cpu]
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

import torch
from captum.attr import Occlusion

from bench.driving import noise_picture, outcome
from bench.report import PROCESSOR_TIME, alternating_best_s, report
from workers.contract import Row
from workers.methods.occlusion import METHOD
from workers.networks.build import load


def ours(network: object, picture: torch.Tensor, unit: str, wanted: argparse.Namespace, **how: object) -> torch.Tensor:
    """The probability map by the service's method."""
    request = SimpleNamespace(
        window=[wanted.window] * 2, stride=[wanted.stride] * 2, fill="mean", target=0, seed=0, preprocess=None,
        unit=SimpleNamespace(layer=unit, channel=0, y=None, x=None), **how,
    )  # fmt: skip
    return outcome(METHOD, network, Row(request, [picture])).arrays["probability"]


def main() -> None:
    """Measure, print and write bench/results/occlusion.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=56)
    parser.add_argument("--stride", type=int, default=28)
    parser.add_argument("--model", default="vgg16-random")
    parser.add_argument("--unit", default="features.28")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="count processor time, on one thread")
    wanted = parser.parse_args()
    torch.set_num_threads(1 if wanted.cpu else 2)
    network = load(wanted.model)
    network.fast_module()  # cast once when first asked for, not a part of each request
    picture = noise_picture()
    x, _ = network.prepare([picture])

    def probability(inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = network.module(inputs)
        return scores.softmax(1)

    def captum() -> torch.Tensor:
        square = (3, wanted.window, wanted.window)
        found: torch.Tensor = Occlusion(probability).attribute(
            x, sliding_window_shapes=square, strides=(3, wanted.stride, wanted.stride), target=0
        )
        return found

    works = {
        "exact": lambda: ours(network, picture, wanted.unit, wanted, precision="exact", incremental=False),
        "fast": lambda: ours(network, picture, wanted.unit, wanted, precision="fast", incremental=False),
        "incremental": lambda: ours(network, picture, wanted.unit, wanted, precision="exact", incremental=True),
        "fast incremental": lambda: ours(network, picture, wanted.unit, wanted, precision="fast", incremental=True),
        "captum": captum,
    }
    best, results = alternating_best_s(works, wanted.rounds, time.process_time if wanted.cpu else time.perf_counter)
    whole = results["exact"]
    rows = []
    for name, target in (("exact", 1.2), ("fast", 3.0), ("incremental", 2.0), ("fast incremental", None)):
        rows.append(
            {
                "work": f"occlusion, {tuple(whole.shape[1:])} places, {wanted.model}, {name}",
                "ours_s": best[name],
                "peer": "captum",
                "peer_s": best["captum"],
                "target": target,
                "clock": PROCESSOR_TIME if wanted.cpu else "time",
                "against_exact": best["exact"] / best[name],
                "relative_difference_to_exact": float((results[name] - whole).abs().max() / whole.abs().max()),
            }
        )
    report("occlusion", rows)


if __name__ == "__main__":
    main()
