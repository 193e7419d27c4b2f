"""HEAD and OPTIONS."""

from __future__ import annotations

import httpx2

from tests.service.support import HOLD, png_bytes, problem_of, wait_for

MAPS = "/v1/feature-maps"


def submitted(client: httpx2.Client, seed: int, **headers: str) -> str:
    """The address of a job."""
    parts = [("image", ("a.png", png_bytes(value=88), "image/png")), ("seed", (None, b"%d" % seed))]
    answer = client.post(MAPS, files=parts, headers={"Cache-Control": "no-cache", **headers})
    assert answer.status_code in (200, 202), answer.text
    return answer.headers["location"]


def test_head_is_get_without_its_body(client: httpx2.Client) -> None:
    job = submitted(client, 1)
    for path in (
        "/livez", "/docs", "/openapi.json", "/v1/models", "/v1/models/toy", "/problems/not-found", "/v1/jobs",
        job, f"{job}/result", f"{job}/arrays/maps/conv", f"{job}/pictures/conv",
    ):  # fmt: skip
        got = client.get(path, headers={"Accept": "*/*"})
        head = client.head(path, headers={"Accept": "*/*"})
        assert (got.status_code, head.status_code, head.content) == (200, 200, b""), path
        for name in ("content-type", "etag"):
            assert head.headers.get(name) == got.headers.get(name), (path, name)
        assert head.headers["content-length"] == got.headers["content-length"], path
        assert head.headers["x-request-id"] != got.headers["x-request-id"]
    assert client.head("/v1/jobs/nobody").status_code == 404
    assert client.head(job, headers={"If-None-Match": client.get(job).headers["etag"]}).status_code == 304
    whole = client.head(f"{job}/arrays/maps/conv")
    for asked in ("bytes=0-9", "bytes=100000-"):
        head = client.head(f"{job}/arrays/maps/conv", headers={"Range": asked})
        assert head.status_code == 200 and head.headers["content-length"] == whole.headers["content-length"]
    assert client.head(f"{job}/arrays/maps/conv", headers={"Accept": "application/json"}).status_code == 200
    assert client.head(MAPS).status_code == 405
    assert 'method="HEAD",route="/v1/jobs/{job_id}"' in client.get("/metrics").text


def test_head_of_a_stream_ends_at_once(client: httpx2.Client) -> None:
    job = submitted(client, HOLD, Prefer="respond-async")
    head = client.head(f"{job}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    client.delete(job)
    wait_for(lambda: client.get(job).json()["finished_at"], "the cancellation")


def test_options_says_what_is_possible(client: httpx2.Client) -> None:
    for path, possible in (
        ("/v1/jobs", "GET, HEAD, OPTIONS"),
        ("/v1/jobs/x", "DELETE, GET, HEAD, OPTIONS"),
        (MAPS, "OPTIONS, POST"),
    ):
        answer = client.options(path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, possible, b""), path
        assert client.put(path).headers["allow"] == possible
    problem_of(client.options("/nothing"), 404, "not-found")
