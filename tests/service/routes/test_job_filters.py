"""Jobs found by their labels, and cancelled together."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.service.support import HOLD, Worker, png_bytes, problem_of, wait_for

MAPS = "/v1/feature-maps"


def submit(client: httpx2.Client, seed: int, **labels: str) -> str:
    parts: list[Any] = [("image", ("a.png", png_bytes(value=111), "image/png")), ("seed", (None, str(seed)))]
    parts.append(("labels", (None, json.dumps(labels))))
    headers = {"Prefer": "respond-async", "Cache-Control": "no-cache"}
    found: str = client.post(MAPS, files=parts, headers=headers).json()["id"]
    return found


def listed(client: httpx2.Client, query: str) -> list[str]:
    return [job["id"] for job in client.get(f"/v1/jobs?{query}").json()["jobs"]]


def test_every_label_counts_and_pages_keep_them(client: httpx2.Client) -> None:
    made = [submit(client, 200 + k, team="blue" if k % 3 else "red", **{"a b": "ü&="}) for k in range(9)]
    blue = [each for k, each in enumerate(made) if k % 3][::-1]
    assert listed(client, "label.team=blue") == blue
    assert listed(client, "label.team=blue&label.a%20b=%C3%BC%26%3D") == blue
    assert listed(client, "label.team=blue&label.other=1") == []
    assert listed(client, "label.team=BLUE") == []
    address, seen = "/v1/jobs?label.team=blue&limit=2", []
    while address:
        answer = client.get(address)
        page = [job["id"] for job in answer.json()["jobs"]]
        assert 1 <= len(page) <= 2
        seen += page
        address = answer.links.get("next", {}).get("url", "")
    assert seen == blue


@pytest.mark.parametrize("name", ["colour", "label.", "labels.a"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/jobs"), ("POST", "/v1/jobs/cancel")])
def test_what_is_no_label_is_refused(client: httpx2.Client, method: str, path: str, name: str) -> None:
    problem = problem_of(client.request(method, f"{path}?{name}=x"), 422, "invalid-request")
    assert [error["pointer"] for error in problem["errors"]] == [f"/query/{name}"]


def test_a_label_that_no_job_can_have_is_refused(client: httpx2.Client) -> None:
    problem_of(client.get("/v1/jobs?label.a=" + "x" * 200), 422, "invalid-request")
    problem_of(client.get("/v1/jobs?" + "&".join(f"label.a{k}=x" for k in range(20))), 422, "invalid-request")


def test_waiting_and_running_jobs_are_cancelled_together_and_others_stay(client: httpx2.Client, worker: Worker) -> None:
    running = submit(client, HOLD, batch="night")
    wait_for(lambda: client.get(f"/v1/jobs/{running}").json()["state"] == "running", "the start of the job")
    done = submit(client, 231, batch="night")
    wait_for(lambda: client.get(f"/v1/jobs/{done}").json()["state"] == "succeeded", "the end of the job")
    with worker.idle():
        waiting = [submit(client, 240 + k, batch="night") for k in range(3)]
        other = submit(client, 250, batch="day")
        answer = client.post("/v1/jobs/cancel?label.batch=night").json()
        assert (sorted(answer["cancelled"]), answer["stopping"]) == (sorted(waiting), [running])
        assert client.get(f"/v1/jobs/{other}").json()["state"] == "queued"
    wait_for(lambda: client.get(f"/v1/jobs/{running}").json()["state"] == "cancelled", "the end of the job")
    assert client.get(f"/v1/jobs/{done}").json()["state"] == "succeeded"
    assert client.post("/v1/jobs/cancel?label.batch=night").json() == {"cancelled": [], "stopping": []}
    wait_for(lambda: client.get(f"/v1/jobs/{other}").json()["state"] == "succeeded", "the end of the other job")


def test_a_state_or_an_operation_is_enough_and_nothing_is_not(client: httpx2.Client, worker: Worker) -> None:
    with worker.idle():
        job = submit(client, 260)
        assert client.post("/v1/jobs/cancel?state=running").json()["cancelled"] == []
        assert client.post("/v1/jobs/cancel?operation=cam").json()["cancelled"] == []
        problem = problem_of(client.post("/v1/jobs/cancel"), 422, "invalid-request")
        assert "label.NAME" in problem["detail"]
        problem_of(client.post("/v1/jobs/cancel?operation=nothing"), 422, "invalid-request")
        assert client.post("/v1/jobs/cancel?operation=feature-maps&state=queued").json()["cancelled"] == [job]
