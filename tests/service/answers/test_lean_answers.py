"""How much a JSON answer carries: `data` and `fields`, of whatever address answers with a job."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest

from convscope.protocol.operations import operations
from tests.service.support import png_bytes, problem_of

MAPS = "/v1/feature-maps"
ARRAY = "maps/conv"


def parts(value: int) -> list[Any]:
    return [("image", ("a.png", png_bytes(value=value), "image/png")), ("layer", (None, "conv"))]


@pytest.fixture
def bulky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feature maps as an array that few callers read in JSON."""
    monkeypatch.setattr(type(operations()["feature-maps"]), "bulky", frozenset({ARRAY}))


def answers(client: httpx2.Client, query: str) -> list[dict[str, Any]]:
    """The same job by each address that gives it."""
    first = client.post(f"{MAPS}?{query}", files=parts(31))
    assert first.status_code == 200, first.text
    job = first.json()
    again = [client.get(f"/v1/jobs/{job['id']}{more}?{query}") for more in ("", "/result")]
    assert [each.status_code for each in again] == [200, 200]
    return [job, *(each.json() for each in again)]


def test_without_a_word_small_arrays_have_their_numbers(client: httpx2.Client) -> None:
    for job in answers(client, ""):
        told = job["result"]["arrays"][ARRAY]
        assert np.array(told["data"]).shape == (1, 8, 6, 6)
        assert told["href"].endswith(f"/arrays/{ARRAY}")


def test_an_operation_may_leave_bulk_to_those_who_ask_for_it(client: httpx2.Client, bulky: None) -> None:
    for job in answers(client, ""):
        assert set(job["result"]["arrays"][ARRAY]) == {"shape", "dtype", "href"}
    for job in answers(client, "data=inline"):
        assert np.array(job["result"]["arrays"][ARRAY]["data"]).shape == (1, 8, 6, 6)


def test_addresses_alone(client: httpx2.Client) -> None:
    for job in answers(client, "data=href"):
        assert job["result"]["arrays"] == {
            ARRAY: {
                "shape": [1, 8, 6, 6],
                "dtype": "float32",
                "href": f"/v1/jobs/{job['id']}/arrays/{ARRAY}",
            }
        }
        assert job["result"]["pictures"] and job["request"]["layers"] == ["conv"]


def test_no_arrays(client: httpx2.Client) -> None:
    for job in answers(client, "data=none"):
        assert job["result"]["arrays"] == {}
        assert job["result"]["pictures"] and job["result"]["facts"]["layers"] and job["request"]


def test_facts_alone(client: httpx2.Client) -> None:
    for job in answers(client, "fields=facts"):
        assert (job["result"]["arrays"], job["result"]["pictures"], job["request"]) == ({}, [], {})
        assert job["result"]["facts"]["layers"][0]["layer"] == "conv"
        assert job["result"]["provenance"]["model"] == "toy"
        assert job["state"] == "succeeded" and job["links"]


def test_each_has_its_own_tag_and_its_own_address(client: httpx2.Client) -> None:
    job = client.post(MAPS, files=parts(31)).json()
    address = f"/v1/jobs/{job['id']}/result"
    queries = ("", "?data=inline", "?data=href", "?data=none", "?fields=facts", "?data=none&fields=facts")
    found = [client.get(address + query) for query in queries]
    tags = [each.headers["etag"] for each in found]
    assert len(set(tags)) == len(queries)
    assert [each.headers["content-location"] for each in found] == [address + query for query in queries]
    for query, tag in zip(queries, tags, strict=True):
        assert client.get(address + query, headers={"If-None-Match": tag}).status_code == 304
    assert client.get(address, headers={"If-None-Match": tags[1]}).status_code == 200
    # A long poll for another revision compares what the client has with what it asks for.
    begun = client.get(f"/v1/jobs/{job['id']}?data=none&wait=0.2", headers={"If-None-Match": tags[3]})
    assert begun.status_code == 304


@pytest.mark.parametrize("query", ["data=all", "fields=request", "data="])
def test_what_is_not_possible_is_said(client: httpx2.Client, query: str) -> None:
    problem = problem_of(client.post(f"{MAPS}?{query}", files=parts(31)), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == f"/query/{query.partition('=')[0]}"


def test_pictures_are_the_same_whatever_is_said_of_json(client: httpx2.Client) -> None:
    png = {"Accept": "image/png"}
    plain = client.post(MAPS, files=parts(31), headers=png)
    lean = client.post(f"{MAPS}?data=none&fields=facts", files=parts(31), headers=png)
    assert plain.content == lean.content
    assert "data" not in lean.headers["content-location"]
