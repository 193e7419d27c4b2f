"""Class pictures by maximize and by Lucent in equal time, judged by networks that neither has seen.

Run: python -m bench.lucent_quality [--cpu] [lucid] [whole] [many] [smooth] [maco] [lucent]; the peers' packages as in
bench.maximize.

All climb EfficientNet-Lite0's logits at 224 px. `lucid` takes its preset's numbers with 256 steps, `smooth` and `maco`
as many views of what RECIPES says, Lucent with its defaults as many steps as fit into `lucid`'s time; `whole` is
`lucid` with all its 512 steps, `many` is `lucid` on more classes. Two networks that took no part say whether they
recognise the 8-bit pictures. What was made stays in folder CONVSCOPE_PICTURES, so that parts can be made one at a time,
and for bench.contact_sheet. `--cpu` counts processor time on one thread, which a busy machine distorts less.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.maximize import clock, lucent_pictures, request, started
from bench.report import report
from workers.contract import Grant
from workers.methods.maximize import METHOD
from workers.methods.maximize.ascent import current_picture
from workers.networks.build import LoadedNetwork, load

CLASSES = (1, 71, 130, 281, 340, 417, 574, 817)
"""Goldfish to sports car, spread over animals and things; none of them stands in the photographs that tests use."""
MORE = (
    *(9, 42, 100, 207, 268, 291, 314, 386, 399, 420, 436, 483),
    *(503, 529, 657, 783, 809, 857, 872, 919, 948, 972, 996, 999),
)
"""Drawn at random, none of them looked at when a recipe was chosen."""
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "lucid": ("lucid", {"steps": 256}),
    "smooth": ("smooth", {}),
    "smooth many": ("smooth", {}),
    "whole": ("lucid", {}),
    "many": ("lucid", {"steps": 256}),
    "maco": ("maco", {"steps": 64, "crops": 4, "size": [256, 256], "crop_from": 0.95, "crop_to": 0.5}),
}
"""Preset and what is changed of it. `maco` takes as many views as `lucid`, each of most of the picture."""
KEPT = Path(os.environ.get("CONVSCOPE_PICTURES", str(Path(tempfile.gettempdir()) / "convscope-pictures")))


class Normalized(nn.Module):
    """The network behind its own normalisation, so that Lucent's, which is ImageNet's, can be left out."""

    def __init__(self, network: LoadedNetwork) -> None:
        super().__init__()
        self.network = network.module
        self.mean, self.std = network.mean[0], network.std[0]

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1] → logits."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def ours(network: LoadedNetwork, recipe: str, objectives: list[dict[str, Any]], **more: Any) -> tuple[Any, Tensor]:
    """Finished states and their pictures K×H×W×3."""
    preset, changes = RECIPES[recipe]
    asked = request(preset, objectives, **(changes | more))
    states = started(network, asked)
    for number, state in enumerate(states):
        while not METHOD.done(state):
            METHOD.step(network, [state], Grant())
        print(f"{recipe} {number + 1}/{len(states)}: {state.losses[0]:.3g} → {state.losses[-1]:.3g}", flush=True)
    return states, torch.stack([current_picture(state) for state in states])


def lucents(network: LoadedNetwork, seconds: float) -> tuple[Tensor, int]:
    """Pictures in about so many seconds each, and the steps that this allowed."""
    model = Normalized(network)
    lucent_pictures(model, CLASSES[0], 224, 1)
    began = clock()
    lucent_pictures(model, CLASSES[0], 224, 6)
    steps = max(1, int(seconds / ((clock() - began) / 6)))
    made = []
    for index in CLASSES:
        made.append(lucent_pictures(model, index, 224, steps))
        print(f"lucent {len(made)}/{len(CLASSES)}, {steps} steps", flush=True)
    return torch.stack(made), steps


def classes_of(maker: str) -> tuple[int, ...]:
    """The classes that a maker makes pictures of."""
    return CLASSES + MORE if maker.endswith("many") else CLASSES


def recognised(judge: LoadedNetwork, pictures: Tensor, classes: Sequence[int]) -> tuple[int, int, float]:
    """How many a network names first, how many among its first five, and its mean log-probability."""
    with torch.no_grad():
        logits = torch.cat([judge.module(judge.prepare([picture])[0]) for picture in pictures])
    indices = torch.tensor(classes)[:, None]
    ranks = (logits > logits.gather(1, indices)).sum(1)
    return int((ranks == 0).sum()), int((ranks < 5).sum()), float(logits.log_softmax(1).gather(1, indices).mean())


def make(maker: str, network: LoadedNetwork) -> None:
    """Make and keep one maker's pictures."""
    budget = float(np.load(KEPT / "lucid.npz")["seconds"]) if maker == "lucent" else 0.0
    began = clock()
    if maker == "lucent":
        pictures, steps = lucents(network, budget)
    else:
        states, pictures = ours(network, maker, [{"class": index} for index in classes_of(maker)])
        steps = int(states[0].steps)
    KEPT.mkdir(parents=True, exist_ok=True)
    seconds = (clock() - began) / len(classes_of(maker))
    np.savez(KEPT / f"{maker}.npz", pictures=pictures.numpy(), seconds=seconds, steps=steps)


def main() -> None:
    """Make what is asked for, judge everything that is there, and report."""
    network, judges = load("efficientnet_lite0"), [load("efficientnet_lite1"), load("efficientnet_lite2")]
    makers = (*RECIPES, "lucent")
    for maker in [word for word in sys.argv[1:] if word in makers]:
        try:
            make(maker, network)
        except ImportError as error:
            print(f"{maker} is left out: {error}")
    rows: list[dict[str, Any]] = []
    for maker in makers:
        if not (KEPT / f"{maker}.npz").exists():
            continue
        kept = np.load(KEPT / f"{maker}.npz")
        row: dict[str, Any] = {"work": maker, "pictures": len(classes_of(maker)), "steps": int(kept["steps"])}
        row["seconds a picture"] = float(kept["seconds"])
        row["changed from the preset"] = RECIPES[maker][1] if maker in RECIPES else {}
        for judge in judges:
            name = judge.id[-5:]
            found = recognised(judge, torch.from_numpy(kept["pictures"]), classes_of(maker))
            row[f"{name} top-1"], row[f"{name} top-5"], row[f"{name} log p"] = found
        rows.append(row)
    report("lucent_quality", rows)


if __name__ == "__main__":
    if "--cpu" in sys.argv:
        torch.set_num_threads(1)
    main()
