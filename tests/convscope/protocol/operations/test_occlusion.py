"""occlusion's requests: the default square, units, refusals and where its maps are drawn."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from convscope.protocol.operations.occlusion import OPERATION, OcclusionRequest
from convscope.protocol.problems import ProblemError
from tests.convscope.protocol.operations.test_deconv import card


def resolve(model: str, **wanted: Any) -> OcclusionRequest:
    """A request on an image, with its defaults filled in."""
    return OPERATION.resolve(OcclusionRequest.model_validate({"image": {"id": "x"}, **wanted}), card(model))


def test_the_default_square_is_a_quarter_in_steps_of_a_sixteenth() -> None:
    found = resolve("vgg16-random")
    assert (found.window, found.stride, found.fill, found.target) == ((56, 56), (14, 14), "mean", "predicted")
    assert (found.unit.layer, found.unit.channel) == ("features", None)
    assert OPERATION.cost(found, card("vgg16-random"), 1).forwards == 1 + 13 * 13
    wide = resolve("vgg16-random", preprocess={"size": [112, 224]})
    assert (wide.window, wide.stride) == ((28, 56), (7, 14))


@pytest.mark.parametrize(
    ("given", "sides"), [(8, (8, 8)), ("8", (8, 8)), ("8,4", (8, 4)), ([8, 4], (8, 4)), (["9"], (9, 9))]
)
def test_sides_as_json_and_as_forms(given: Any, sides: tuple[int, int]) -> None:
    assert resolve("digits", window=given).window == sides


@pytest.mark.parametrize(
    ("given", "fill"), [("grey", "grey"), ([1, 2, 3], (1, 2, 3)), ("1,2,3", (1, 2, 3)), (["9,8,7"], (9, 8, 7))]
)
def test_fill_as_json_and_as_forms(given: Any, fill: Any) -> None:
    assert resolve("digits", fill=given).fill == fill


def test_a_unit_as_target_is_watched() -> None:
    found = resolve("digits", target={"layer": "conv5", "channel": 3})
    assert (found.target, found.unit.layer, found.unit.channel) == ("predicted", "features.10", 3)
    with pytest.raises(ProblemError, match="not both"):
        resolve("digits", target={"layer": "conv5", "channel": 3}, unit={"layer": "conv4"})


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"unit": {"layer": "nowhere"}}, "unknown-layer"),
        ({"unit": {"layer": "conv5", "channel": 32}}, "channel-out-of-range"),
        ({"unit": {"layer": "conv5", "y": 1, "x": 1}}, "invalid-request"),
        ({"unit": {"layer": "conv5", "channel": 1, "y": 9, "x": 1}}, "invalid-request"),
        ({"target": 10}, "invalid-request"),
        ({"window": 1024}, "invalid-request"),
        ({"window": [32, 33]}, "invalid-request"),
    ],
)
def test_refusals(wanted: Any, problem: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        resolve("digits", **wanted)
    assert refusal.value.name == problem


def test_a_window_larger_than_the_input_is_told_what_fits() -> None:
    with pytest.raises(ProblemError, match="up to 32,32"):
        resolve("digits", window=[33, 8])
    assert resolve("digits", window=32).window == (32, 32)
    assert resolve("vgg16-random", window=256, preprocess={"size": [256, 256]}).window == (256, 256)


@pytest.mark.parametrize(
    "wanted", [{"window": 0}, {"fill": "pink"}, {"fill": [1, 2]}, {"fill": [0, 0, 256]}, {"stride": "a"}]
)
def test_schema_refuses(wanted: Any) -> None:
    with pytest.raises(ValidationError):
        OcclusionRequest.model_validate({"image": {"id": "x"}, **wanted})


def test_maps_are_drawn_where_the_middles_of_the_squares_were() -> None:
    """Window 8, stride 2, 13 places: cells of 2 px from 3 to 29 of 32 px, here doubled in the upload."""
    facts = {
        "target": 7, "target_name": None,
        "unit": {"layer": "l", "channel": 1, "y": None, "x": None},
        "window": [8, 8], "stride": [2, 2], "grid": [13, 13],
        "baseline": {"probability": 0.7, "value": None, "activation": 3.5, "top_class": 7},
        "top_classes": {"7": None, "9": "nine, a digit"},
        "transform": {"upload_size": [64, 64], "input_size": [32, 32], "scale": [2.0, 2.0], "offset": [0.0, 0.0]},
    }  # fmt: skip
    pictures = OPERATION.pictures({"model": "digits"}, facts, {})
    assert [one.name for one in pictures] == ["probability", "activation", "top_class"]
    assert pictures[0].transform == {
        "upload_size": [64, 64], "input_size": [26, 26], "scale": [2.0, 2.0], "offset": [6.0, 6.0],
    }  # fmt: skip
    assert pictures[0].views[0] == "overlay"
    assert pictures[0].crop == facts["transform"], "the line is around what the network saw"
    assert [(one.normalize, one.centre) for one in pictures] == [("symmetric", 0.7), ("symmetric", 3.5), ("map", None)]
    assert [one.categories for one in pictures] == [None, None, {7: "class 7", 9: "nine"}]
