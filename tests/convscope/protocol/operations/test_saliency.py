"""saliency's requests: targets, defaults, refusals and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convscope.protocol.operations.saliency import OPERATION, SaliencyRequest
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import UnitTarget
from convscope.render import RenderOptions, render
from convscope.render.options import plan
from tests.convscope.protocol.operations.test_deconv import card
from tests.convscope.render.helpers import Png


def resolve(model: str, **wanted: Any) -> SaliencyRequest:
    """A request on an image, with its defaults filled in."""
    return OPERATION.resolve(SaliencyRequest.model_validate({"image": {"id": "x"}, **wanted}), card(model))


def test_targets_become_indices_or_checked_units() -> None:
    assert resolve("digits").target == "predicted"
    assert resolve("digits", target=7).target == 7
    assert resolve("digits", target="7").target == 7
    assert resolve("efficientnet_lite0", target="espresso").target == 967
    assert resolve("efficientnet_lite0", target="ESPRESSO").target == 967
    unit = resolve("vgg16-random", target={"layer": "conv5_1", "channel": 3, "y": 1, "x": 2}).target
    assert unit == UnitTarget(layer="features.24", channel=3, y=1, x=2)


@pytest.mark.parametrize(
    ("wanted", "problem", "words"),
    [
        ({"target": 10}, "invalid-request", "0 to 9"),
        ({"target": -1}, "invalid-request", "0 to 9"),
        ({"target": "eleven"}, "invalid-request", "no class"),
        ({"target": {"layer": "conv9", "channel": 0}}, "unknown-layer", "conv9"),
        ({"target": {"layer": "conv5", "channel": 32}}, "channel-out-of-range", "0 to 31"),
        ({"target": {"layer": "conv5", "channel": 0, "y": 8, "x": 0}}, "invalid-request", "8×8"),
        ({"target": {"layer": "conv5", "channel": 0, "y": 1}}, "invalid-request", "both"),
    ],
)
def test_refusals(wanted: Any, problem: str, words: str) -> None:
    with pytest.raises(ProblemError, match=words) as refusal:
        resolve("digits", **wanted)
    assert refusal.value.name == problem


def test_guided_needs_rectifications_with_a_rule() -> None:
    assert resolve("digits", method="guided").method == "guided"
    with pytest.raises(ProblemError) as refusal:
        resolve("efficientnet_b0-random", method="guided")
    assert refusal.value.name == "not-applicable"
    assert resolve("efficientnet_b0-random", method="guided", nonstandard_gate=True).nonstandard_gate
    assert resolve("efficientnet_b0-random", method="integrated-gradients").method == "integrated-gradients"


def test_a_variance_needs_two_samples() -> None:
    with pytest.raises(ValueError, match="samples must be at least 2"):
        resolve("digits", method="vargrad", samples=1)
    assert resolve("digits", method="vargrad", samples=2).samples == 2
    assert resolve("digits", method="smoothgrad", samples=1).samples == 1


def test_steps_and_cost() -> None:
    found = resolve("digits", method="integrated-gradients", steps=500)
    assert (found.steps, found.max_steps) == (500, 500)
    with pytest.raises(ValueError, match="max_steps"):
        SaliencyRequest.model_validate({"image": {"id": "x"}, "steps": 50, "max_steps": 10})
    assert OPERATION.cost(found, card("digits"), 2).forwards == 2 * (1 + 3 * 500)
    assert OPERATION.cost(resolve("digits"), card("digits"), 1).result_bytes == 12 * 32 * 32


@pytest.mark.parametrize(
    ("wanted", "points"),
    [
        ({}, 50 + 100 + 200 + 400),
        ({"steps": 1, "max_steps": 9}, 1 + 2 + 4 + 8 + 9),
        ({"steps": 300, "max_steps": 300}, 300),
        ({"steps": 500}, 500),
    ],
)
def test_the_cost_counts_the_tries_that_may_be_needed(wanted: dict[str, int], points: int) -> None:
    found = resolve("digits", method="integrated-gradients", **wanted)
    assert OPERATION.cost(found, card("digits"), 2).forwards == 2 * (1 + 3 * points)


@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "vargrad"])
def test_the_picture_of_the_papers(method: str) -> None:
    image = {"target": 3, "target_name": "tabby", "maximum": 1.0, "transform": {}}
    (picture,) = OPERATION.pictures({"model": "m", "method": method}, {"images": [image]}, {})
    values = np.abs(np.random.RandomState(0).randn(1, 3, 8, 8)) if method == "vargrad" else None
    signed = np.random.RandomState(0).randn(1, 3, 8, 8) if values is None else values
    signed[0, 1, 2, 5] = 9.0
    page = Png.of(render(picture, {"attribution": signed}.__getitem__, None, RenderOptions(scale=4)))
    magnitudes = [[max(abs(signed[0, c, y, x]) for c in range(3)) for x in range(8)] for y in range(8)]
    largest = max(max(row) for row in magnitudes)  # of 64 values half a percent is none
    wanted = [[int(255 * value / largest + 0.5) for value in row] for row in magnitudes]
    assert page.body(32, 32)[::4, ::4, 0].tolist() == wanted
    assert (page.scale["vmin"], page.scale["colormap"]) == (0.0, "gray")
    assert plan(picture, RenderOptions(view="overlay")).colormap == "inferno"
    assert plan(picture, RenderOptions(view="tiles")).normalize == ("layer" if method == "vargrad" else "symmetric")


@pytest.mark.parametrize("method", ["guided", "integrated-gradients", "gradient-x-input"])
def test_what_adds_up_or_has_a_sign_is_shown_about_zero(method: str) -> None:
    image = {"target": 3, "target_name": "tabby", "maximum": 1.0, "transform": {}}
    (picture,) = OPERATION.pictures({"model": "m", "method": method}, {"images": [image]}, {})
    settled = plan(picture, RenderOptions())
    assert (settled.normalize, settled.colormap, settled.signed) == ("symmetric", "RdBu_r", True)


def test_one_picture_for_each_image() -> None:
    image = {"target": 3, "target_name": "tiger cat, tabby", "maximum": 1.0, "transform": {}}
    pictures = OPERATION.pictures({"model": "m", "method": "gradient"}, {"images": [image, image]}, {})
    assert [one.name for one in pictures] == ["attribution/0", "attribution/1"]
    assert pictures[0].heading == "m  gradient  class 3 (tiger cat)  image 0"
    assert pictures[0].views[0] == "picture"
