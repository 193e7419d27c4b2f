"""Draw the pictures of docs/methods/cam.md and docs/methods/cka.md from real results.

Run: python -m bench.method_pictures (or with `overlays`, `members`, `models` as arguments, for some of them)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch

from bench.photographs import crops
from bench.report import report
from convscope.protocol.operations import operations
from convscope.protocol.operations.base import ArrayInfo, Picture
from convscope.render import RenderOptions, render, stack
from workers.contract import Context, MethodError, OneShotMethod, Outcome, Row, params
from workers.methods.cam import METHOD as CAM
from workers.methods.cka import METHOD as CKA
from workers.networks.build import load

IMAGES = Path(__file__).parent.parent / "docs" / "images"
LAYERS = ["bn1", *(f"blocks.{k}" for k in range(7)), "bn2"]
CAM_METHODS = ["gradcam", "gradcam++", "layercam", "eigencam", "scorecam", "fullgrad"]


def computed(method: OneShotMethod, network: Any, row: Row, context: Context) -> Outcome:
    """The one row's outcome."""
    work = method.run(network, [row], context)
    while True:
        try:
            next(work)
        except StopIteration as stop:
            if isinstance(stop.value[0], MethodError):
                raise stop.value[0] from None
            return stop.value[0]  # type: ignore[no-any-return]


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
    found = computed(CAM, load("efficientnet_lite0"), rows, Context())
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
    found = computed(CKA, load("efficientnet_lite0"), row, Context(networks={"efficientnet_lite1": other}))
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


def main() -> None:
    """Draw what is asked for, or everything."""
    parts: dict[str, Callable[[], None]] = {"overlays": overlays, "members": members, "models": models}
    for name in sys.argv[1:] or list(parts):
        parts[name]()


if __name__ == "__main__":
    main()
