"""Small bodies with very many values or mistakes: each is one linear pass, and what is said of them stays short."""

from __future__ import annotations

import json

import httpx2
import pytest

from service.http.problems import field_errors
from service.intake.forms import MOST_VALUES
from tests.service.support import problem_of

KERNELS = "/v1/kernels"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        ({"filters": [None] * 50_000}, "/filters/0", "valid integer"),
        ({f"name-{number}": number for number in range(200)}, "/name-0", "no property 'name-0'"),
        ({"preprocess": {f"sise-{number}": number for number in range(200)}}, "/preprocess/sise-0", "near: size"),
    ],
)
def test_of_many_mistakes_the_first_are_named(
    client: httpx2.Client, body: dict[str, object], pointer: str, said: str
) -> None:
    """Comparing each with each would take minutes, and the client waits for a third of one."""
    errors = problem_of(client.post(KERNELS, json=body), 422, "invalid-request")["errors"]
    assert len(errors) == 32
    assert errors[0]["pointer"] == pointer and said in errors[0]["detail"]


def test_a_property_twice_among_many(client: httpx2.Client) -> None:
    names = [f"name-{number}" for number in range(200)]
    body = "{" + ",".join(f'"{name}":0' for name in [*names, names[-1]]) + "}"
    answer = client.post(KERNELS, content=body.encode(), headers=JSON)
    assert "'name-199' is given twice" in problem_of(answer, 400, "malformed-body")["detail"]


def test_too_many_values_are_refused_before_they_are_read(client: httpx2.Client) -> None:
    body = b'{"filters":[' + b"[]," * MOST_VALUES + b"1]}"
    answers = [
        client.post(KERNELS, content=body, headers=JSON),
        client.post(KERNELS, files=[("request", ("r.json", body, "application/json"))]),
        client.post(KERNELS, files=[("filters", (None, b"1," * (MOST_VALUES // 4)))] * 5),
    ]
    for answer in answers:
        assert problem_of(answer, 413, "body-too-large")["limit"] == MOST_VALUES


def test_very_long_names_are_cut(client: httpx2.Client) -> None:
    for body in ({"n" * 100_000: 1}, {"labels": {"n" * 100_000: 1}}):
        answer = client.post(KERNELS, json=body)
        problem_of(answer, 422, "invalid-request")
        assert len(answer.content) < 2000


def test_of_many_query_parameters_the_first_are_named(client: httpx2.Client) -> None:
    answer = client.get("/v1/jobs?" + "&".join(f"x{number}=" for number in range(1000)))
    assert len(problem_of(answer, 422, "invalid-request")["errors"]) == 32


def test_what_union_members_say_about_one_place_is_joined_although_others_were_first() -> None:
    def error(*loc: object) -> dict[str, object]:
        return {"loc": loc, "type": "greater_than", "msg": loc[-1]}

    data = {"many": list(range(100)), "last": 0}
    first = [error("many", number, "small") for number in range(31)]
    told = field_errors([*first, error("last", "this"), error("many", 40, "small"), error("last", "that")], data)
    assert len(told) == 32 and told[-1].pointer == "/last" and told[-1].detail == "this; or that"
    assert json.dumps([each.pointer for each in told[:2]]) == '["/many/0", "/many/1"]'
