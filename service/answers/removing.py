"""Removing what jobs left: a job with its result and its pictures, and every job that an image was given to."""

from __future__ import annotations

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import Job
from convscope.store.images import MADE
from service.call import Call

_AT_ONCE = 50


async def remove_job(call: Call, job: Job) -> None:
    """Forget a finished job: its record, events and result, and those of its pictures that became the caller's images.

    Raises:
        ProblemError: `not-found`; `queue-unavailable`, `store-unavailable`.
    """
    pictures = await _pictures(call, job)
    await call.context.jobs.delete(job)
    for image_id in pictures:
        try:
            if (await call.context.images.get(call.caller, image_id)).format == MADE:
                await call.context.images.delete(call.caller, image_id)
        except ProblemError as error:
            if error.name != "not-found":
                raise


async def remove_jobs_of_image(call: Call, image_id: str) -> None:
    """End every job of the caller that was given the image, and remove those that are finished.

    Jobs of a set that holds the image are the set's, and stay.

    Raises:
        ProblemError: `queue-unavailable`, `store-unavailable`.
    """

    def given(job: Job) -> bool:
        return any(image.id == image_id for image in job.images)

    cursor: str | None = ""
    while cursor is not None:
        jobs, cursor = await call.context.jobs.page(call.caller, limit=_AT_ONCE, cursor=cursor, fits=given)
        for job in jobs:
            try:
                if not job.finished:
                    job = await call.context.jobs.cancel(job.id, call.caller)
                if job.finished:  # else it stops soon, and has no result
                    await remove_job(call, job)
            except ProblemError as error:
                if error.name not in ("not-found", "already-finished"):
                    raise
                if error.name == "already-finished":
                    await remove_job(call, await call.context.jobs.get(job.id, call.caller))


async def _pictures(call: Call, job: Job) -> list[str]:
    """Ids under which a result's pictures were made images."""
    if job.manifest is None:
        return []
    try:
        manifest = await call.context.results.manifest(job.manifest)
    except ProblemError as error:
        if error.name != "gone":
            raise
        return []
    return [str(told["image_id"]) for told in manifest.facts.get("pictures", []) if told.get("image_id")]
