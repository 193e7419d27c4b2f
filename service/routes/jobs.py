"""Jobs and what came of them: state, result, arrays, pictures, cancelling. Event streams are in events.py."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from convscope.protocol.problems import ProblemError
from convscope.protocol.results import Manifest
from convscope.queue.jobs import Job, JobState
from service import openapi
from service.answers.finding import find
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
from service.answers.views import JobList, JobView, etag, failure, job_etag, job_view, workers_online
from service.answers.waiting import wait_for_end, wait_until
from service.context import Context
from service.dependencies import CallerDependency, ContextDependency
from service.http.negotiation import JSON, NPY, PNG, SAFETENSORS, accepted, etag_matches
from service.http.paging import PageQuery, page_headers
from service.http.problems import documented
from service.http.streaming import IMMUTABLE, PieceResponse, artifact_response, not_modified
from service.results.arrays import json_bytes, npy_header, safetensors_header, stored_array
from service.results.rendering import PICK

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_FAILURES = ("numerical-error", "out-of-memory", "weights-unavailable", "worker-crashed", "deadline-exceeded")
_ONE = documented("not-found", "gone")
_RESULT = documented("not-found", "gone", "not-acceptable", "invalid-request", "too-expensive", *_FAILURES)


class ListQuery(PageQuery):
    """Which jobs to list."""

    state: JobState | None = None
    operation: str | None = Field(None, max_length=100)


@router.get(
    "",
    operation_id="list-jobs",
    response_class=Response,
    responses={
        200: openapi.answer("Jobs, newest first.", openapi.json_content(openapi.shown(JobList)), ("Link",)),
        **documented("invalid-request"),
    },
)
async def list_jobs(
    context: ContextDependency, caller: CallerDependency, query: Annotated[ListQuery, Query()]
) -> Response:
    """The caller's jobs, newest first, without their results."""
    if query.operation is not None:
        known_operation(query.operation, "/query/operation")
    state = query.state.value if query.state is not None else None
    jobs, cursor = await context.jobs.page(
        caller, state=state, operation=query.operation, limit=query.limit, cursor=query.cursor
    )
    online = await workers_online(context)
    body = {"jobs": [await job_view(context, job, online, result=False) for job in jobs]}
    return Response(json_bytes(body), 200, page_headers("/v1/jobs", query, cursor), media_type=JSON)


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
async def read_job(
    request: Request, job_id: str, context: ContextDependency, caller: CallerDependency, query: WaitQueryDependency
) -> Response:
    """The job. With `wait` and If-None-Match, once it is another revision; with `wait` alone, once it is finished."""
    job = await find(context, caller, job_id)
    if query.wait:
        known = request.headers.get("if-none-match")
        if known is None:
            job = await _finished(request, context, caller, job, query.wait)
        elif etag_matches(known, job_etag(context, job, await workers_online(context))):
            revision = job.revision
            wait_s = min(query.wait, context.settings.longest_wait_s)
            job = await wait_until(request, context, caller, job, lambda each: each.revision != revision, wait_s)
    return await job_answer(request, context, job)


async def _finished(request: Request, context: Context, caller: str, job: Job, wait: float) -> Job:
    wait_s = min(wait, context.settings.longest_wait_s)
    return await wait_for_end(request, context, caller, job, wait_s)


