"""Answers about a job: its JSON, its result in the representation that was asked for, or that it is not ready yet."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.base import Operation
from convscope.protocol.pictures import Blend, Normalize, Title, View
from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.results import Manifest
from convscope.queue.jobs import Job
from convscope.render import RenderOptions
from service.answers.views import (
    USUAL,
    Detail,
    etag,
    failure,
    job_etag,
    job_path,
    job_view,
    retry_after_s,
    workers_online,
)
from service.answers.waiting import while_connected
from service.call import Call
from service.http.negotiation import JPEG, JSON, PICTURES, PNG, SAFETENSORS, SVG, WEBP
from service.http.problems import problem_response
from service.http.streaming import IMMUTABLE, artifact_response, not_modified
from service.results import rendering
from service.results.arrays import json_bytes, safetensors_header
from service.results.metadata import metadata

FEW_NUMBERS = 4096
"""JSON with so many numbers is written more quickly than handed to a thread."""


class AnswerQuery(BaseModel):
    """How much of a result its JSON carries."""

    model_config = ConfigDict(extra="forbid")

    data: Literal["none", "inline", "href"] | None = Field(
        None,
        description="Of a JSON answer. none: no arrays; href: each array with its address alone; inline: every small "
        "array with its numbers; without it, those that are read there.",
    )
    fields: Literal["facts"] | None = Field(
        None, description="Of a JSON answer. facts: neither arrays nor pictures nor the request."
    )

    @property
    def detail(self) -> Detail:
        """As the views take it."""
        return Detail(self.data, self.fields == "facts")


class RenderQuery(AnswerQuery):
    """How a picture is drawn; asked for in the query, it never changes what is computed."""

    view: View | None = Field(None, description="A default for each operation.")
    colormap: str | None = Field(None, max_length=100, description="A name of the cmap catalogue; `_r` reverses.")
    normalize: Normalize | None = Field(
        None,
        description="map: each map by its own min and max; layer: all by the layer's; standard: mean 128, one standard "
        "deviation 64; symmetric: about zero.",
    )
    columns: int | Annotated[str, Field(max_length=2000)] | None = Field(
        None, description="Tiles in a row: a number, or `LAYER:8,LAYER:16` where pictures of several layers differ."
    )
    scale: float | None = Field(None, description="Pixels for each cell of a map; of an overlay, for each pixel of it.")
    title: Title | None = Field(None, description="The text above each tile.")
    alpha: float | None = Field(None, description="Opacity of an overlay, 0 to 1.")
    blend: Blend | None = Field(
        None, description="Of an overlay. mix: alpha of the colours; brightest: the same, scaled up to white."
    )
    pick: str | None = Field(
        None, max_length=300, description="One picture, layer or item; without it all are stacked, up to 16."
    )
    format: Literal["json", "png", "webp", "jpeg", "svg", "safetensors"] | None = Field(
        None, description="What to answer with, for clients that cannot say it in Accept; it goes before Accept."
    )

    def options(self) -> RenderOptions:
        """As the renderer takes them.

        Raises:
            ProblemError: `invalid-request`.
        """
        return RenderOptions(**self.model_dump(exclude={"pick", "format", "data", "fields"}))


class WaitQuery(AnswerQuery):
    """Long poll."""

    wait: float = Field(0, ge=0, description="Hold the request up to so many seconds; cut to the longest, 60.")


RenderQueryDependency = Annotated[RenderQuery, Query()]
WaitQueryDependency = Annotated[WaitQuery, Query()]


def representations(operation: Operation[Any], card: ModelCard | None = None) -> list[str]:
    """Media types that a result can be answered as, of that network where it is known, the default first."""
    draws = operation.has_picture if card is None else operation.draws(card)
    if not draws:
        return [JSON, SAFETENSORS]
    return [JSON, PNG, SAFETENSORS, WEBP, JPEG, *([SVG] if operation.has_matrix else [])]


def job_headers(job: Job) -> dict[str, str]:
    """What every answer about a job carries."""
    return {"Location": job_path(job.id), "Vary": "Accept, Authorization"}


async def job_answer(
    call: Call,
    job: Job,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    online: int | None = None,
    detail: Detail = USUAL,
) -> Response:
    """The job as JSON; a 200 carries the entity tag of this revision, and is 304 where the client has it.

    Args:
        online: how many workers live, where that is known.
    """
    context = call.context
    if online is None:
        online = await workers_online(context)
    sent = {"Cache-Control": "no-cache", **job_headers(job), **(headers or {})}
    if status == 200:
        sent["ETag"] = job_etag(context, job, online, detail)
        if call.request.method == "GET" and (unchanged := not_modified(call.request, sent)) is not None:
            return unchanged
    if not job.finished:
        sent["Retry-After"] = str(retry_after_s(job, online, time.time() * 1000))
    elif timings := _server_timing(job):
        sent["Server-Timing"] = timings
    view = await job_view(context, job, online, detail=detail)
    arrays = (view["result"] or {}).get("arrays", {}).values()
    numbers = sum(array["data"].size for array in arrays if "data" in array)
    body = json_bytes(view) if numbers <= FEW_NUMBERS else await asyncio.to_thread(json_bytes, view)
    return Response(body, status, sent, media_type=JSON)


def failure_answer(call: Call, job: Job, problem: ProblemError, headers: dict[str, str] | None = None) -> Response:
    """The problem that a finished job stands for."""
    return problem_response(call.request, problem, {**job_headers(job), **(headers or {})})


async def finished_answer(
    call: Call,
    job: Job,
    media: str,
    query: RenderQuery,
    headers: dict[str, str] | None = None,
) -> Response:
    """A finished job's result in that media type, or its problem."""
    problem = failure(job)
    if problem is not None:
        return failure_answer(call, job, problem, headers)
    sent = {**(headers or {}), "Content-Location": _result_path(job, media, query)}
    assert job.manifest is not None
    online, manifest = await asyncio.gather(workers_online(call.context), call.context.results.manifest(job.manifest))
    if media == JSON:
        return await job_answer(call, job, headers=sent, online=online, detail=query.detail)
    sent = {**job_headers(job), **sent}
    if media in PICTURES:
        return await picture_answer(call, job, manifest, query.pick, query.options(), sent, media)
    return await arrays_answer(call, job, manifest, sent)


