"""Every method on a small network, as tests run it on one device after another and compare what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.workers import fakes
from tests.workers.methods import ascents
from tests.workers.methods.ascents import channel
from workers.contract import Grant, Outcome, Row, params
from workers.networks.build import load

SIZE = (24, 24)
CAM_METHODS = [
    "cam", "gradcam", "gradcam++", "hirescam", "elementwise", "xgradcam", "layercam", "eigencam", "eigengradcam",
    "scorecam", "ablationcam", "fullgrad", "guided-gradcam",
]  # fmt: skip
COMMON = {"precision": "exact", "preprocess": None, "seed": 0, "nonstandard_gate": False}


def network(device: str | torch.device = "cpu", seed: int = 0) -> fakes.FakeNetwork:
    """Convolutions (one grouped, one normalised), in-place and clipped rectifications, a pool, a linear head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU6(), nn.Conv2d(8, 12, 3), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
        )  # fmt: skip
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.data.mul_(2.0)
        module[1].running_mean.uniform_(-0.2, 0.2)
        module[1].running_var.uniform_(0.5, 1.5)
    return fakes.FakeNetwork(module, SIZE, mean=(0.5, 0.4, 0.6), std=(0.25, 0.3, 0.2), device=device)


@dataclass(frozen=True)
class Case:
    """One request of a one-shot method.

    Attributes:
        method: file in workers/methods.
        request: resolved.
        images: how many uploads.
    """

    method: str
    request: Mapping[str, Any]
    images: int = 1


def one(case: str, uploads: int = 1, /, **request: Any) -> Case:
    """A case with what every request has."""
    return Case(case, COMMON | request, uploads)


def _saliency(method: str, **changes: Any) -> Case:
    numbers = {"samples": 3, "noise": 0.1, "steps": 4, "max_steps": 8, "tolerance": 0.01, "baseline": "blur"}
    return one("saliency", 2, **numbers | {"method": method, "target": "predicted"} | changes)


def _cka(**changes: Any) -> Case:
    plain = {
        "mode": "channels", "layers": ["2"], "channels": "all", "other_model": None, "other_layers": None,
        "kernel": "linear", "bandwidth": 0.5, "estimator": "biased", "samples": "rows", "features": "flatten",
        "batch_images": 6, "permutations": 3, "intervals": 4,
    }  # fmt: skip
    return one("cka", 12, **plain | changes)


def _deconv(**changes: Any) -> Case:
    plain = {"layers": ["2", "7"], "channels": "top:2", "by": "max", "seed_unit": "max", "rule": "deconvnet"}
    return one("deconv", **plain | {"switches": "sum"} | changes)


def _occlusion(**changes: Any) -> Case:
    unit = {"layer": "6", "channel": None, "y": None, "x": None}
    plain = {"window": [6, 6], "stride": [6, 6], "fill": "grey", "target": "predicted", "incremental": False}
    return one("occlusion", **plain | {"unit": unit} | changes)


def _cam(methods: list[str], *targets: int | str) -> Case:
    return one("cam", 2, methods=methods, layer="7", targets=list(targets), upsampled=True)


