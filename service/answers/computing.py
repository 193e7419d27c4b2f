"""Several jobs behind one request that cannot be told of them: submitted, waited for, cancelled where nobody waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import structlog

from convscope.protocol.operations.base import Operation
from convscope.protocol.problems import ProblemError
from convscope.protocol.results import Manifest
from convscope.queue.jobs import Job
from service.answers.views import failure
from service.answers.waiting import wait_for_end
from service.call import Call
from service.intake.submission import receive_properties, submit

log = structlog.get_logger(__name__)

Asked = tuple[Operation[Any], dict[str, Any]]
"""An operation and the properties of its request, with images by their ids."""


async def computed(call: Call, asked: Sequence[Asked]) -> list[tuple[Job, Manifest]]:
    """The results of several requests, which are computed at the same time.

    Raises:
        ProblemError: of a request; why one has no result; `deadline-exceeded` after the longest wait.
        ClientDisconnect: nobody waits any more.
    """
    until = time.monotonic() + call.context.settings.longest_wait_s
    jobs: list[Job] = []
    try:
        for operation, properties in asked:
            received = await receive_properties(call, operation, properties)
            job, _ = await submit(call, operation, received, keyed=False)
            jobs.append(job)
        return [await _ended(call, job, until) for job in jobs]
    except BaseException:
        await asyncio.shield(_cancel(call, jobs))
        raise


async def _ended(call: Call, job: Job, until: float) -> tuple[Job, Manifest]:
    job = await wait_for_end(call, job, until - time.monotonic())
    problem = failure(job)
    if problem is None and not job.finished:
        waited_s = call.context.settings.longest_wait_s
        detail = f"The computation did not end within {waited_s:g} s; POST /v1/{job.operation} makes a job of it."
        problem = ProblemError("deadline-exceeded", detail)
    if problem is not None or job.manifest is None:
        raise problem or ProblemError("gone", "The job has no result.", job_id=job.id)
    return job, await call.context.results.manifest(job.manifest)


async def _cancel(call: Call, jobs: Sequence[Job]) -> None:
    """End what nobody can ask for any more."""
    for job in jobs:
        try:
            if not job.finished:
                await call.context.jobs.cancel(job.id, call.caller)
        except ProblemError as error:
            if error.name not in ("already-finished", "not-found"):
                log.warning("not_cancelled", job_id=job.id, error=error.detail)
