"""What answers say to somebody who uses the service for the first time."""

from __future__ import annotations

import httpx2
import pytest

from tests.service.http.test_methods import MAPS, submitted
from tests.service.support import HOLD, problem_of, wait_for


def test_a_query_parameter_takes_one_value(client: httpx2.Client) -> None:
    answer = client.get("/v1/jobs?limit=1&limit=2")
    assert problem_of(answer, 422, "invalid-request")["errors"][0]["pointer"] == "/query/limit"


@pytest.mark.parametrize("listing", ["jobs", "images", "image-sets"])
def test_a_cursor_that_no_page_gave_is_a_wrong_query_parameter(client: httpx2.Client, listing: str) -> None:
    problem = problem_of(client.get(f"/v1/{listing}?cursor=x"), 422, "invalid-request")
    assert [error["pointer"] for error in problem["errors"]] == ["/query/cursor"]


def test_jobs_of_an_unknown_operation_are_no_empty_list(client: httpx2.Client) -> None:
    problem = problem_of(client.get("/v1/jobs?operation=foo"), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/query/operation" and "feature-maps" in problem["possible"]
    assert client.get("/v1/jobs?operation=feature-maps").status_code == 200


def test_a_job_that_is_being_cancelled_says_so_and_its_result_does_not_claim_its_lifetime(
    client: httpx2.Client,
) -> None:
    job = submitted(client, HOLD, Prefer="respond-async")
    wait_for(lambda: client.get(job).json()["state"] == "running", "the start")
    told = client.delete(job).json()
    assert told["state"] == "cancelled" or told["progress"]["message"] == "cancelling"
    wait_for(lambda: client.get(job).json()["state"] == "cancelled", "the cancellation")
    assert client.get(job).json()["progress"]["message"] != "cancelling"
    problem = problem_of(client.get(f"{job}/result"), 410, "gone")
    assert problem["detail"] == "The job was cancelled; it has no result." and "lifetime" not in problem["title"]


def test_the_page_for_people_shows_the_address_that_it_was_asked_at(client: httpx2.Client) -> None:
    page = client.get("/docs").text
    assert f"{str(client.base_url).rstrip('/')}/v1/feature-maps -o maps.png" in page and "localhost" not in page
    page = client.get("/docs", headers={"Host": "lab.localhost:81"}).text
    assert "http://lab.localhost:81/v1/feature-maps" in page
    assert "<script>" not in client.get("/docs", headers={"Host": "x<script>"}).text


def test_of_a_union_the_member_that_fits_speaks(client: httpx2.Client) -> None:
    image = {"image": {"id": "x"}}
    for body, detail in (
        ({**image, "preprocess": {"size": [100_000, 100_000]}}, "/preprocess/size/0: Input should be less than or eq"),
        ({"image": "x"}, "/image: Input should be an id `img-…`, or an object with `id` or `base64`."),
        ({**image, "channels": {"a": 1}}, "/channels: Input should be a valid list; or Input should be a valid string"),
    ):
        assert problem_of(client.post(MAPS, json=body), 422, "invalid-request")["detail"].startswith(detail)
