"""Whether pictures of channels excite them more than photographs do: 64 channels of a middle layer, 2000 crops.

Run: python -m bench.channel_quality [--cpu]

`lucid` on EfficientNet-Lite0 at 224 px; what counts is the finished 8-bit picture, in the operation's own facts. What
was made stays beside the pictures of bench.lucent_quality.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from bench.driving import returned
from bench.lucent_quality import KEPT, ours
from bench.maximize import channels, clock, request
from bench.photographs import crops
from bench.report import report
from workers.contract import Grant, Outcome, Row, params
from workers.methods.maximize import METHOD
from workers.networks.build import load

LAYER, CHANNELS, STEPS, CROPS = "blocks.3", 64, 40, 2000
ABOVE = 99.9
SHOWN = tuple(range(0, CHANNELS, 8))
"""Channels whose pictures the other recipes make as well, for the contact sheet."""


def finished(network: Any, row: Row[Any], states: Any) -> Outcome:
    """A job's outcome."""
    made = returned(METHOD.finish(network, row, states, Grant()))
    assert isinstance(made, Outcome)
    return made


def main() -> None:
    """Make, check and report."""
    network = load("efficientnet_lite0")
    objectives = channels(LAYER, CHANNELS)
    began = clock()
    states, pictures = ours(network, "lucid", objectives, steps=STEPS)
    seconds = (clock() - began) / CHANNELS
    asked = request("lucid", objectives, steps=STEPS)
    found = finished(network, Row(params(asked), crops(CROPS)), states)
    told = found.facts["pictures"]
    live = [one for one in told if not one["dead"]]
    above = sum(one["percentile"] >= ABOVE for one in live)
    chosen = [objectives[channel] for channel in SHOWN]
    kept = {"lucid": pictures[list(SHOWN)].numpy(), "channels": np.array(SHOWN)}
    for recipe, steps in (("smooth", 2 * STEPS), ("maco", STEPS // 2)):
        kept[recipe] = ours(network, recipe, chosen, steps=steps)[1].numpy()
    KEPT.mkdir(parents=True, exist_ok=True)
    np.savez(KEPT / "channels.npz", allow_pickle=False, **kept)
    ratios = sorted(one["value"] / one["reference_max"] for one in live if one["reference_max"] > 0)
    row: dict[str, Any] = {
        "work": f"lucid, {STEPS} steps, {LAYER}, against {CROPS} crops",
        "channels": CHANNELS,
        "live": len(live),
        f"above the {ABOVE}th percentile": above,
        "above every crop": sum(one["percentile"] == 100.0 for one in live),
        "share": above / len(live),
        "target": 0.95,
        "median value over the best crop's": ratios[len(ratios) // 2],
        "rank 1": sum(one["rank"] == 1 for one in live),
        "seconds a picture": seconds,
    }
    report("channel_quality", [row])


if __name__ == "__main__":
    if "--cpu" in sys.argv:
        torch.set_num_threads(1)
    main()