@router.get(
    "/{job_id}/result",
    operation_id="read-result",
    response_class=Response,
    responses={
        200: openapi.answer(
            "The result, in the accepted representation.",
            openapi.json_content(openapi.shown(JobView)) | openapi.binary_content(PNG, SAFETENSORS),
            ("ETag",),
        ),
        202: openapi.PENDING,
        206: openapi.answer("A part of the arrays.", openapi.binary_content(SAFETENSORS), ("Content-Range",)),
        304: openapi.UNCHANGED,
        **_RESULT,
        **documented("range-not-satisfiable"),
    },
)
async def read_result(
    request: Request, job_id: str, context: ContextDependency, caller: CallerDependency, query: RenderQueryDependency
) -> Response:
    """The result: the job as JSON, a picture, or all arrays as safetensors; 202 while there is none."""
    query.options()
    job = await find(context, caller, job_id)
    media = accepted(request.headers.get("accept"), representations(operation_of(job)))
    if not job.finished:
        return await job_answer(request, context, job, status=202)
    return await finished_answer(request, context, job, media, query)


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
async def read_array(
    request: Request, job_id: str, name: str, context: ContextDependency, caller: CallerDependency
) -> Response:
    """One array of a result: .npy, or safetensors or JSON by Accept; byte ranges of the first two."""
    media = accepted(request.headers.get("accept"), [NPY, SAFETENSORS, JSON])
    job = await find(context, caller, job_id)
    manifest = await _manifest(request, context, job)
    if isinstance(manifest, Response):
        return manifest
    if name == "":
        return await arrays_answer(request, context, job, manifest, job_headers(job))
    stored = stored_array(manifest, name)
    headers = {
        "ETag": etag(manifest.arrays_key, name, media),
        "Cache-Control": IMMUTABLE,
        "Vary": "Accept, Authorization",
    }
    if media == JSON:
        if (unchanged := not_modified(request, headers)) is not None:
            return unchanged
        if manifest.arrays_key is not None:
            await context.artifacts.size(manifest.arrays_key)  # what is missing must be said before the first byte
        pieces = context.results.array_json(manifest, name)
        return PieceResponse(pieces, status_code=200, media_type=JSON, headers=headers)
    return await artifact_response(
        request,
        context.artifacts,
        head=npy_header(stored) if media == NPY else safetensors_header({name: stored}),
        key=manifest.arrays_key,
        start=stored.offset,
        length=stored.nbytes,
        media_type=media,
        headers=headers,
    )


@router.get(
    "/{job_id}/pictures/{name:path}",
    operation_id="read-picture",
    response_class=Response,
    responses={
        200: openapi.answer("The picture.", openapi.binary_content(PNG), ("ETag",)),
        202: openapi.PENDING,
        304: openapi.UNCHANGED,
        **_RESULT,
    },
)
async def read_picture(
    request: Request,
    job_id: str,
    name: str,
    context: ContextDependency,
    caller: CallerDependency,
    query: RenderQueryDependency,
) -> Response:
    """One picture of a result, drawn as the query says; `pick` has no meaning here."""
    accepted(request.headers.get("accept"), [PNG])
    options = query.options()
    job = await find(context, caller, job_id)
    manifest = await _manifest(request, context, job)
    if isinstance(manifest, Response):
        return manifest
    try:
        return await picture_answer(request, context, job, manifest, name, options, job_headers(job))
    except ProblemError as error:
        if not any(field.pointer == PICK for field in error.errors):
            raise
        raise ProblemError("not-found", error.detail, possible=error.extra.get("possible", [])) from error


async def _manifest(request: Request, context: Context, job: Job) -> Manifest | Response:
    """A job's manifest, or the answer while, or because, it has none."""
    if not job.finished:
        return await job_answer(request, context, job, status=202)
    problem = failure(job)
    if problem is not None or job.manifest is None:
        return failure_answer(request, job, problem or ProblemError("gone", "The job has no result.", job_id=job.id))
    return await context.results.manifest(job.manifest)


_CANCEL: dict[int | str, dict[str, Any]] = {
    200: openapi.answer("Cancelled.", openapi.json_content(openapi.shown(JobView))),
    202: openapi.answer("It stops within two slices; the job.", openapi.json_content(openapi.shown(JobView))),
    **documented("not-found", "gone", "already-finished"),
}


@router.delete("/{job_id}", operation_id="delete-job", response_class=Response, responses=_CANCEL)
@router.post("/{job_id}/cancel", operation_id="cancel-job", response_class=Response, responses=_CANCEL)
async def cancel_job(request: Request, job_id: str, context: ContextDependency, caller: CallerDependency) -> Response:
    """Cancel: 200 where it is cancelled (also from before), 202 while it stops, 409 where it had finished."""
    await find(context, caller, job_id)
    job = await context.jobs.cancel(job_id, caller)
    return await job_answer(request, context, job, status=200 if job.finished else 202)
