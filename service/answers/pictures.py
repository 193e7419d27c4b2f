"""Pictures of a result that are images of whoever is shown them.

The worker that stores a result makes its pictures images of the callers it knows. Who joins the computation after that,
or is answered from the cache, it cannot know: the service does the same for them when it first shows them the ids.
"""

from __future__ import annotations

import structlog

from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError
from convscope.queue.connection import guarded
from convscope.queue.jobs import Job, JobState
from convscope.queue.keys import key
from service.context import Context

log = structlog.get_logger(__name__)


async def own_pictures(context: Context, job: Job) -> None:
    """Make the pictures of a job's result, whose ids its facts name, images of the job's caller; once for each job.

    An image is named by its pixels, so the ids are the same for every caller. What the caller deletes later stays so.
    A queue or store that takes nothing now costs only this: the result is shown, and the next look tries again.

    Raises:
        ProblemError: `gone`, `store-unavailable` for the manifest; `queue-unavailable`.
    """
    operation = operations().get(job.operation)
    if job.state != JobState.SUCCEEDED or job.manifest is None or operation is None or operation.image_array is None:
        return
    done = key("pictures", job.id)
    async with guarded():
        if await context.redis.exists(done):
            return
    manifest = await context.results.manifest(job.manifest)
    try:
        for number, told in enumerate(manifest.facts.get("pictures", [])):
            if told.get("image_id") and not await _has(context, job.caller, told["image_id"]):
                pixels = await context.results.item(manifest, operation.image_array, number)
                await context.images.add_pixels(job.caller, pixels)
        async with guarded():
            await context.redis.set(done, "1", px=round(context.settings.keep_jobs_s * 1000))
    except ProblemError as problem:
        if problem.name not in ("queue-full", "store-unavailable", "gone"):
            raise
        log.warning("pictures_not_kept", job_id=job.id, problem=problem.name, detail=problem.detail)


async def _has(context: Context, caller: str, image_id: str) -> bool:
    try:
        await context.images.get(caller, image_id)
    except ProblemError as problem:
        if problem.name != "not-found":
            raise
        return False
    return True
