"""POST /v1/{operation}: one documented route for each operation of the registry; GET /v1/operations lists them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from convscope.protocol.operations import operations
from convscope.protocol.operations.base import Operation
from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import Job
from service import openapi
from service.answers.responses import (
    RenderQuery,
    RenderQueryDependency,
    failure_answer,
    finished_answer,
    job_answer,
    representations,
)
from service.answers.views import workers_seen
from service.answers.waiting import wait_for_end
from service.call import Call
from service.dependencies import CallDependency
from service.http.problems import documented
from service.intake.forms import schema
from service.intake.submission import receive, submit

router = APIRouter(prefix="/v1", tags=["operations"])
log = structlog.get_logger(__name__)

_PROBLEMS = (
    "malformed-body", "bad-preference", "not-found", "not-acceptable", "request-timeout", "gone", "body-too-large",
    "too-many-pixels", "too-many-images", "unsupported-media-type", "invalid-request", "unknown-model", "unknown-layer",
    "channel-out-of-range", "not-applicable", "unreadable-image", "unsupported-format", "too-expensive",
    "idempotency-mismatch", "numerical-error", "out-of-memory", "weights-unavailable", "quota-exceeded",
    "worker-crashed", "queue-full", "store-full", "deadline-exceeded",
)  # fmt: skip


class Limits(BaseModel):
    """What a request may be."""

    images: int = Field(description="Most images; 0: the operation takes none.")
    result_mib: int
    body_mib: int
    megapixels: float


class OperationView(BaseModel):
    """An operation as GET /v1/operations lists it."""

    name: str
    summary: str
    href: str
    lane: str
    quick: bool = Field(description="Whether a request without a preference waits for the answer.")
    media_types: list[str]
    request_schema: dict[str, Any]
    facts_schema: dict[str, Any]
    defaults: dict[str, Any]
    limits: Limits


class OperationList(BaseModel):
    """All operations."""

    operations: list[OperationView]


async def _answer(call: Call, query: RenderQuery, operation: Operation[Any]) -> Response:
    """Read, submit, wait as preferred, answer."""
    call.accepted(representations(operation), query.format)
    query.options()  # what cannot be drawn is refused before anything is computed
    preferred = call.preference
    received = await receive(call, operation)
    # Which operations draw something depends on the network's answer.
    media = call.accepted(representations(operation, received.network.card), query.format)
    job, new = await submit(call, operation, received)
    structlog.contextvars.bind_contextvars(job_id=job.id)
    if new:
        log.info("submitted", operation=job.operation, lane=job.lane, state=job.state.value, caller=call.caller)
    try:
        job = await _waited(call, job, operation)
        at_once = preferred.respond_async and preferred.wait_s is None
        applied = preferred.applied(job.finished and not at_once)
        headers = {"Preference-Applied": applied} if applied else {}
        if at_once or not job.finished:
            online = await workers_seen(call.context)
            return await job_answer(call, job, status=202, headers=headers, online=online, detail=query.detail)
        return await finished_answer(call, job, media, query, headers)
    except ProblemError as error:
        error.extra.setdefault("job_id", job.id)
        return failure_answer(call, job, error)


async def _waited(call: Call, job: Job, operation: Operation[Any]) -> Job:
    """The job when the wait is over; a queue that goes away meanwhile ends it early.

    It is no failure then: the job is submitted, and a client that sent its request again would have two.

    Raises:
        ClientDisconnect: nobody waits any more.
        ProblemError: `not-found`, where the job's lifetime ended meanwhile.
    """
    try:
        return await wait_for_end(call, job, _wait_s(call, operation))
    except ClientDisconnect:
        await _client_left(call, job)
        raise
    except ProblemError as error:
        if error.name != "queue-unavailable":
            raise
        log.warning("wait_interrupted", error=error.detail)
        return job


def _wait_s(call: Call, operation: Operation[Any]) -> float:
    if call.preference.wait_s is not None:
        return call.preference.wait_s
    if call.preference.respond_async or not operation.quick:
        return 0.0
    return call.context.settings.quick_wait_s


async def _client_left(call: Call, job: Job) -> None:
    """Cancel a job that nobody can ask for: its client left without having got, or made, a name for it."""
    if call.preference.stated or call.repeatable:
        return
    try:
        await asyncio.shield(call.context.jobs.cancel(job.id, call.caller))
    except ProblemError as error:
        if error.name not in ("already-finished", "not-found"):
            raise
        return
    call.context.metrics.cancelled_by_disconnect.inc()
    log.info("cancelled_by_disconnect")


def _endpoint(operation: Operation[Any]) -> Callable[..., Awaitable[Response]]:
    async def endpoint(call: CallDependency, query: RenderQueryDependency) -> Response:
        return await _answer(call, query, operation)

    return endpoint


def _responses(operation: Operation[Any]) -> dict[int | str, dict[str, Any]]:
    content = openapi.json_content(openapi.shown(openapi.job_of(operation)))
    content |= openapi.binary_content(*representations(operation)[1:])
    headers = ("Location", "Content-Location", "ETag", "Preference-Applied", "RateLimit", "RateLimit-Policy")
    return {
        200: openapi.answer("The result, in the accepted representation.", content, headers),
        202: openapi.PENDING,
        **documented(*_PROBLEMS),
    }


_HEADERS = [
    openapi.header("Prefer", "`wait=N` (seconds, 60 at most), `respond-async`, or both.", "wait=10"),
    openapi.header("Idempotency-Key", "The same key and request give the same job.", '"8e03978e-40d5-43dd-bc93"'),
    openapi.header("Cache-Control", "`no-cache` computes afresh.", "no-cache"),
]

for _operation in operations().values():
    router.add_api_route(
        f"/{_operation.name}",
        _endpoint(_operation),
        methods=["POST"],
        name=_operation.name,
        operation_id=_operation.name,
        summary=_operation.summary,
        response_class=Response,
        responses=_responses(_operation),
        openapi_extra={"requestBody": openapi.request_bodies(_operation), "parameters": _HEADERS},
    )


@router.get("/operations", operation_id="list-operations")
async def list_operations(call: CallDependency) -> OperationList:
    """The operations, their schemas, limits and defaults. Defaults that depend on the network are null here."""
    settings = call.context.settings
    found = []
    for operation in operations().values():
        request_schema = schema(operation.request)
        properties = request_schema["properties"]
        found.append(
            OperationView(
                name=operation.name,
                summary=operation.summary,
                href=f"/v1/{operation.name}",
                lane=operation.lane,
                quick=operation.quick,
                media_types=representations(operation),
                request_schema=request_schema,
                facts_schema=operation.facts.model_json_schema(mode="serialization"),
                defaults={name: value.get("default") for name, value in properties.items() if "default" in value},
                limits=Limits(
                    images=min(operation.max_images, settings.images_per_request),
                    result_mib=settings.result_mib,
                    body_mib=settings.body_mib,
                    megapixels=settings.megapixels,
                ),
            )
        )
    return OperationList(operations=found)
