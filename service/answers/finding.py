"""A job as its caller may find it, and what is said of one that is no more."""

from __future__ import annotations

import time
import uuid

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import Job
from service.call import Call


async def find(call: Call, job_id: str) -> Job:
    """A caller's job.

    Raises:
        ProblemError: `not-found`; `gone` where the id says that its job's lifetime is over.
    """
    try:
        return await call.context.jobs.get(job_id, call.caller)
    except ProblemError as error:
        if error.name == "not-found" and _outlived(job_id, call.context.settings.keep_jobs_s):
            raise ProblemError("gone", "Jobs are kept for a time, and this one's is over.") from error
        raise


def _outlived(job_id: str, keep_s: float) -> bool:
    """Whether a job of that id, if there was one, was made longer ago than jobs are kept.

    The id of a job (UUID version 7) begins with the time it was made. The answer is the same for every caller.
    """
    try:
        parsed = uuid.UUID(job_id)
    except ValueError:
        return False
    made_s = (parsed.int >> 80) / 1000
    return parsed.version == 7 and str(parsed) == job_id and 0 < made_s < time.time() - keep_s
