"""A job as JSON shows it: the schema for documents, and the function that fills it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from convscope.protocol.operations import operations
from convscope.protocol.pictures import Picture
from convscope.protocol.problems import ProblemError
from convscope.protocol.results import Manifest
from convscope.queue.jobs import TERMINAL, Job, JobState
from service.context import Context
from service.http.problems import ProblemDocument, job_problem, problem_document
from service.results.arrays import array_infos


class _View(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProgressView(_View):
    """How far a job is."""

    done: float
    total: float
    message: str
    losses: list[float | None] | None = Field(
        None, description="Of the pictures that a preview shows, the first 16; null before a picture's first step."
    )


class ArrayView(_View):
    """One array of a result."""

    shape: list[int]
    dtype: str
    href: str
    data: Any = Field(None, description="Nested lists, NaN and infinities as null; only where the array is small.")


class PictureView(_View):
    """One picture that can be drawn of a result."""

    name: str = Field(description="What `pick` chooses.")
    href: str
    image_id: str | None = Field(description="Of the image that the picture equals, to send it on.")


class ProvenanceView(BaseModel):
    """What made a result, enough to make it again."""

    model_config = ConfigDict(extra="allow")

    model: str
    weights_sha256: str | None
    code: str
    torch: str
    device: str
    precision: str
    tile: int
    seed: int


class ResultView(_View):
    """The result of a job that succeeded."""

    facts: dict[str, Any] = Field(description="Numbers that matter without opening an array; by operation.")
    arrays: dict[str, ArrayView]
    pictures: list[PictureView]
    provenance: ProvenanceView


class JobView(_View):
    """A job."""

    id: str
    operation: str
    state: JobState
    attempt: int = Field(description="1 for the first; more after a worker died.")
    progress: ProgressView
    workers_online: int = Field(description="Live workers; without one, queued jobs wait.")
    request: dict[str, Any] = Field(description="The request with every default filled in.")
    labels: dict[str, str]
    cached: bool = Field(
        description="Answered from the store, where an identical request was computed before; its times are not told."
    )
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None = Field(description="When a finished job and its result are forgotten.")
    timings_ms: dict[str, float | None] = Field(
        description="queued, computed; rendered, where this process drew a picture of it."
    )
    result: ResultView | None
    error: ProblemDocument | None = Field(description="Why it failed.")
    links: dict[str, str]


class JobList(_View):
    """Some jobs, newest first, without their results; Link: rel=next leads on."""

    jobs: list[JobView]


@dataclass(frozen=True)
class Detail:
    """How much of a result its JSON carries.

    Args:
        data: `none`: no arrays; `href`: each with its address alone; `inline`: each that is small enough with its
            numbers; without it, those with their numbers that callers read there.
        facts_only: neither arrays nor pictures nor the request.
    """

    data: Literal["none", "inline", "href"] | None = None
    facts_only: bool = False


USUAL = Detail()


def _inline_names(manifest: Manifest, detail: Detail) -> set[str]:
    """The arrays whose numbers may stand in the JSON, where they are small enough."""
    if detail.facts_only or detail.data in ("none", "href"):
        return set()
    operation = operations().get(manifest.operation)
    bulky = operation.bulky if operation is not None and detail.data is None else frozenset()
    return set(manifest.arrays) - bulky


def job_path(job_id: str) -> str:
    """The address of a job."""
    return f"/v1/jobs/{job_id}"


def array_path(job_id: str, name: str) -> str:
    """The address of an array of a job's result."""
    return f"{job_path(job_id)}/arrays/{quote(name)}"


def picture_path(job_id: str, name: str) -> str:
    """The address of a picture of a job's result."""
    return f"{job_path(job_id)}/pictures/{quote(name)}"


def iso(ms: float | None) -> str | None:
    """Unix time in ms as ISO 8601 in UTC, to the millisecond."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def pictures(manifest: Manifest) -> list[Picture]:
    """The pictures that the operation declares for a result; none where this version does not have the operation."""
    operation = operations().get(manifest.operation)
    if operation is None:
        return []
    return operation.pictures(manifest.request, manifest.facts, array_infos(manifest))


def etag(*parts: object) -> str:
    """A strong entity tag of everything that the representation depends on."""
    return '"' + hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32] + '"'


async def workers_online(context: Context) -> int:
    """How many workers live."""
    context.seen.workers = await context.jobs.workers_online()
    return context.seen.workers


async def workers_seen(context: Context) -> int:
    """How many workers live, or lived when the queue could last be asked."""
    try:
        return await workers_online(context)
    except ProblemError as error:
        if error.name != "queue-unavailable":
            raise
        return context.seen.workers


def job_etag(context: Context, job: Job, online: int, detail: Detail = USUAL) -> str:
    """The entity tag of a job's JSON: new with each revision."""
    return etag(job.id, job.revision, online, _rendered_ms(context, job), detail)


