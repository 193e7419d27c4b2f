"""What a request says of the input's numbers reaches every method that makes inputs of colours or the reverse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.workers.fakes import FakeNetwork, image, outcome
from tests.workers.methods import ascents
from workers.contract import Row, params
from workers.methods import deconv, occlusion, saliency

SIZE = (16, 16)
BYTES = {"size": None, "crop": None, "resize_mode": None, "antialias": None, "range": "byte", "mean": None, "std": None}
MEAN, STD = (0.2, 0.5, 0.6), (0.3, 0.25, 0.5)


def network(mean: Any = MEAN, std: Any = STD) -> FakeNetwork:
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 64, 5)
    )
    with torch.no_grad():
        module[0].weight.div_(64)  # bytes are large
    return FakeNetwork(module, SIZE, mean=mean, std=std)


def raw() -> FakeNetwork:
    """The same network as one whose own input is 0 to 255."""
    return network((0.0,) * 3, (1 / 255,) * 3)


def row(**wanted: Any) -> Row:
    return Row(params({"precision": "exact", "seed": 0, "preprocess": BYTES, **wanted}), [image(SIZE)])


def test_patches_of_deconv_are_the_uploads_pixels() -> None:
    asked = row(
        layers=["0"], channels=[1], by="max", seed_unit="channel", rule="deconvnet", switches="sum",
        nonstandard_gate=False,
    )  # fmt: skip
    found = outcome(deconv.METHOD, network(), asked)
    assert found.arrays["patch/0"][0].equal(asked.images[0])
    own = Row(SimpleNamespace(**{**vars(asked.request), "preprocess": None}), asked.images)
    torch.testing.assert_close(found.arrays["projection/0"], outcome(deconv.METHOD, raw(), own).arrays["projection/0"])


def test_squares_of_occlusion_have_the_colour_they_should() -> None:
    for fill, colour in (("grey", [127.5] * 3), ("mean", [255 * mean for mean in MEAN]), ([255, 0, 0], [255, 0, 0])):
        asked = row(
            window=[8, 8], stride=[8, 8], fill=fill, target=1, incremental=False,
            unit=params({"layer": "0", "channel": 0, "y": None, "x": None}),
        )  # fmt: skip
        found = outcome(occlusion.METHOD, network(), asked).arrays["probability"][0]
        pixels = asked.images[0].permute(2, 0, 1).float()
        for down in (0, 1):
            for right in (0, 1):
                hidden = pixels.clone()
                square = (slice(8 * down, 8 * down + 8), slice(8 * right, 8 * right + 8))
                hidden[:, square[0], square[1]] = torch.tensor(colour).view(3, 1, 1)
                with torch.no_grad():
                    expected = network().module(hidden[None]).softmax(1)[0, 1]
                torch.testing.assert_close(found[down, right], expected, rtol=1e-4, atol=1e-6)


def test_integrals_begin_at_black_or_at_the_mean_colour() -> None:
    for baseline, colour in (("black", [0.0] * 3), ("mean", [255 * mean for mean in MEAN])):
        asked = row(
            method="integrated-gradients", target=2, baseline=baseline, steps=8, max_steps=8, tolerance=1.0,
            samples=1, noise=0.1, nonstandard_gate=False,
        )  # fmt: skip
        facts = outcome(saliency.METHOD, network(), asked).facts["images"][0]["completeness"]
        start = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, *SIZE)
        with torch.no_grad():
            expected = float(network().module(start)[0, 2])
        torch.testing.assert_close(facts["baseline_logit"], expected, rtol=1e-4, atol=1e-5)


def test_an_ascent_climbs_what_a_network_that_is_fed_bytes_sees() -> None:
    asked = ascents.request("pixel", size=list(SIZE), objective=[ascents.channel(0, "0")], steps=3)
    ours = ascents.outcome(network(), {**asked, "preprocess": BYTES})
    theirs = ascents.outcome(raw(), asked)
    torch.testing.assert_close(ours.arrays["loss"], theirs.arrays["loss"], rtol=1e-6, atol=0)
    assert ours.arrays["images"].equal(theirs.arrays["images"])
    assert float(ours.arrays["loss"][0, -1]) > float(ours.arrays["loss"][0, 0])
