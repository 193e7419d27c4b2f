"""Classes as targets: other sides, regions, masks, and networks whose answer nobody can read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from convscope.protocol.cards import ModelCard, OutputsCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.targets import image_target_text, region_text, resolve_target
from convscope.protocol.problems import ProblemError
from service.intake.forms import read_fields, validate
from tests.service.support import toy_card

IMAGE = {"id": "img-" + 32 * "0"}


def card(form: str = "scores", outputs: str = "sigmoid", count: int = 2, problem: str | None = None) -> ModelCard:
    """The toy with such an answer."""
    answer = OutputsCard.model_validate(
        {"form": form, "outputs": outputs, "count": count, "known": "declared", "problem": problem}
    )
    return toy_card().model_copy(update={"outputs": answer})


def resolve(operation: str, of: ModelCard, **body: Any) -> dict[str, Any]:
    """The resolved request as JSON."""
    known = operations()[operation]
    body = body if operation == "maximize" else {"image": IMAGE} | body
    plain: dict[str, Any] = known.resolve(known.request.model_validate(body), of).model_dump(mode="json")
    return plain


@pytest.mark.parametrize("target", ["-0", "-1", -1])
def test_the_other_side_of_outputs_that_stand_alone(target: int | str) -> None:
    assert resolve_target(target, card()) == f"-{abs(int(target))}"
    assert resolve_target(target, card(outputs="value")) == f"-{abs(int(target))}"
    with pytest.raises(ProblemError, match="share one softmax"):
        resolve_target(target, card(outputs="softmax"))
    with pytest.raises(ProblemError, match="has 2 classes; /target asks for the other side of number 2"):
        resolve_target("-2", card())


def test_the_sign_of_zero_comes_through_a_form() -> None:
    """`-0` is no number's word, though every parser reads it as 0."""
    saliency = operations()["saliency"]
    fields = [("target", "-0"), ("image", IMAGE["id"])]
    assert validate(saliency, read_fields(saliency, fields)).target == "-0"  # type: ignore[attr-defined]
    cam = operations()["cam"]
    asked = validate(cam, read_fields(cam, [("targets", "-0,1,-1"), ("image", IMAGE["id"])]))
    assert cam.resolve(asked, card()).targets == ["-0", 1, "-1"]  # type: ignore[attr-defined]


def test_a_class_of_that_name_comes_first() -> None:
    assert resolve_target("-0", card().model_copy(update={"classes": ("0", "-0")})) == 1


@pytest.mark.parametrize(
    ("wish", "resolved"),
    [
        ({}, "all"), ({"region": "predicted"}, "predicted"), ({"region": [1, 2]}, [1, 2]),
        ({"region": [0, 1, 8, 8]}, [0, 1, 8, 8]), ({"mask": IMAGE}, "mask"),
        ({"mask": IMAGE, "region": "mask"}, "mask"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("operation", ["saliency", "cam", "occlusion"])
def test_regions_of_answers_in_maps(operation: str, wish: dict[str, Any], resolved: Any) -> None:
    assert resolve(operation, card("planes"), **wish)["region"] == resolved


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"region": [8, 0]}, "outside the input of 8×8"), ({"region": [0, 0, 9, 8]}, "outside the input of 8×8"),
        ({"region": "mask"}, "needs an image"), ({"region": "all", "mask": IMAGE}, "goes with region=mask"),
    ],
)  # fmt: skip
def test_regions_that_are_none(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=words) as refused:
        resolve("cam", card("planes"), **wish)
    assert refused.value.errors[0].pointer == "/region"


@pytest.mark.parametrize("region", [[1], [1, 2, 3], [4, 4, 4, 8], "everywhere", [-1, 2]])
def test_regions_of_no_shape(region: Any) -> None:
    with pytest.raises(ValidationError):
        resolve("saliency", card("planes"), region=region)


@pytest.mark.parametrize("operation", ["classify", "saliency", "cam", "occlusion"])
def test_answers_in_numbers_have_no_regions(operation: str) -> None:
    assert resolve(operation, card())["region"] is None
    with pytest.raises(ProblemError, match="has no regions"):
        resolve(operation, card(), region="predicted")


def test_a_region_is_of_a_class() -> None:
    unit = {"layer": "conv", "channel": 1}
    with pytest.raises(ProblemError, match="the target is a unit"):
        resolve("saliency", card("planes"), target=unit, region="predicted")
    assert resolve("saliency", card("planes"), target=unit)["region"] is None
    with pytest.raises(ProblemError, match="classify tells what is predicted where"):
        resolve("classify", card("planes"), region="predicted")


def test_regions_of_objectives() -> None:
    found = resolve("maximize", card("planes"), objective=[{"class": "dog", "region": [1, 2]}, {"class": "-0"}])
    assert found["objective"] == [{"class": 1, "region": [1, 2]}, {"class": "-0", "region": "all"}]
    masked = resolve("maximize", card("planes"), objective={"class": 0}, mask=IMAGE)
    assert masked["objective"] == [{"class": 0, "region": "mask"}]
    assert resolve("maximize", card(), objective={"class": 0})["objective"] == [{"class": 0}]
    with pytest.raises(ProblemError, match="no class is maximized"):
        resolve("maximize", card("planes"), objective={"layer": "conv", "channel": 0}, mask=IMAGE)


@pytest.mark.parametrize(
    ("operation", "wish"),
    [
        ("classify", {}), ("cam", {}), ("occlusion", {}), ("saliency", {}), ("saliency", {"target": 1}),
        ("maximize", {"objective": {"class": 0}}),
    ],
)  # fmt: skip
def test_an_unreadable_answer_is_refused_by_all_alike(operation: str, wish: dict[str, Any]) -> None:
    unreadable = card("none", "value", 0, "it gives a list of 3")
    with pytest.raises(ProblemError, match="has no answer that can be read: it gives a list of 3") as refused:
        resolve(operation, unreadable, **wish)
    assert refused.value.name == "not-applicable"


def test_what_needs_no_answer_goes_on() -> None:
    unreadable = card("none", "value", 0, "it gives a list of 3")
    assert resolve("saliency", unreadable, target={"layer": "conv", "channel": 1})["target"]["layer"] == "conv"
    assert resolve("feature-maps", unreadable)["layers"] == ["conv"]
    assert resolve("maximize", unreadable, objective={"layer": "conv", "channel": 0})["objective"]


def test_classify_draws_answers_in_maps_only() -> None:
    classify = operations()["classify"]
    assert classify.draws(card("planes")) and not classify.draws(card())
    assert operations()["cam"].draws(card())


def test_texts_of_headings() -> None:
    assert image_target_text({"target": 0, "target_name": "not defect", "other_side": True}) == "class -0 (not defect)"
    assert image_target_text({"target": 1, "target_name": "dog"}) == "class 1 (dog)"
    assert [region_text(one) for one in (None, "all", "mask", "predicted", [1, 2], [0, 1, 5, 6])] == [
        "", "", " in the mask", " where it is predicted", " at (1, 2)", " in 0,1–5,6",
    ]  # fmt: skip