def _rendered_ms(context: Context, job: Job) -> float | None:
    """How long its last picture took here; not of an answer from the store, which others may have drawn."""
    return None if job.cached else context.renderer.rendered_ms(job.manifest)


def retry_after_s(job: Job, online: int, now_ms: float) -> int:
    """When to look again, seconds: by the progress where there is some, later where nobody works."""
    if job.state == JobState.QUEUED:
        return 2 if online else 30
    done, total = job.progress.done, job.progress.total
    if job.started_ms is not None and 0 < done < total:
        elapsed_s = max(0.0, now_ms - job.started_ms) / 1000
        return int(min(60, max(1, elapsed_s * (total - done) / done)))
    return 2


async def job_view(
    context: Context, job: Job, online: int, *, result: bool = True, detail: Detail = USUAL
) -> dict[str, Any]:
    """A job as JSON values; `result` says whether to read its result."""
    shown = None
    if result and job.state == JobState.SUCCEEDED and job.manifest is not None:
        shown = await result_view(context, job.id, await context.results.manifest(job.manifest), detail)
    timings = {"queued": job.queued_ms, "computed": job.computed_ms}
    rendered = _rendered_ms(context, job)
    if rendered is not None:
        timings["rendered"] = rendered
    return {
        "id": job.id,
        "operation": job.operation,
        "state": job.state.value,
        "attempt": job.attempt,
        "progress": {**job.progress.model_dump(exclude_none=True), "message": _message(job)},
        "workers_online": online,
        "request": {} if detail.facts_only else job.request,
        "labels": job.labels,
        "cached": job.cached,
        "created_at": iso(job.created_ms),
        "started_at": iso(job.started_ms),
        "finished_at": iso(job.finished_ms),
        "expires_at": iso(job.expires_ms),
        "timings_ms": timings,
        "result": shown,
        "error": error_view(job),
        "links": _links(job),
    }


def _message(job: Job) -> str:
    """What a job does now; one that was cancelled and whose worker has not stopped yet says so."""
    return "cancelling" if job.cancelling and job.state not in TERMINAL else job.progress.message


def failure(job: Job) -> ProblemError | None:
    """The problem that a finished job without a result stands for; None for any other."""
    if job.state == JobState.FAILED:
        return job_problem(job.error or {}, job.id)
    if job.state == JobState.EXPIRED:
        detail = str((job.error or {}).get("detail") or "The deadline passed before the job finished.")
        return ProblemError("deadline-exceeded", detail, job_id=job.id)
    if job.state == JobState.CANCELLED:
        return ProblemError("gone", "The job was cancelled; it has no result.", job_id=job.id)
    return None


def error_view(job: Job) -> dict[str, Any] | None:
    """The problem document inside a failed or expired job."""
    problem = None if job.state == JobState.CANCELLED else failure(job)
    if problem is None:
        return None
    problem.extra.pop("job_id", None)
    return problem_document(problem, instance=job_path(job.id), job_id=job.id)


def _links(job: Job) -> dict[str, str]:
    path = job_path(job.id)
    links = {"self": path, "events": f"{path}/events", "result": f"{path}/result"}
    if job.state not in TERMINAL:
        links["cancel"] = f"{path}/cancel"
    return links


async def result_view(context: Context, job_id: str, manifest: Manifest, detail: Detail) -> dict[str, Any]:
    """A result as JSON values."""
    wanted = _inline_names(manifest, detail)
    data = await context.results.inline(manifest, context.settings.inline_numbers, wanted)
    arrays: dict[str, dict[str, Any]] = {}
    for name, stored in {} if detail.data == "none" or detail.facts_only else manifest.arrays.items():
        arrays[name] = {"shape": list(stored.shape), "dtype": stored.dtype, "href": array_path(job_id, name)}
        if name in data:
            arrays[name]["data"] = data[name]
    return {
        "facts": manifest.facts,
        "arrays": arrays,
        "pictures": [
            {"name": picture.name, "href": picture_path(job_id, picture.name), "image_id": picture.image_id}
            for picture in ([] if detail.facts_only else pictures(manifest))
        ],
        "provenance": manifest.provenance.model_dump(mode="json"),
    }


def image_path(image_id: str) -> str:
    """Address of an image."""
    return f"/v1/images/{image_id}"
