"""Event streams: order, resuming without a gap, reset, the end; previews."""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import redis
from PIL import Image

from convscope.queue.connection import connect
from convscope.queue.jobs import JobLimits, Jobs
from convscope.queue.keys import key
from convscope.store import archive
from convscope.store.artifacts import Artifacts
from tests.service.routes.test_jobs import submit
from tests.service.support import HOLD, SLOW, Service, Worker, problem_of, wait_for


@dataclass
class Told:
    """One event as a client reads it."""

    id: str = ""
    name: str = "message"
    data: str = ""
    retry: str = ""
    comments: list[str] = field(default_factory=list)

    def json(self) -> Any:
        return httpx2.Response(200, content=self.data).json()


def parse(text: str) -> list[Told]:
    """The blocks of a stream, events and comments, by the rules of the format."""
    told = []
    for block in text.split("\n\n"):
        if not block:
            continue
        event = Told()
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "":
                event.comments.append(value)
            elif name == "event":
                event.name = value
            elif name == "data":
                event.data += value
            else:
                setattr(event, name, value)
        told.append(event)
    return told


def events(told: list[Told]) -> list[Told]:
    return [each for each in told if each.data]


def follow(client: httpx2.Client, job_id: str, after: str = "") -> list[Told]:
    headers = {"Last-Event-ID": after} if after else {}
    answer = client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    return parse(answer.text)


def test_from_the_first_to_the_last(client: httpx2.Client) -> None:
    job = submit(client, SLOW)
    told = follow(client, job["id"])
    assert told[0].retry == "2000"
    names = [event.name for event in events(told)]
    assert names[0] == "state" and names[-1] == "done"
    assert "progress" in names and names.count("done") == 1
    ids = [int(event.id) for event in events(told)]
    assert ids == list(range(1, len(ids) + 1))
    assert events(told)[-1].json()["state"] == "succeeded"
    done = [event.json()["done"] for event in events(told) if event.name == "progress"]
    assert done == sorted(done)
    # A finished job tells the same once more.
    assert [event.id for event in events(follow(client, job["id"]))] == [str(number) for number in ids]


