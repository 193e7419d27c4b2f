"""Names that stand for each other, and images as plain ids: in JSON, in forms, and in a form's `request` part."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import ImagesRequest
from service.intake.forms import read_fields, validate
from service.intake.names import PAIRS, canonical, canonical_name
from tests.service.support import png_bytes, problem_of

IMAGE = "img-0123456789abcdef0123456789abcdef"


def asked(operation: str, **given: Any) -> Any:
    return validate(operations()[operation], {"image": IMAGE, **given})


def filled(operation: str, *fields: tuple[str, str], part: dict[str, Any] | None = None) -> Any:
    one = operations()[operation]
    given = read_fields(one, [("image", IMAGE), *fields], None if part is None else json.dumps(part).encode())
    return validate(one, given)


def test_singular_for_plural_in_json() -> None:
    request = asked("cam", method="layercam", target=281)
    assert (request.methods, request.targets) == (["layercam"], [281])
    assert asked("cam", target=[281, "tabby"]).targets == [281, "tabby"]
    assert asked("cam", target="top:3", method=["cam", "gradcam"]).targets == ["top:3"]


def test_plural_for_singular_in_json() -> None:
    request = asked("saliency", methods=["guided"], targets=[7])
    assert (request.method, request.target) == ("guided", 7)
    assert asked("saliency", targets="predicted").target == "predicted"
    assert asked("cam", layers=["a.b"]).layer == "a.b"
    unit = {"layer": "a", "channel": 3}
    assert asked("saliency", targets=[unit]).target.channel == 3


def test_in_forms() -> None:
    request = filled("cam", ("target", "281,tabby"), ("method", "cam"), ("method", "layercam"))
    assert (request.targets, request.methods) == ([281, "tabby"], ["cam", "layercam"])
    request = filled("saliency", ("methods", "guided"), ("targets", "281"))
    assert (request.method, str(request.target)) == ("guided", "281")
    assert filled("cam", ("layers", "a.b"), part={"target": 5}).targets == [5]


def test_an_operation_with_both_names_has_two_properties() -> None:
    for name, operation in operations().items():
        for pair in PAIRS:
            if set(pair) <= set(operation.request.model_fields):
                assert [canonical_name(operation.request, one) for one in pair] == list(pair), name


def test_every_name_of_every_operation_is_known_in_both_forms() -> None:
    for name, operation in operations().items():
        fields = operation.request.model_fields
        for pair in PAIRS:
            for one, other in (pair, pair[::-1]):
                if one in fields and other not in fields:
                    assert canonical_name(operation.request, other) == one, name
                elif one not in fields and other not in fields:
                    assert canonical_name(operation.request, one) == one, name


@pytest.mark.parametrize(
    ("given", "pointer", "words"),
    [
        ({"target": 1, "targets": [2]}, "/target", "another name of `targets`"),
        ({"methods": ["cam"], "method": "gradcam"}, "/method", "another name of `methods`"),
        ({"layers": ["a", "b"]}, "/layers", "takes one value here, not 2"),
        ({"layers": []}, "/layers", "takes one value here, not 0"),
    ],
)
def test_what_has_no_one_meaning_is_said(given: dict[str, Any], pointer: str, words: str) -> None:
    with pytest.raises(ProblemError) as caught:
        asked("cam", **given)
    (error,) = caught.value.errors
    assert (caught.value.name, error.pointer) == ("invalid-request", pointer)
    assert words in error.detail


def test_both_names_in_a_form_are_refused() -> None:
    with pytest.raises(ProblemError) as caught:
        filled("cam", ("target", "1"), ("targets", "2"))
    assert [(error.pointer, error.detail) for error in caught.value.errors] == [
        ("/target", "given as `targets` as well")
    ]
    with pytest.raises(ProblemError) as caught:
        filled("cam", ("target", "1"), part={"targets": [2]})
    assert caught.value.errors[0].detail == "given both in the part `request` and as a field"


def test_what_stands_for_nothing_stays_and_is_refused() -> None:
    request = operations()["classify"].request
    assert canonical(request, {"target": 1}) == {"target": 1}
    with pytest.raises(ProblemError) as caught:
        asked("classify", target=1)
    assert caught.value.errors[0].pointer == "/target"


def test_an_image_is_its_id_as_text_in_json(client: httpx2.Client) -> None:
    made = [client.post("/v1/images", content=png_bytes(value=value)).json()["id"] for value in (81, 82)]
    for given in ({"image": made[0]}, {"images": [made[0]]}, {"image": {"id": made[0]}}):
        answer = client.post("/v1/feature-maps", json={**given, "layer": "conv"})
        assert answer.status_code == 200, answer.text
        assert [image["id"] for image in answer.json()["request"]["images"]] == made[:1]
    several = client.post("/v1/feature-maps", json={"images": [made[1], {"id": made[0]}], "layer": "conv"})
    assert [image["id"] for image in several.json()["request"]["images"]] == made[::-1]
    problem_of(client.post("/v1/feature-maps", json={"image": IMAGE}), 404, "not-found")


@pytest.mark.parametrize("wrong", ["cat.jpg", "", "iVBORw0KGgo", 7, ["img-1"]])
def test_other_text_for_an_image_is_refused_with_what_it_may_be(client: httpx2.Client, wrong: Any) -> None:
    problem = problem_of(client.post("/v1/feature-maps", json={"image": wrong}), 422, "invalid-request")
    (error,) = problem["errors"]
    assert error["pointer"] == "/image"
    assert "an id `img-…`, or an object with `id` or `base64`" in error["detail"]


def test_the_schema_says_both_forms_of_an_image() -> None:
    image = ImagesRequest.model_json_schema()["properties"]["image"]["anyOf"]
    assert [one.get("type", one.get("$ref")) for one in image] == ["string", "#/$defs/ImageRef", "null"]
