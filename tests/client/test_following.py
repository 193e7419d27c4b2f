"""How a client follows a job through broken streams, streams that do not come, and a service that is away."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convscope_client import AsyncClient, Client, Standing
from tests.convscope.cli.scripted import Answer, scripted

JOB = "/v1/jobs/j1"


def job(state: str = "queued", **more: Any) -> dict[str, Any]:
    progress = {"done": 0, "total": 1, "message": ""}
    return {"id": "j1", "operation": "feature-maps", "state": state, "progress": progress, "error": None, **more}


def stream(*events: tuple[int, str, dict[str, Any]]) -> bytes:
    return b"retry: 2000\n: a comment\n\n" + b"".join(
        f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode() for number, name, data in events
    )


def sse(*events: tuple[int, str, dict[str, Any]], **how: Any) -> Answer:
    return Answer(media="text/event-stream", body=stream(*events), **how)


SUCCEEDED = job("succeeded")
FIRST = ((1, "state", {"state": "running"}), (2, "progress", {"done": 1, "total": 4, "message": "a"}))
SECOND = (
    (3, "progress", {"done": 3, "total": 4, "message": "b"}),
    (4, "preview", {"href": f"{JOB}/previews/f00"}),
    (5, "state", {"state": "succeeded"}),
    (6, "done", {"state": "succeeded"}),
)
TOLD = [
    ("state", "1", Standing("running", 0, 0, "")),
    ("progress", "2", Standing("running", 1, 4, "a")),
    ("progress", "3", Standing("running", 3, 4, "b")),
    ("preview", "4", Standing("running", 3, 4, "b")),
    ("state", "5", Standing("succeeded", 3, 4, "")),
    ("done", "6", Standing("succeeded", 3, 4, "")),
]


def broken_once() -> dict[str, list[Answer]]:
    return {
        f"GET {JOB}/events": [sse(*FIRST, cut=True), sse(*SECOND)],
        f"GET {JOB}": [Answer(body=job("running")), Answer(body=job("running")), Answer(body=SUCCEEDED)],
    }


def test_a_broken_stream_is_taken_up_where_it_broke_off() -> None:
    with scripted(broken_once()) as service, Client(service.url) as client:
        found = client.read_job("j1")
        seen = [(event.name, event.id, event.progress) for event in found.events()]
        starts = [asked.headers.get("last-event-id") for asked in service.of("GET", f"{JOB}/events")]
    assert (starts, seen) == ([None, "2"], TOLD)
    assert found.state == "succeeded", "the job is up to date once its last event was read"


async def test_the_asynchronous_client_does_the_same() -> None:
    with scripted(broken_once()) as service:
        async with AsyncClient(service.url) as client:
            found = await client.read_job("j1")
            seen = [(event.name, event.id, event.progress) async for event in found.events()]
        starts = [asked.headers.get("last-event-id") for asked in service.of("GET", f"{JOB}/events")]
    assert (starts, seen, found.state) == ([None, "2"], TOLD, "succeeded")


async def test_who_stops_following_leaves_no_connection_open() -> None:
    with scripted({f"GET {JOB}/events": [sse(*FIRST, *SECOND)]}) as service:
        async with AsyncClient(service.url) as client:
            events = client.follow_job("j1", after="1")
            async for event in events:
                assert event.name == "state"
                break
            await events.aclose()
            pool = client._sender.http._transport._pool  # type: ignore[attr-defined]
            assert [one for one in pool.connections if not one.is_idle() and not one.is_closed()] == []
        (asked,) = service.asked
    assert asked.headers["last-event-id"] == "1"


def test_after_a_reset_the_snapshot_counts() -> None:
    snapshot = job("running", progress={"done": 5, "total": 6, "message": "late"})
    script = {f"GET {JOB}/events": [sse((1, "reset", snapshot), (2, "done", {"state": "succeeded"}))]}
    with scripted(script) as service, Client(service.url) as client:
        reset, done = client.follow_job("j1")
    assert (reset.name, reset.progress) == ("reset", Standing("running", 5, 6, "late"))
    assert done.progress == Standing("succeeded", 5, 6, "")


@pytest.mark.parametrize(
    "no_stream",
    [Answer(404, {"title": "no"}), Answer(200, {"not": "a stream"}), Answer(body=b"", media="text/event-stream")],
    ids=["refused", "another type", "empty"],
)
def test_without_a_stream_it_polls(no_stream: Answer) -> None:
    tag = {"ETag": '"a"'}
    half = job("running", progress={"done": 1, "total": 2, "message": "half"})
    script = {
        f"GET {JOB}/events": [no_stream],
        f"GET {JOB}": [
            *[Answer(body=job("running"), headers=tag)] * 4,
            Answer(304, b"", headers=tag),
            Answer(body=half, headers={"ETag": '"b"'}),
            Answer(body=SUCCEEDED, headers={"ETag": '"c"'}),
        ],
    }
    with scripted(script) as service, Client(service.url) as client:
        seen = list(client.follow_job("j1"))
        polls = [asked for asked in service.of("GET", JOB) if "wait" in asked.query]
    assert [event.name for event in seen[-3:]] == ["reset", "reset", "done"]
    assert seen[-3].progress == Standing("running", 1, 2, "half")
    assert {asked.query for asked in polls} == {"data=href&wait=20"}
    assert [asked.headers.get("if-none-match") for asked in polls[:2]] == [None, '"a"']
    assert polls[-1].headers["if-none-match"] == '"b"'


def test_a_finished_job_whose_events_are_gone_is_done() -> None:
    script = {f"GET {JOB}/events": [Answer(204, b"")], f"GET {JOB}": [Answer(body=SUCCEEDED)]}
    with scripted(script) as service, Client(service.url) as client:
        (event,) = client.follow_job("j1", after="9")
    assert (event.name, event.progress.state) == ("done", "succeeded")


def test_a_service_that_is_away_for_a_moment_is_waited_for() -> None:
    away = Answer(503, {"type": "/problems/queue-unavailable", "title": "away"})
    script = {f"GET {JOB}/events": [sse(cut=True)], f"GET {JOB}": [away, away, Answer(body=SUCCEEDED)]}
    with scripted(script) as service, Client(service.url) as client:
        assert [event.name for event in client.follow_job("j1")] == ["reset", "done"]


def test_a_queue_without_a_worker_is_said() -> None:
    assert Standing.of(job(workers_online=0)).message == "queued; no worker is running"
    assert Standing.of(job(workers_online=1)).message == ""