def test_a_preview_has_an_address(client: httpx2.Client) -> None:
    job = submit(client, SLOW)
    (preview,) = [event for event in events(follow(client, job["id"])) if event.name == "preview"]
    href = preview.json()["href"]
    assert "key" not in preview.json()
    answer = client.get(href)
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (4, 4)
    assert client.get(href, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    other = f"{href.rpartition('/')[0]}/{'0' * 64}"
    problem_of(client.get(other), 410, "gone")
    problem_of(client.get(f"{href.rpartition('/')[0]}/x"), 404, "not-found")


def test_resuming_has_no_gap_and_no_duplicate(client: httpx2.Client) -> None:
    job = submit(client, SLOW)
    whole = [event.id for event in events(follow(client, job["id"]))]
    for last in whole[:-1]:
        told = follow(client, job["id"], after=last)
        assert [event.id for event in events(told)] == whole[whole.index(last) + 1 :]
        assert "reset" not in [event.name for event in told]


def test_who_has_all_events_of_a_finished_job_need_not_come_back(client: httpx2.Client, worker: Worker) -> None:
    """A browser's EventSource does, two seconds after any answer but 204."""
    job = submit(client, SLOW)
    path, last = f"/v1/jobs/{job['id']}/events", events(follow(client, job["id"]))[-1]
    answer = client.get(path, headers={"Last-Event-ID": last.id, "Accept": "text/event-stream"})
    assert (answer.status_code, answer.content, answer.headers["cache-control"]) == (204, b"", "no-store")
    with worker.idle():  # while more may come it is a stream
        path = f"/v1/jobs/{submit(client, SLOW)['id']}/events"
        with client.stream("GET", path, headers={"Last-Event-ID": "1"}) as waiting:
            assert waiting.status_code == 200


def test_a_job_in_the_archive_ends_with_the_number_that_its_last_event_had(
    client: httpx2.Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that comes back for the rest after the record was moved hears how it ended, once."""
    job = submit(client, SLOW)
    last = events(follow(client, job["id"]))[-1]
    settings = service.settings
    assert settings.redis_url is not None
    monkeypatch.setattr(archive, "AFTER_S", -1.0)
    asyncio.run(_moved(settings.redis_url, settings.artifacts_location))
    for after in ("", "2"):
        told = events(follow(client, job["id"], after=after))
        assert [(event.name, event.id) for event in told] == [("reset", ""), ("done", last.id)]
        assert told[0].json()["state"] == told[1].json()["state"] == "succeeded"
    answer = client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": last.id})
    assert answer.status_code == 204


async def _moved(url: str, location: str) -> None:
    """All records of finished jobs are in the archive."""
    redis_of_queue = connect(url)
    moved = archive.Archive(Artifacts.open(location))
    while await moved.move(redis_of_queue, Jobs(redis_of_queue, JobLimits(), moved)):
        pass
    await redis_of_queue.aclose()


@pytest.mark.parametrize("after", ["99999", "nonsense", "1-0"])
def test_an_id_that_never_was_gives_a_snapshot(client: httpx2.Client, after: str) -> None:
    job = submit(client, SLOW)
    whole = [event.id for event in events(follow(client, job["id"]))]
    told = events(follow(client, job["id"], after=after))
    assert told[0].name == "reset" and told[0].id == ""
    assert told[0].json()["id"] == job["id"]
    assert [event.id for event in told[1:]] == whole


def test_trimmed_events_give_a_snapshot(client: httpx2.Client, service: Service) -> None:
    job = submit(client, SLOW)
    whole = [event.id for event in events(follow(client, job["id"]))]
    assert service.settings.redis_url is not None
    with redis.Redis.from_url(service.settings.redis_url) as server:
        server.xtrim(key("events", job["id"]), maxlen=2, approximate=False)
    told = events(follow(client, job["id"], after="1"))
    assert [event.name for event in told] == ["reset", "state", "done"]
    assert told[0].json()["state"] == "succeeded"
    assert [event.id for event in told[1:]] == whole[-2:]


def test_live_to_the_end(client: httpx2.Client, service: Service) -> None:
    before = service.app.state.context.changes.watching
    job = submit(client, HOLD)
    told: list[list[Told]] = []
    reading = threading.Thread(target=lambda: told.append(follow(client, job["id"])))
    reading.start()
    wait_for(lambda: service.app.state.context.changes.watching > before, "the reader")
    metric = [line for line in client.get("/metrics").text.splitlines() if line.startswith("convscope_sse_clients ")]
    assert float(metric[0].split()[1]) >= 1
    wait_for(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running", "the start")
    client.delete(f"/v1/jobs/{job['id']}")
    reading.join()
    states = [event.json()["state"] for event in events(told[0]) if event.name == "state"]
    assert states[0] == "queued" and states[-1] == "cancelled"
    assert events(told[0])[-1].name == "done"
    wait_for(lambda: service.app.state.context.changes.watching == before, "the end of the watch")


def test_a_reader_that_leaves_is_forgotten(client: httpx2.Client, service: Service) -> None:
    before = service.app.state.context.changes.watching
    job = submit(client, HOLD)
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        next(answer.iter_lines())
        wait_for(lambda: service.app.state.context.changes.watching > before, "the reader")
    wait_for(lambda: service.app.state.context.changes.watching == before, "the end of the watch")
    client.delete(f"/v1/jobs/{job['id']}")


def test_only_an_event_stream(client: httpx2.Client) -> None:
    job = submit(client, SLOW)
    answer = client.get(f"/v1/jobs/{job['id']}/events", headers={"Accept": "application/json"})
    assert problem_of(answer, 406, "not-acceptable")["possible"] == ["text/event-stream"]
