"""Server-sent events of a job, resumable by Last-Event-ID, and the previews that they name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response

from convscope.protocol.problems import ProblemError
from convscope.queue.events import Event
from convscope.queue.jobs import Job
from service import openapi
from service.answers.finding import find
from service.answers.views import etag, job_path, job_view, workers_online
from service.call import Call
from service.dependencies import CallDependency
from service.http.negotiation import PNG
from service.http.problems import documented
from service.http.streaming import IMMUTABLE, artifact_response
from service.results.arrays import json_bytes

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

EVENT_STREAM = "text/event-stream"
COMMENT_EVERY_S = 15
SEND_TIMEOUT_S = 30
"""A reader that takes nothing for this long is cut off; it can come back with Last-Event-ID."""
RECONNECT_MS = 2000
LOOK_AGAIN_S = 5.0
DRAIN_S = 3
_DIGEST = re.compile(r"[0-9a-f]{64}")


@router.get(
    "/{job_id}/events",
    operation_id="follow-job",
    response_class=Response,
    responses={
        200: openapi.answer(
            "Events `state`, `progress`, `preview` (with the `href` of a PNG), `reset` (with the job, where events "
            "were lost) and `done`, after which the stream ends.",
            {EVENT_STREAM: {}},
        ),
        204: openapi.answer("The job is finished and its last event was received: there is nothing to come back for."),
        **documented("not-found", "gone", "not-acceptable"),
    },
    openapi_extra={"parameters": [openapi.header("Last-Event-ID", "The last event that was received.", "12")]},
)
async def follow(job_id: str, call: CallDependency) -> Response:
    """The events of a job from its first, or from the one after Last-Event-ID, live until it is done.

    Who has them all is answered 204: a browser's EventSource comes back whenever a stream ends, until it hears that.
    """
    call.accepted([EVENT_STREAM])
    job = await find(call, job_id)
    after = call.last_event_id
    headers = {"Cache-Control": "no-store", "Vary": "Authorization"}
    if job.finished and after == str(job.events):
        return Response(status_code=204, headers=headers)
    return EventSourceResponse(
        _stream(call, job, after),
        ping=COMMENT_EVERY_S,
        ping_message_factory=lambda: _said(comment="still here"),
        send_timeout=SEND_TIMEOUT_S,
        shutdown_grace_period=DRAIN_S,
        headers=headers,
    )


async def _stream(call: Call, job: Job, after: str) -> AsyncIterator[ServerSentEvent]:
    """Events until the last; where the service stops first, a `retry` that sends the client elsewhere."""
    context = call.context
    yield _said(retry=RECONNECT_MS, comment=f"events of job {job.id}")
    stopping = asyncio.create_task(context.stopping.wait())
    try:
        with context.changes.watch(job.id) as watch, context.metrics.sse_clients.track_inprogress():
            while True:
                page = await context.events.read(job.id, after)
                if page.trimmed:
                    yield await _snapshot(call, job.id)
                for event in page.events:
                    after = event.id
                    yield _sent(event, job.id)
                    if event.name == "done":
                        return
                if page.events:
                    continue
                if context.stopping.is_set():
                    yield _said(retry=RECONNECT_MS, comment="the service stops; come back")
                    return
                # A reader that came after the last event has nothing to wait for.
                job = await context.jobs.get(job.id, call.caller)
                if job.finished and not (await _newer(call, job.id, after)):
                    # Its events went with its record into the archive, or it had none, being answered from the store.
                    if not page.trimmed:
                        yield await _snapshot(call, job.id)
                    data = json_bytes({"state": job.state.value, "at_ms": job.finished_ms}).decode()
                    yield _said(id=str(job.events), event="done", data=data)
                    return
                changed = asyncio.create_task(watch.changed(LOOK_AGAIN_S))
                try:
                    await asyncio.wait({changed, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
    except ProblemError as error:
        # The head is sent; all that can be said is that the stream ends here and may be taken up again.
        yield _said(retry=RECONNECT_MS, comment=f"interrupted: {error.name}")
    finally:
        stopping.cancel()


def _said(**what: Any) -> ServerSentEvent:
    return ServerSentEvent(sep="\n", **what)


async def _newer(call: Call, job_id: str, after: str) -> bool:
    return bool((await call.context.events.read(job_id, after)).events)


async def _snapshot(call: Call, job_id: str) -> ServerSentEvent:
    """What a reader that missed events has to know: the job as it is now."""
    job = await call.context.jobs.get(job_id, call.caller)
    view = await job_view(call.context, job, await workers_online(call.context), result=False)
    return _said(event="reset", data=json_bytes(view).decode())


def _sent(event: Event, job_id: str) -> ServerSentEvent:
    data = dict(event.data)
    if event.name == "preview":
        digest = str(data.pop("key", "")).rpartition("/")[2]
        data["href"] = f"{job_path(job_id)}/previews/{digest}"
    return _said(id=event.id, event=event.name, data=json_bytes(data).decode())


@router.get(
    "/{job_id}/previews/{digest}",
    operation_id="read-preview",
    response_class=Response,
    responses={
        200: openapi.answer("A picture of how far the job was.", openapi.binary_content(PNG), ("ETag",)),
        206: openapi.answer("A part of it.", openapi.binary_content(PNG), ("Content-Range",)),
        304: openapi.UNCHANGED,
        **documented("not-found", "gone", "not-acceptable", "range-not-satisfiable"),
    },
)
async def read_preview(job_id: str, digest: str, call: CallDependency) -> Response:
    """A preview that an event named. Its address is the SHA-256 of its bytes, so nobody can guess another's."""
    call.accepted([PNG])
    await find(call, job_id)
    if not _DIGEST.fullmatch(digest):
        raise ProblemError("not-found", "There is no such preview.")
    key = f"previews/{digest[:2]}/{digest}"
    return await artifact_response(
        call.request,
        call.context.artifacts,
        head=b"",
        key=key,
        start=0,
        length=await call.context.artifacts.size(key),
        media_type=PNG,
        headers={"ETag": etag(key), "Cache-Control": IMMUTABLE, "Vary": "Authorization"},
    )
