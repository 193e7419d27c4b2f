"""Deconvnet projections of 16 units in one request against 16 requests, and against Captum's sixteen calls.

python -m bench.deconv [--units 16] [--model vgg16-random] [--layer conv4_1] [--cpu]
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace

import torch
from captum.attr import NeuronDeconvolution

from bench.driving import noise_picture, outcome
from bench.report import PROCESSOR_TIME, report
from workers.contract import Outcome, Row
from workers.methods.deconv import METHOD
from workers.networks.build import load


def ours(network: object, picture: torch.Tensor, layer: str, channels: list[int]) -> Outcome:
    """Projections of the strongest unit of each channel by the service's method."""
    request = SimpleNamespace(
        layers=[layer], channels=channels, by="max", seed_unit="max", rule="deconvnet", switches="sum",
        nonstandard_gate=False, precision="exact", preprocess=None, seed=0,
    )  # fmt: skip
    return outcome(METHOD, network, Row(request, [picture]))


def main() -> None:
    """Measure, print and write bench/results/deconv.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--model", default="vgg16-random")
    parser.add_argument("--layer", default="conv4_1")
    parser.add_argument("--cpu", action="store_true", help="count processor time, on one thread")
    wanted = parser.parse_args()
    torch.set_num_threads(1 if wanted.cpu else 2)
    clock = time.process_time if wanted.cpu else time.perf_counter
    network = load(wanted.model)
    layer = network.layers[wanted.layer].name
    picture = noise_picture()
    channels = list(range(wanted.units))
    x, _ = network.prepare([picture])

    began = clock()
    together = ours(network, picture, layer, channels)
    one_request_s = clock() - began

    began = clock()
    alone = [ours(network, picture, layer, [channel]) for channel in channels]
    many_requests_s = clock() - began

    units = together.facts["layers"][0]["projections"]
    peer = NeuronDeconvolution(network.module, network.module.get_submodule(layer))
    began = clock()
    theirs = [
        peer.attribute(x.clone().requires_grad_(True), (unit["channel"], unit["y"], unit["x"])) * unit["activation"]
        for unit in units
    ]
    captum_s = clock() - began

    stack = together.arrays[f"projection/{layer}"]
    one_by_one = torch.cat([one.arrays[f"projection/{layer}"] for one in alone])
    active = [k for k, unit in enumerate(units) if not unit["dead"]]
    captums = torch.cat(theirs)[active]
    difference = float((stack[active] - captums).abs().max() / captums.abs().max())
    name = f"deconvnet, {wanted.units} units of {wanted.layer}, {wanted.model}"
    report(
        "deconv",
        [
            {
                "work": name,
                "ours_s": one_request_s,
                "peer": f"{wanted.units} requests of ours",
                "peer_s": many_requests_s,
                "target": None,
                "clock": PROCESSOR_TIME if wanted.cpu else "time",
                "bitwise_equal": bool(torch.equal(stack, one_by_one)),
            },
            {
                "work": name,
                "ours_s": one_request_s,
                "peer": f"captum, {wanted.units} calls",
                "peer_s": captum_s,
                "target": None,
                "clock": PROCESSOR_TIME if wanted.cpu else "time",
                "relative_difference": difference,
            },
        ],
    )


if __name__ == "__main__":
    main()
