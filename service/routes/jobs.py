"""Jobs and what came of them: state, result, arrays, pictures, cancelling. Event streams are in events.py."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from convscope.protocol.problems import FieldError, ProblemError, invalid_request
from convscope.protocol.results import Manifest
from convscope.queue.jobs import ACTIVE, Job, JobState
from service import openapi
from service.answers.finding import find
from service.answers.removing import remove_job
from service.answers.responses import (
    RenderQueryDependency,
    WaitQueryDependency,
    arrays_answer,
    failure_answer,
    finished_answer,
    job_answer,
    job_headers,
    known_operation,
    operation_of,
    picture_answer,
    representations,
)
from service.answers.views import JobList, JobView, etag, failure, job_etag, job_view, retry_after_s, workers_online
from service.answers.waiting import wait_for_end, wait_until
from service.call import Call
from service.dependencies import CallDependency
from service.http.negotiation import JSON, NPY, PICTURES, SAFETENSORS
from service.http.paging import page_headers
from service.http.problems import documented
from service.http.streaming import IMMUTABLE, PieceResponse, artifact_response, not_modified
from service.intake.spool import Spool
from service.results.arrays import json_bytes, npy_header, safetensors_header, stored_array
from service.results.metadata import metadata
from service.results.rendering import PICK
from service.routes.job_filters import CancelledJobs, JobFilter, ListQuery

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_AT_ONCE = 50
LISTED_AT_ONCE = 10
"""Jobs in memory of a list; a request may have a MiB, and a list 200."""
_FAILURES = ("numerical-error", "out-of-memory", "weights-unavailable", "worker-crashed", "deadline-exceeded")
_ONE = documented("not-found", "gone")
_RESULT = documented("not-found", "gone", "not-acceptable", "invalid-request", "too-expensive", *_FAILURES)


class ArrayQuery(BaseModel):
    """How an array is answered."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["npy", "safetensors", "json"] | None = Field(
        None, description="What to answer with, for clients that cannot say it in Accept; it goes before Accept."
    )


@router.get(
    "",
    operation_id="list-jobs",
    response_class=Response,
    responses={
        200: openapi.answer("Jobs, newest first.", openapi.json_content(openapi.shown(JobList)), ("Link",)),
        **documented("invalid-request"),
    },
)
async def list_jobs(call: CallDependency, query: Annotated[ListQuery, Query()]) -> Response:
    """The caller's jobs, newest first, without their results; `label.NAME=VALUE` lists those with that label."""
    query.check(call.request)
    if query.operation is not None:
        known_operation(query.operation, "/query/operation")
    state = query.state.value if query.state is not None else None
    online = await workers_online(call.context)
    spool, cursor, left = Spool(), query.cursor, query.limit
    try:
        await spool.write(b'{"jobs":[')
        while left > 0:
            jobs, cursor = await call.context.jobs.page(
                call.caller,
                state=state,
                operation=query.operation,
                limit=min(left, LISTED_AT_ONCE),
                cursor=cursor,
                fits=query.fits,
            )
            for number, job in enumerate(jobs):
                separator = b"," if number or left < query.limit else b""
                view = await job_view(call.context, job, online, result=False)
                await spool.write(separator + json_bytes(view))
            left = left - len(jobs) if cursor is not None else 0
        await spool.write(b"]}")
    except BaseException:
        spool.close()
        raise
    headers = {**page_headers("/v1/jobs", query, cursor), "Content-Length": str(spool.size)}
    return PieceResponse(spool.pieces(), status_code=200, media_type=JSON, headers=headers)


@router.post(
    "/cancel",
    operation_id="cancel-jobs",
    response_class=Response,
    responses={
        200: {**openapi.answer("What became of them."), "model": CancelledJobs},
        **documented("invalid-request"),
    },
)
async def cancel_jobs(call: CallDependency, query: Annotated[JobFilter, Query()]) -> Response:
    """Cancel every unfinished job that fits: of that state, that operation, with those labels (`label.NAME=VALUE`)."""
    query.check(call.request)
    if query.operation is not None:
        known_operation(query.operation, "/query/operation")
    if query.operation is None and query.state is None and not query.labels:
        detail = "say which jobs: `state`, `operation` or `label.NAME`"
        raise invalid_request([FieldError("/query", detail)])
    done: dict[bool, list[str]] = {True: [], False: []}
    for state in ACTIVE:
        cursor: str | None = ""
        while cursor is not None and query.state in (None, state):
            jobs, cursor = await call.context.jobs.page(
                call.caller, state=state, operation=query.operation, limit=_AT_ONCE, cursor=cursor, fits=query.fits
            )
            for job in await asyncio.gather(*(_cancelled(call, job) for job in jobs)):
                if job is not None:
                    done[job.finished].append(job.id)
    body = CancelledJobs(cancelled=done[True], stopping=done[False])
    return Response(body.model_dump_json(), 200, {"Cache-Control": "no-store"}, media_type=JSON)


