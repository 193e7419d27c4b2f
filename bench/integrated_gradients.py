"""Integrated gradients, 50 steps, VGG16 at 224 px: ours exact and fast against Captum, in one run.

python -m bench.integrated_gradients [--steps 50] [--model vgg16-random] [--cpu]
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

import torch
from captum.attr import IntegratedGradients

from bench.driving import noise_picture, outcome
from bench.report import PROCESSOR_TIME, alternating_best_s, report
from workers.contract import Row
from workers.methods.saliency import METHOD
from workers.networks.build import load


def ours(network: object, picture: torch.Tensor, steps: int, precision: str) -> torch.Tensor:
    """The attribution by the service's method, exactly `steps` points."""
    request = SimpleNamespace(
        method="integrated-gradients", target=0, samples=1, noise=0.0, steps=steps, max_steps=steps, tolerance=1.0,
        baseline="black", nonstandard_gate=False, precision=precision, preprocess=None, seed=0,
    )  # fmt: skip
    return outcome(METHOD, network, Row(request, [picture])).arrays["attribution"]


def main() -> None:
    """Measure, print and write bench/results/integrated_gradients.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--model", default="vgg16-random")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="count processor time, on one thread")
    wanted = parser.parse_args()
    torch.set_num_threads(1 if wanted.cpu else 2)
    network = load(wanted.model)
    network.fast_module()  # cast once when first asked for, not a part of each request
    picture = noise_picture()
    x, _ = network.prepare([picture])
    black = network.normalize(torch.zeros_like(x))
    peer = IntegratedGradients(network.module)
    works = {
        "exact": lambda: ours(network, picture, wanted.steps, "exact"),
        "fast": lambda: ours(network, picture, wanted.steps, "fast"),
        "captum": lambda: peer.attribute(x, baselines=black, target=0, n_steps=wanted.steps),
    }
    best, results = alternating_best_s(works, wanted.rounds, time.process_time if wanted.cpu else time.perf_counter)
    theirs = results["captum"].float()
    rows = []
    for name, target in (("exact", 1.5), ("fast", 4.0)):
        difference = float((results[name] - theirs).norm() / theirs.norm())
        correlation = float(torch.corrcoef(torch.stack([results[name].flatten(), theirs.flatten()]))[0, 1])
        rows.append(
            {
                "work": f"integrated gradients, {wanted.steps} steps, {wanted.model}, {name}",
                "ours_s": best[name],
                "peer": "captum",
                "peer_s": best["captum"],
                "target": target,
                "clock": PROCESSOR_TIME if wanted.cpu else "time",
                "relative_difference": difference,
                "correlation": correlation,
            }
        )
    report("integrated_gradients", rows)


if __name__ == "__main__":
    main()
