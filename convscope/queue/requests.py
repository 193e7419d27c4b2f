"""What a submission tells the queue, and what its refusals tell the caller. Used by `jobs`."""

from __future__ import annotations

import json
import math
from typing import Any

from convscope.protocol.problems import ProblemError
from convscope.queue.keys import idempotency_key
from convscope.queue.records import NO_QUOTA, JobLimits, JobSpec, images_json


def compact(value: Any) -> str:
    """A JSON value as text without spaces."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def submission(spec: JobSpec, limits: JobLimits) -> dict[str, str | int | float]:
    """The arguments of the script that enqueues."""
    return {
        "operation": spec.operation,
        "caller": spec.caller,
        "request": compact(spec.request),
        "labels": compact(spec.labels),
        "images": compact(images_json(spec)),
        "networks": compact(spec.networks) if spec.networks else "",
        "lane": spec.lane,
        "cost": spec.cost,
        "bounded": int(spec.caller_jobs is None or spec.caller_jobs < NO_QUOTA),
        "caller_cost": limits.caller_forwards,
        "digest": spec.digest,
        "environment": spec.environment,
        "deadline_in_ms": "" if spec.deadline_s is None else round(spec.deadline_s * 1000),
        "idempotency": idempotency_key(spec.caller, spec.idempotency_key) if spec.idempotency_key else "",
        "fingerprint": spec.fingerprint,
        "request_id": spec.request_id,
        "no_cache": int(spec.no_cache),
        "lane_depth": limits.lane_depth,
        "caller_jobs": limits.caller_jobs if spec.caller_jobs is None else spec.caller_jobs,
        "keep_ms": round(limits.keep_jobs_s * 1000),
        "memory_share": limits.batch_memory_share if spec.lane == "batch" else limits.memory_share,
    }


def refusal(status: str, extra: str, spec: JobSpec, limits: JobLimits) -> ProblemError:
    """The problem that a refused submission is answered with; `extra` is what the script adds to its status."""
    if status == "mismatch":
        detail = "This Idempotency-Key came before, with another request."
        return ProblemError("idempotency-mismatch", detail, job_id=extra)
    if status == "quota":
        quota = limits.caller_jobs if spec.caller_jobs is None else spec.caller_jobs
        kind = "quick" if spec.lane == "quick" else "long"
        detail = f"{spec.caller} has {quota} unfinished {kind} jobs, as many as allowed."
        return ProblemError("quota-exceeded", detail, retry_after_s=5.0, limit=quota)
    if status == "cancelled":
        detail = f"{spec.caller} has cancelled as many jobs within a minute as it may have unfinished."
        return ProblemError("quota-exceeded", detail, retry_after_s=30.0)
    if status == "cost":
        detail = (
            f"The unfinished jobs of {spec.caller} cost about {int(extra):,} forward passes and this one "
            f"{spec.cost:,.0f}; {limits.caller_forwards:,} are allowed together."
        )
        return ProblemError("quota-exceeded", detail, retry_after_s=30.0, limit_forwards=limits.caller_forwards)
    if status == "memory":
        return ProblemError("queue-full", "The queue's memory is nearly used up.", retry_after_s=10.0)
    # The longest wait in a full lane, spread over its jobs' starts, is about when a few places will be free again.
    wait_s = min(60.0, max(1.0, math.ceil(float(extra) / 1000 / 20)))
    return ProblemError(
        "queue-full",
        f"{limits.lane_depth} {spec.lane} jobs are waiting, as many as allowed.",
        retry_after_s=wait_s,
        limit=limits.lane_depth,
    )
