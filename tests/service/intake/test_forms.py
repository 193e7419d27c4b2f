"""Forms: for every operation, what a form says is what the same JSON says."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from convscope.protocol.operations import operations
from convscope.protocol.operations.feature_maps import OPERATION as FEATURE_MAPS
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import CommonRequest, StrictModel, Target
from service.intake.forms import read_fields, read_json, validate


class Goal(StrictModel):
    layer: str
    weight: float = 1.0


class WideRequest(CommonRequest):
    """One property of every kind that operations use."""

    count: int | None = None
    rate: float = 0.5
    flag: bool = False
    mode: Literal["a", "b"] = "a"
    kind: Literal["only"] | None = None
    numbers: list[int] = Field(default_factory=list)
    size: tuple[int, int] | None = None
    one_or_two: int | tuple[int, int] | None = None
    words: list[str] = Field(default_factory=list)
    target: Target | None = None
    targets: list[Target] = Field(default_factory=list)
    goal: Goal | list[Goal] | None = None
    weights: dict[str, float] = Field(default_factory=dict)


class Wide(type(FEATURE_MAPS)):  # type: ignore[misc]
    """An operation with that request."""

    name = "wide"
    request = WideRequest


def parsed(*fields: tuple[str, str]) -> BaseModel:
    return validate(Wide(), read_fields(Wide(), fields))


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ([("count", "3")], "count", 3),
        ([("rate", "0.25")], "rate", 0.25),
        ([("rate", "1e-3")], "rate", 0.001),
        ([("flag", "true")], "flag", True),
        ([("flag", "False")], "flag", False),
        ([("mode", "b")], "mode", "b"),
        ([("kind", "only")], "kind", "only"),
        ([("numbers", "1,2, 3")], "numbers", [1, 2, 3]),
        ([("numbers", "1"), ("numbers", "2,3")], "numbers", [1, 2, 3]),
        ([("numbers", "[1, 2]")], "numbers", [1, 2]),
        ([("numbers", "7")], "numbers", [7]),
        ([("size", "3,4")], "size", (3, 4)),
        ([("one_or_two", "3")], "one_or_two", 3),
        ([("one_or_two", "3,4")], "one_or_two", (3, 4)),
        ([("words", "a,b")], "words", ["a", "b"]),
        ([("words", "one")], "words", ["one"]),
        ([("words", '["a, b"]')], "words", ["a, b"]),
        ([("target", "281")], "target", "281"),
        ([("target", "predicted")], "target", "predicted"),
        ([("target", "tabby, tabby cat")], "target", "tabby, tabby cat"),
        ([("targets", "281,predicted")], "targets", ["281", "predicted"]),
        ([("weights", '{"a": 1}')], "weights", {"a": 1.0}),
        ([("labels", '{"a": "b"}')], "labels", {"a": "b"}),
        ([("model", "123")], "model", "123"),
    ],
)
def test_text_becomes_what_the_schema_says(fields: list[tuple[str, str]], name: str, value: Any) -> None:
    assert getattr(parsed(*fields), name) == value


def test_objects() -> None:
    assert parsed(("target", '{"layer": "l", "channel": 3}')).model_dump()["target"]["channel"] == 3
    assert parsed(("goal", '{"layer": "l"}')).model_dump()["goal"] == {"layer": "l", "weight": 1.0}
    two = parsed(("goal", '{"layer": "l"}'), ("goal", '{"layer": "m", "weight": 2}')).model_dump()["goal"]
    assert [each["layer"] for each in two] == ["l", "m"]
    assert len(parsed(("goal", '[{"layer": "l"}, {"layer": "m"}]')).model_dump()["goal"]) == 2


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ([("count", "3.5")], "/count"),
        ([("count", "nan")], "/count"),
        ([("rate", "inf")], "/rate"),
        ([("flag", "perhaps")], "/flag"),
        ([("numbers", "1,x")], "/numbers/1"),
        ([("numbers", "[1,")], "/numbers"),
        ([("size", "1,2,3")], "/size"),
        ([("weights", "a=1")], "/weights"),
        ([("weights", '{"a": NaN}')], "/weights"),
        ([("goal", '{"leyer": "l"}')], "/goal/leyer"),
        ([("mode", "a"), ("mode", "b")], "/mode"),
        ([("unknown", "1")], "/unknown"),
        ([("a/b~c", "1")], "/a~1b~0c"),
        ([("weights", "[" * 5000)], "/weights"),
    ],
)
def test_errors_say_where(fields: list[tuple[str, str]], place: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parsed(*fields)
    assert caught.value.name == "invalid-request"
    assert place in [error.pointer for error in caught.value.errors], caught.value.errors


def test_the_request_part_must_be_an_object_of_its_own() -> None:
    with pytest.raises(ProblemError, match="malformed-body"):
        read_fields(Wide(), [("request", "[]")])
    with pytest.raises(ProblemError, match="more than once"):
        read_fields(Wide(), [("request", "{}"), ("request", "{}")])
    with pytest.raises(ProblemError, match="both"):
        read_fields(Wide(), [("request", '{"count": 1}'), ("count", "2")])
    assert read_fields(Wide(), [("count", "2")], b'{"rate": 1}') == {"rate": 1, "count": 2}


@pytest.mark.parametrize("name", sorted(operations()))
def test_every_default_survives_a_form(name: str) -> None:
    """A default of any operation, sent as a form's text, means the same as where it is left out."""
    operation = operations()[name]
    base: dict[str, Any] = {"image": {"id": "x"}} if "image" in operation.request.model_fields else {}
    base |= {"other_model": "digits"} if name == "compare" else {}
    sent = []
    for field, described in operation.request.model_json_schema()["properties"].items():
        default = described.get("default")
        if default is None or default in ([], {}) or field in base:
            continue
        sent.append((field, default if isinstance(default, str) else json.dumps(default)))
    try:
        plain = validate(operation, dict(base))
    except ProblemError:
        pytest.fail(f"{name} needs more than an image") if base else None
        return
    assert validate(operation, {**base, **read_fields(operation, sent)}) == plain


@given(st.binary(max_size=200))
def test_json_of_any_bytes_is_an_object_or_a_problem(data: bytes) -> None:
    try:
        assert isinstance(read_json(data), dict)
    except ProblemError as error:
        assert error.name == "malformed-body"


@given(st.lists(st.tuples(st.sampled_from([*WideRequest.model_fields, "x"]), st.text(max_size=30)), max_size=6))
def test_any_fields_are_a_request_or_a_problem(fields: list[tuple[str, str]]) -> None:
    try:
        parsed(*fields)
    except ProblemError as error:
        assert error.name in ("invalid-request", "malformed-body")
