"""Class pictures by maximize and by Lucent in equal time, judged by networks that neither has seen.

Run: python -m bench.lucent_quality [preset] [classes]; the peers' packages as in bench.maximize.

Both climb EfficientNet-Lite0's logits at 224 px. Ours takes its preset's numbers with 256 steps; Lucent, with all its
defaults, takes as many steps as fit into the same time. EfficientNet-Lite1 and Lite2 say whether they recognise the
8-bit pictures, which are also written to bench/results as one sheet.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.maximize import clock, lucent_pictures, request
from bench.report import RESULTS, report
from workers.contract import Context, Row, params
from workers.mathematics.ascent import current_picture
from workers.methods.maximize import METHOD
from workers.networks.build import LoadedNetwork, load

CLASSES = (1, 33, 71, 88, 130, 207, 281, 292, 340, 409, 417, 508, 574, 717, 817, 963)
"""Goldfish to pizza, spread over animals and things; none of them stands in the photographs that tests use."""
STEPS = 256


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


def ours(network: LoadedNetwork, preset: str, classes: tuple[int, ...]) -> tuple[Tensor, float]:
    """Pictures K×H×W×3 and seconds a picture."""
    asked = request(preset, [{"class": index} for index in classes], steps=STEPS)
    states = METHOD.start(network, Row(params(asked)), Context())
    assert isinstance(states, list)
    began = clock()
    for state in states:
        while not METHOD.done(state):
            METHOD.step(network, [state], Context())
    return torch.stack([current_picture(state) for state in states]), (clock() - began) / len(classes)


def lucents(network: LoadedNetwork, classes: tuple[int, ...], seconds: float) -> tuple[Tensor, float]:
    """As `ours`, in about as much time."""
    model = Normalized(network)
    began = clock()
    lucent_pictures(model, classes[0], 224, 4)
    step = (clock() - began) / 4
    began = clock()
    made = [lucent_pictures(model, index, 224, max(1, int(seconds / step))) for index in classes]
    return torch.stack(made), (clock() - began) / len(classes)


def recognised(judge: LoadedNetwork, pictures: Tensor, classes: tuple[int, ...]) -> tuple[int, int, float]:
    """How many a network names first, how many among its first five, and its mean log-probability."""
    with torch.no_grad():
        logits = torch.cat([judge.module(judge.prepare([picture])[0]) for picture in pictures])
    wanted = logits.gather(1, torch.tensor(classes)[:, None])
    ranks = (logits > wanted).sum(1)
    chances = logits.log_softmax(1).gather(1, torch.tensor(classes)[:, None])
    return int((ranks == 0).sum()), int((ranks < 5).sum()), float(chances.mean())


def sheet(pictures: Tensor, path: Path, side: int = 128) -> None:
    """The pictures, eight in a row."""
    rows = [np.concatenate(list(part.numpy()), 1) for part in pictures.split(8)]
    whole = Image.fromarray(np.concatenate([row for row in rows if row.shape == rows[0].shape]))
    factor = side / pictures.shape[1]
    whole.resize((int(whole.width * factor), int(whole.height * factor)), Image.Resampling.LANCZOS).save(path)


def main() -> None:
    """Make, judge and report."""
    arguments = [word for word in sys.argv[1:] if not word.startswith("-")]
    preset = arguments[0] if arguments else "lucid"
    classes = CLASSES[: int(arguments[1])] if len(arguments) > 1 else CLASSES
    network, judges = load("efficientnet_lite0"), [load("efficientnet_lite1"), load("efficientnet_lite2")]
    makers: dict[str, Any] = {preset: lambda _: ours(network, preset, classes)}
    makers["lucent"] = lambda seconds: lucents(network, classes, seconds)
    rows: list[dict[str, Any]] = []
    spent = 0.0
    for name, make in makers.items():
        try:
            pictures, spent = make(spent)
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        row: dict[str, Any] = {"work": name, "pictures": len(classes), "seconds a picture": spent}
        for judge in judges:
            row[f"{judge.id[-5:]} top-1"], row[f"{judge.id[-5:]} top-5"], row[f"{judge.id[-5:]} log p"] = recognised(
                judge, pictures, classes
            )
        rows.append(row)
        sheet(pictures, RESULTS / f"maximize-{name}.png")
    report("lucent_quality", rows)


if __name__ == "__main__":
    print(time.strftime("%H:%M"))
    main()