RESIZED = {"size": [64, 72], "crop": None, "resize_mode": None}
UNIT = {"layer": "5", "channel": 1, "y": 2, "x": 3}
CASES: dict[str, Case] = {
    "classify": one("classify", 3, top=3),
    "feature-maps": one("feature_maps", 2, layers=["2", "6", "10"], channels="top:3", by="mean"),
    "feature-maps, indices": one("feature_maps", layers=["5"], channels=[3, 1], by="max"),
    "kernels": one("kernels", 0, layer="4", filters="top:3", inputs=[1, 0]),
    "deconv": _deconv(),
    "deconv, guided": _deconv(rule="guided", seed_unit="top:2", switches="last"),
    "deconv, gradient": _deconv(rule="gradient", seed_unit="channel"),
    "saliency, gradient": _saliency("gradient"),
    "saliency, gradient of a unit": _saliency("gradient-x-input", target=UNIT),
    "saliency, guided": _saliency("guided", target=2),
    "saliency, smoothgrad": _saliency("smoothgrad"),
    "saliency, vargrad": _saliency("vargrad"),
    "saliency, integrated-gradients": _saliency("integrated-gradients", target=1),
    "saliency, from black": _saliency("integrated-gradients", target=1, baseline="black", precision="fast"),
    "occlusion": _occlusion(),
    "occlusion, incremental": _occlusion(incremental=True, unit=UNIT, target=1, fill="mean"),
    "cam": _cam(CAM_METHODS, "predicted", 3),
    "cam, several classes": _cam(["gradcam", "scorecam", "ablationcam"], "top:2"),
    "cka of channels": _cka(),
    "cka of channels, rbf": _cka(
        layers=["6"], kernel="rbf", samples="positions", channels="first:3", estimator="debiased"
    ),
    "cka of layers": _cka(mode="layers", layers=["2", "6", "10"]),
    "cka of layers, rbf": _cka(mode="layers", layers=["2", "6"], kernel="rbf", features="pool"),
    "cka of models": _cka(mode="models", layers=["2", "6"], other_model="other", other_layers=["6", "10"]),
}  # fmt: skip


def run(case: Case, device: str | torch.device, network_of: Any = network) -> Outcome:
    """The method's outcome on a device, for which `network_of` makes the network."""
    method = import_module(f"workers.methods.{case.method}").METHOD
    images = [fakes.image((30, 26), seed) for seed in range(case.images)]
    grant = Grant(networks={"other": network(device, 1)})
    return fakes.outcome(method, network_of(device), Row(params(dict(case.request)), images), grant)


def from_catalogue(device: str | torch.device) -> Any:
    """A network as the engine gets it, with seeded weights that nobody has to fetch."""
    return load("squeezenet1_1-random", device)


LOADED: dict[str, Case] = {
    "whole": one("classify", top=5),
    "resized": one("feature_maps", layers=["features.3.squeeze"], channels="top:3", by="max", preprocess=RESIZED),
}
"""Cases of `from_catalogue`, whose own preparation, copies and layer table are at stake."""


@dataclass(frozen=True)
class AscentCase:
    """One `maximize` job.

    Attributes:
        preset: of the protocol's table.
        changes: of the request.
        images: how many uploads: the start image first where there is one, then photographs.
        rows: of a tile.
    """

    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0
    rows: int = 1


