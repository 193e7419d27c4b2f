"""evaluate's requests: defaults, refusals and cost, on real layer tables."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from convscope.protocol.operations import cam, saliency
from convscope.protocol.operations.evaluate import OPERATION, EvaluateRequest, Method
from tests.convscope.protocol.operations.resolving import refused, resolved
from tests.convscope.protocol.operations.test_top_activations import card

SET: dict[str, Any] = {"image_set": "set-0"}
ONE: dict[str, Any] = {"images": ["img-0"]}


def test_every_method_of_saliency_and_cam_can_be_judged() -> None:
    assert get_args(Method) == (*get_args(saliency.Method), *get_args(cam.Method))


def test_defaults() -> None:
    lite = card("efficientnet_lite0")
    found = resolved("evaluate", lite, SET)
    assert (found["methods"], found["layer"], found["steps"]) == (["gradcam"], "bn2", 20)
    assert found["metrics"] == ["deletion", "insertion", "confidence", "road"]
    located = resolved("evaluate", lite, {**ONE, "boxes": [0, 0, 10, 10], "methods": "gradient,gradient"})
    assert located["metrics"][-1] == "localisation" and located["boxes"] == [[0, 0, 10, 10]]
    assert (located["methods"], located["layer"]) == (["gradient"], None)
    assert resolved("evaluate", lite, {**ONE, "boxes": "1,2,3,4"})["boxes"] == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({**ONE, "metrics": ["localisation"]}, "needs boxes or a mask"),
        ({**ONE, "boxes": [[0, 0, 1, 1], [0, 0, 1, 1]]}, "2 boxes for 1 images"),
        ({**ONE, "boxes": [[5, 0, 5, 1]]}, "not empty"),
        ({**SET, "mask": {"id": "img-1"}}, "a mask is of one image"),
        ({**ONE, "mask": {"id": "img-1"}, "boxes": [[0, 0, 1, 1]]}, "either boxes or a mask"),
        ({**ONE, "steps": 1}, "greater than or equal to 2"),
    ],
)
def test_what_makes_no_sense_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EvaluateRequest.model_validate(wrong)


def test_rules_that_are_not_defined_are_refused_unless_they_are_asked_for() -> None:
    bent = card("efficientnet_b0-random")
    assert refused("evaluate", bent, {**ONE, "methods": ["guided"]}).name == "not-applicable"
    assert resolved("evaluate", bent, {**ONE, "methods": ["guided"], "nonstandard_gate": True})["methods"] == ["guided"]


def test_cost_grows_with_what_is_asked() -> None:
    lite = card("efficientnet_lite0")

    def forwards(**asked: Any) -> float:
        request = OPERATION.resolve(EvaluateRequest.model_validate({**ONE, **asked}), lite)
        return OPERATION.cost(request, lite, 1).forwards

    least = forwards(metrics=["confidence"])
    assert forwards(metrics=["deletion"]) > least
    assert forwards(metrics=["deletion"], steps=100) > 4 * forwards(metrics=["deletion"], steps=20)
    assert forwards(metrics=["sensitivity"], methods=["scorecam"]) > 10 * 1280