def _result_path(job: Job, media: str, query: RenderQuery) -> str:
    """The address of what is answered: of a picture, with how it is drawn; of JSON, with how much it carries."""
    drawn = set(RenderQuery.model_fields) - set(AnswerQuery.model_fields)
    kept = {JSON: set(AnswerQuery.model_fields), **dict.fromkeys(PICTURES, drawn)}
    asked = query.model_dump(exclude_none=True, include=kept.get(media, set()))
    return f"{job_path(job.id)}/result" + (f"?{urlencode(asked)}" if asked else "")


async def picture_answer(
    call: Call,
    job: Job,
    manifest: Manifest,
    pick: str | None,
    options: RenderOptions,
    headers: dict[str, str],
    media: str = PNG,
) -> Response:
    """A picture of a result."""
    assert job.manifest is not None
    tag = etag(job.manifest, media, rendering.version(), pick, options)
    sent = {**headers, "ETag": tag, "Cache-Control": IMMUTABLE}
    if call.request.method == "GET" and (unchanged := not_modified(call.request, sent)) is not None:
        return unchanged
    drawing = await while_connected(call, call.context.renderer.draw(job.manifest, manifest, pick, options, media))
    # Of a cached one another caller may have had it drawn, and the time would tell.
    sent["Server-Timing"] = _server_timing(job, None if job.cached else drawing.ms)
    return Response(drawing.data, 200, sent, media_type=media)


def _server_timing(job: Job, rendered_ms: float | None = None) -> str:
    """A job's times as the header Server-Timing (https://www.w3.org/TR/server-timing/) has them, ms."""
    timings = {"queued": job.queued_ms, "computed": job.computed_ms, "rendered": rendered_ms}
    return ", ".join(f"{name};dur={ms:.1f}" for name, ms in timings.items() if ms is not None)


async def arrays_answer(call: Call, job: Job, manifest: Manifest, headers: dict[str, str]) -> Response:
    """Every array of a result as one safetensors file: the numbers as they are stored, behind a header of ours."""
    # As they lie in the stored file, which has no gaps; empty ones stand before what begins at the same place.
    arrays = dict(sorted(manifest.arrays.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    head = safetensors_header(arrays, metadata(manifest, arrays))
    tag = etag(manifest.arrays_key or job.manifest, SAFETENSORS, hashlib.sha256(head).hexdigest())
    sent = {**headers, "ETag": tag, "Cache-Control": IMMUTABLE}
    if timings := _server_timing(job):
        sent["Server-Timing"] = timings
    return await artifact_response(
        call.request,
        call.context.artifacts,
        head=head,
        key=manifest.arrays_key,
        start=min((array.offset for array in arrays.values()), default=0),
        length=sum(array.nbytes for array in arrays.values()),
        media_type=SAFETENSORS,
        headers=sent,
    )


def known_operation(name: str, place: str) -> None:
    """See that there is an operation of that name.

    Raises:
        ProblemError: `invalid-request`.
    """
    if name not in operations():
        detail = f"there is no operation {name!r}; possible: {', '.join(operations())}"
        raise invalid_field(place, detail, possible=list(operations()))


def operation_of(job: Job) -> Operation[Any]:
    """The operation that a job runs.

    Raises:
        ProblemError: `not-acceptable`, for a job of an operation that this version does not have any more.
    """
    found = operations().get(job.operation)
    if found is None:
        raise ProblemError("not-acceptable", f"This version has no operation {job.operation}.", possible=[JSON])
    return found