_EVERY_KIND = [
    {"class": 2}, channel(1, "7"), channel(2, "6", "max"), channel(2, "6", "center"),
    {"unit": {"layer": "6", "channel": 3, "y": 2, "x": 2}}, {"layer": "7"},
    {"layer": "4", "direction": [1.0, -1, 0, 0, 0, 0, 0, 2], "cosine_power": 1.0},
    {"sum": [{"weight": 1.0, "of": channel(0, "6")}, {"weight": -0.5, "of": {"class": 1}}]},
]  # fmt: skip
_CROPS = {"crops": 4, "size": [28, 28]}
_ONE = [channel(1, "6")]
ASCENTS: dict[str, AscentCase] = {
    "pixel, every objective": AscentCase("pixel", {"objective": _EVERY_KIND}, rows=3),
    "flashtorch": AscentCase("flashtorch", {"objective": _ONE}),
    "yosinski, from noise": AscentCase("yosinski", {"objective": _ONE, "steps": 5}),
    "yosinski, from an image": AscentCase("yosinski", {"objective": _ONE, "start": "image"}, images=3),
    "lucid, with photographs": AscentCase("lucid", {"objective": _ONE}, images=2),
    "lucid, from an image": AscentCase("lucid", {"objective": _ONE, "start": "image"}, images=1),
    "lucid, ranked channels": AscentCase("lucid", {"objective": None, "layer": "6", "channels": "top:2"}, images=1),
    "lucid, fast": AscentCase("lucid", {"objective": _EVERY_KIND, "precision": "fast", "steps": 3}, rows=8),
    "diversity": AscentCase("lucid", {"objective": _ONE * 3, "diversity": 0.5, "tv": 0.1, "l2": 0.1}, rows=3),
    "diversity, fast": AscentCase(
        "lucid", {"objective": _ONE * 3, "diversity": 0.5, "precision": "fast"}, rows=3
    ),
    "a threshold": AscentCase("pixel", {"objective": _ONE, "stop_at": -100.0}),
    "clipped and decayed": AscentCase(
        "pixel", {"objective": _ONE, "clip_each_step": True, "decay": 0.01, "blur": 1.0, "blur_every": 2}
    ),
    "maco": AscentCase("maco", {"objective": _ONE, **_CROPS}),
    "maco, in slices": AscentCase("maco", {"objective": _ONE, **_CROPS, "crops": 8, "steps": 2}),
    "maco, from an image, fast": AscentCase(
        "maco", {"objective": _ONE, **_CROPS, "precision": "fast", "start": "image"}, images=1
    ),
}  # fmt: skip
RESUMED = ("pixel, every objective", "lucid, fast", "diversity", "maco, in slices", "maco")
"""Of the ascents those that between them have everything that a checkpoint carries."""
LOADED_ASCENT = AscentCase("lucid", {"objective": [channel(3, "features.3.squeeze")], "steps": 2})


def ascend(case: AscentCase, device: str | torch.device, network_of: Any = network, resumed_after: int = 0) -> Outcome:
    """A whole job on a device.

    Args:
        network_of: makes the network of a device.
        resumed_after: turns after which every state is saved and loaded; 0 for never.
    """
    used = network_of(device)
    asked = ascents.request(case.preset, size=list(SIZE)) | case.changes
    row, states = ascents.started(used, asked, [fakes.image((30, 26), seed) for seed in range(case.images)])
    if resumed_after:
        for _ in range(resumed_after):
            assert not any(ascents.step(used, states))
        states = ascents.METHOD.load(used, row, ascents.METHOD.save(states), ascents.GRANT)
    ascents.climb(used, states, case.rows)
    progress = ascents.METHOD.progress(states, True)
    assert progress.preview is not None and progress.preview.device.type == "cpu"
    return ascents.finished(used, row, states)


def assert_agree(found: Outcome, expected: Outcome, rtol: float, flips: float = 0.0) -> None:
    """Two devices' outcomes: arrays on the CPU, equal up to `rtol` of the largest number; the same facts.

    Args:
        flips: share of an array's numbers that may differ more. A gradient jumps where a unit is at its threshold, and
            rounding decides on which side it is.
    """
    assert list(found.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        mine = found.arrays[name]
        assert type(mine) is Tensor and mine.device.type == "cpu", name
        assert mine.dtype == array.dtype, name
        if array.dtype == torch.uint8:  # a rounding may fall on the other side of a half, and Adam makes much of it
            assert float((mine.float() - array.float()).abs().mean()) <= 0.05 + 200 * rtol, name
            continue
        assert mine.shape == array.shape and torch.equal(mine.isnan(), array.isnan()), name
        mine, array = mine.double().nan_to_num(), array.double().nan_to_num()
        far = (mine - array).abs() > rtol * array.abs().max()
        assert int(far.sum()) <= flips * far.numel(), f"{name}: {int(far.sum())} of {far.numel()} numbers differ"
    _assert_facts(found.facts, expected.facts, rtol, "facts")


def _assert_facts(found: Any, expected: Any, rtol: float, where: str) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            _assert_facts(found[key], value, rtol, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for place, (mine, value) in enumerate(zip(found, expected, strict=True)):
            _assert_facts(mine, value, rtol, f"{where}[{place}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rtol, abs=rtol), where
    else:
        assert found == expected, where