async def _cancelled(call: Call, job: Job) -> Job | None:
    """The job once it is asked to be cancelled; None where it has finished, or gone, meanwhile."""
    try:
        return await call.context.jobs.cancel(job.id, call.caller)
    except ProblemError as error:
        if error.name not in ("already-finished", "not-found"):
            raise
        return None


@router.get(
    "/{job_id}",
    operation_id="read-job",
    response_class=Response,
    responses={
        200: openapi.answer("The job.", openapi.json_content(openapi.shown(JobView)), ("ETag", "Retry-After")),
        304: openapi.UNCHANGED,
        **_ONE,
    },
)
async def read_job(job_id: str, call: CallDependency, query: WaitQueryDependency) -> Response:
    """The job. With `wait` and If-None-Match, once it is another revision; with `wait` alone, once it is finished."""
    job = await find(call, job_id)
    if query.wait:
        wait_s = min(query.wait, call.context.settings.longest_wait_s)
        if call.known_tag is None:
            job = await wait_for_end(call, job, wait_s)
        elif call.knows(job_etag(call.context, job, await workers_online(call.context), query.detail)):
            revision = job.revision
            job = await wait_until(call, job, lambda each: each.revision != revision, wait_s)
    return await job_answer(call, job, detail=query.detail)


@router.get(
    "/{job_id}/done",
    operation_id="job-done",
    status_code=204,
    response_class=Response,
    responses={
        204: openapi.answer("The job is finished, however it ended."),
        **documented("not-found", "gone"),
    },
)
async def job_done(job_id: str, call: CallDependency) -> Response:
    """Whether a job is finished: 204 once it is, 404 before. For schedulers that take any success for the end."""
    job = await find(call, job_id)
    if job.finished:
        return Response(status_code=204, headers={"Cache-Control": "no-cache", **job_headers(job)})
    online = await workers_online(call.context)
    again_s = retry_after_s(job, online, time.time() * 1000)
    raise ProblemError(
        "not-found", f"The job is {job.state.value}; it is not done.", job_id=job.id, retry_after_s=again_s
    )


@router.get(
    "/{job_id}/result",
    operation_id="read-result",
    response_class=Response,
    responses={
        200: openapi.answer(
            "The result, in the accepted representation.",
            openapi.json_content(openapi.shown(JobView)) | openapi.binary_content(*PICTURES, SAFETENSORS),
            ("ETag",),
        ),
        202: openapi.PENDING,
        206: openapi.answer("A part of the arrays.", openapi.binary_content(SAFETENSORS), ("Content-Range",)),
        304: openapi.UNCHANGED,
        **_RESULT,
        **documented("range-not-satisfiable"),
    },
)
async def read_result(job_id: str, call: CallDependency, query: RenderQueryDependency) -> Response:
    """The result: the job as JSON, a picture, or all arrays as safetensors; 202 while there is none."""
    query.options()
    job = await find(call, job_id)
    media = call.accepted(representations(operation_of(job)), query.format)
    if not job.finished:
        return await job_answer(call, job, status=202, detail=query.detail)
    return await finished_answer(call, job, media, query)


