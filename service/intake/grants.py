"""Pictures of a stored result become images of a caller who is answered with it.

The worker that stores a result grants its pictures to everybody who asked for it by then. Who asks later is answered
from the cache, and the service grants them the pictures when it makes the job.
"""

from __future__ import annotations

import structlog

from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import Job
from service.call import Call

log = structlog.get_logger(__name__)


async def grant_pictures(call: Call, job: Job) -> None:
    """Make the pictures of a job's result, whose ids its facts name, images of the caller.

    An image is named by its pixels, so the ids are the same for every caller. A queue or store that takes nothing now
    costs only this: the result is shown all the same.

    Raises:
        ProblemError: `gone`, `store-unavailable` for the manifest; `queue-unavailable`.
    """
    operation = operations().get(job.operation)
    if job.manifest is None or operation is None or operation.image_array is None:
        return
    manifest = await call.context.results.manifest(job.manifest)
    try:
        for number, told in enumerate(manifest.facts.get("pictures", [])):
            if told.get("image_id"):
                pixels = await call.context.results.item(manifest, operation.image_array, number)
                await call.context.images.grant([call.caller], pixels)
    except ProblemError as problem:
        if problem.name not in ("queue-full", "store-unavailable", "gone"):
            raise
        log.warning("pictures_not_kept", job_id=job.id, problem=problem.name, detail=problem.detail)
