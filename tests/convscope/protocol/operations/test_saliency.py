"""saliency's requests: targets, defaults, refusals and pictures."""

from __future__ import annotations

from typing import Any

import pytest

from convscope.protocol.operations.saliency import OPERATION, SaliencyRequest
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import UnitTarget
from tests.convscope.protocol.operations.test_deconv import card


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


def test_one_picture_for_each_image() -> None:
    image = {"target": 3, "target_name": "tiger cat, tabby", "maximum": 1.0, "transform": {}}
    pictures = OPERATION.pictures({"model": "m", "method": "gradient"}, {"images": [image, image]}, {})
    assert [one.name for one in pictures] == ["attribution/0", "attribution/1"]
    assert pictures[0].heading == "m  gradient  class 3 (tiger cat)"
    assert pictures[0].views[0] == "picture"
