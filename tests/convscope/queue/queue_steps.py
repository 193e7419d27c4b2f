"""Short words for the tests of the queue: submit, claim, look."""

from __future__ import annotations

import json
from typing import Any

from redis.asyncio import Redis

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import Claim, Job, JobLimits, Jobs, JobSpec
from convscope.queue.keys import key

ME = "ada"
OPERATIONS = ["classify", "maximize"]
ERROR = {"name": "numerical-error", "detail": "The loss is not a number.", "extra": {"step": 3}}


def make_queue(redis: Redis, **limits: Any) -> Jobs:
    """A queue with the usual limits but those named."""
    return Jobs(redis, JobLimits(**limits))


def spec(**changes: Any) -> JobSpec:
    """A request of `ada` that is never shared, unless told otherwise."""
    return JobSpec(**{"operation": "classify", "request": {"model": "m"}, "caller": ME, **changes})


async def submit(jobs: Jobs, **changes: Any) -> Job:
    """A new job."""
    job, new = await jobs.enqueue(spec(**changes))
    assert new
    return job


async def claim(jobs: Jobs, worker: str = "w1", *, interactive: int = 10, batch: int = 10) -> list[Claim]:
    """All that a worker with much room is given."""
    return await jobs.claim(worker, interactive=interactive, batch=batch, operations=OPERATIONS)


async def claim_one(jobs: Jobs, worker: str = "w1") -> Claim:
    """The one run that waits."""
    (only,) = await claim(jobs, worker)
    return only


async def problem_of(work: Any) -> ProblemError:
    """The problem that a call raises."""
    try:
        answer = await work
    except ProblemError as problem:
        return problem
    raise AssertionError(f"no problem, but {answer}")


async def lose_lease(redis: Redis, jobs: Jobs, run: str) -> None:
    """As if the worker had been silent for longer than its lease."""
    await redis.zadd(key("leases"), {run: 1})
    await jobs.sweep()


async def pass_deadline(redis: Redis, job: Job) -> None:
    """As if the deadline of a job had passed."""
    await redis.hset(key("job", job.id), "deadline_ms", "1")
    await redis.zadd(key("deadlines"), {job.id: 1})


async def events_of(redis: Redis, job: Job) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of a job's events, without their times."""
    entries = await redis.xrange(key("events", job.id))
    return [
        (fields["name"], {name: value for name, value in json.loads(fields["data"]).items() if name != "at_ms"})
        for _, fields in entries
    ]