@router.get(
    "/{job_id}/arrays/{name:path}",
    operation_id="read-array",
    response_class=Response,
    responses={
        200: openapi.answer(
            "The array.",
            openapi.binary_content(NPY, SAFETENSORS)
            | openapi.json_content(
                {
                    "type": "object",
                    "required": ["name", "shape", "dtype", "data"],
                    "properties": {
                        "name": {"type": "string"},
                        "shape": {"type": "array", "items": {"type": "integer"}},
                        "dtype": {"type": "string"},
                        "data": {"description": "Nested lists, null for what is not finite."},
                    },
                }
            ),
            ("ETag",),
        ),
        202: openapi.PENDING,
        206: openapi.answer("A part of it.", openapi.binary_content(NPY, SAFETENSORS), ("Content-Range",)),
        304: openapi.UNCHANGED,
        **_RESULT,
        **documented("range-not-satisfiable"),
    },
)
async def read_array(job_id: str, name: str, call: CallDependency, query: Annotated[ArrayQuery, Query()]) -> Response:
    """One array of a result: .npy, or safetensors or JSON by Accept; byte ranges of the first two."""
    media = call.accepted([NPY, SAFETENSORS, JSON], query.format)
    job = await find(call, job_id)
    manifest = await _manifest(call, job)
    if isinstance(manifest, Response):
        return manifest
    if name == "":
        return await arrays_answer(call, job, manifest, job_headers(job))
    stored = stored_array(manifest, name)
    head = _head(manifest, name, media)
    headers = {
        "ETag": etag(manifest.arrays_key, name, media, head.hex()),
        "Cache-Control": IMMUTABLE,
        "Vary": "Accept, Authorization",
    }
    if media == JSON:
        if (unchanged := not_modified(call.request, headers)) is not None:
            return unchanged
        if manifest.arrays_key is not None:
            await call.context.artifacts.size(manifest.arrays_key)  # what is missing must be said before the first byte
        pieces = call.context.results.array_json(manifest, name)
        return PieceResponse(pieces, status_code=200, media_type=JSON, headers=headers)
    return await artifact_response(
        call.request,
        call.context.artifacts,
        head=head,
        key=manifest.arrays_key,
        start=stored.offset,
        length=stored.nbytes,
        media_type=media,
        headers=headers,
    )


def _head(manifest: Manifest, name: str, media: str) -> bytes:
    """What stands before an array's bytes in a file of that type."""
    stored = stored_array(manifest, name)
    if media == SAFETENSORS:
        return safetensors_header({name: stored}, metadata(manifest, [name]))
    return npy_header(stored) if media == NPY else b""


@router.get(
    "/{job_id}/pictures/{name:path}",
    operation_id="read-picture",
    response_class=Response,
    responses={
        200: openapi.answer("The picture.", openapi.binary_content(*PICTURES), ("ETag",)),
        202: openapi.PENDING,
        304: openapi.UNCHANGED,
        **_RESULT,
    },
)
async def read_picture(job_id: str, name: str, call: CallDependency, query: RenderQueryDependency) -> Response:
    """One picture of a result, drawn as the query says; `pick` has no meaning here."""
    media = call.accepted(PICTURES, query.format)
    options = query.options()
    job = await find(call, job_id)
    manifest = await _manifest(call, job)
    if isinstance(manifest, Response):
        return manifest
    try:
        return await picture_answer(call, job, manifest, name, options, job_headers(job), media)
    except ProblemError as error:
        if not any(field.pointer == PICK for field in error.errors):
            raise
        raise ProblemError("not-found", error.detail, possible=error.extra.get("possible", [])) from error


async def _manifest(call: Call, job: Job) -> Manifest | Response:
    """A job's manifest, or the answer while, or because, it has none."""
    if not job.finished:
        return await job_answer(call, job, status=202)
    problem = failure(job)
    if problem is not None or job.manifest is None:
        return failure_answer(call, job, problem or ProblemError("gone", "The job has no result.", job_id=job.id))
    return await call.context.results.manifest(job.manifest)


_CANCEL: dict[int | str, dict[str, Any]] = {
    200: openapi.answer("Cancelled.", openapi.json_content(openapi.shown(JobView))),
    202: openapi.answer("It stops within two slices; the job.", openapi.json_content(openapi.shown(JobView))),
    **documented("not-found", "gone", "already-finished"),
}


@router.delete(
    "/{job_id}",
    operation_id="delete-job",
    response_class=Response,
    responses={
        **{status: answer for status, answer in _CANCEL.items() if status != 409},
        204: openapi.answer("It was finished, and is removed."),
    },
)
async def delete_job(job_id: str, call: CallDependency) -> Response:
    """Cancel an unfinished job, as POST …/cancel does; remove a finished one, with its result and its pictures."""
    job = await find(call, job_id)
    if not job.finished:
        try:
            job = await call.context.jobs.cancel(job_id, call.caller)
            return await job_answer(call, job, status=200 if job.finished else 202)
        except ProblemError as error:
            if error.name != "already-finished":
                raise
            job = await find(call, job_id)  # it ended in the meantime
    elif job.state == JobState.CANCELLED:
        return await job_answer(call, job, status=200)
    await remove_job(call, job)
    return Response(status_code=204)


@router.post("/{job_id}/cancel", operation_id="cancel-job", response_class=Response, responses=_CANCEL)
async def cancel_job(job_id: str, call: CallDependency) -> Response:
    """Cancel: 200 where it is cancelled (also from before), 202 while it stops, 409 where it had finished."""
    await find(call, job_id)
    job = await call.context.jobs.cancel(job_id, call.caller)
    return await job_answer(call, job, status=200 if job.finished else 202)
