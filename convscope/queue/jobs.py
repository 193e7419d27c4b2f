"""The queue: jobs and the moves between their states, each one a script that the server runs whole.

A job is what a client sees; a run is one computation, shared by the jobs that asked for the same. Lanes and leases hold
runs.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from redis.asyncio import Redis

from convscope.protocol.problems import ProblemError, is_passing
from convscope.queue.connection import guarded
from convscope.queue.keys import archived_key, key, short_key
from convscope.queue.listing import read_page
from convscope.queue.lua import Scripts
from convscope.queue.records import (
    ACTIVE,
    NO_QUOTA,
    TERMINAL,
    Claim,
    Job,
    JobImage,
    JobLimits,
    JobProgress,
    JobSpec,
    JobState,
    Lane,
    QueueStats,
    SweepReport,
    Verdict,
    WorkerInfo,
    new_id,
    pairs,
)
from convscope.queue.requests import compact, refusal, submission
from convscope.queue.server_version import refuse_old_server
from convscope.queue.stats import read_beats, read_stats, read_unfinished, read_workers

__all__ = [
    "ACTIVE",
    "NO_QUOTA",
    "TERMINAL",
    "Claim",
    "Job",
    "JobImage",
    "JobLimits",
    "JobProgress",
    "JobSpec",
    "JobState",
    "Jobs",
    "Lane",
    "QueueStats",
    "SweepReport",
    "Verdict",
    "WorkerInfo",
    "new_id",
]

PROGRESS_EVERY_MS = 400
"""Progress events of one run are at least this far apart; the record itself follows each report."""

_LONGEST_ID = 64
_PROBE_KEPT_S = 10


class RecordArchive(Protocol):
    """Where the records of finished jobs are kept."""

    async def read(self, ref: str, job_id: str) -> Mapping[str, str]:
        """The record of an archived job."""
        ...


class Jobs:
    """All moves of jobs and runs. Every method raises ProblemError `queue-unavailable` without a server.

    Args:
        redis: an ordinary client.
        limits: bounds and lifetimes.
        archive: where the records of finished jobs are; who reads none needs none.
    """

    def __init__(self, redis: Redis, limits: JobLimits, archive: RecordArchive | None = None) -> None:
        self._redis = redis
        self._archive = archive
        self._limits = limits
        self._scripts = Scripts(redis)
        self._keep_ms = round(limits.keep_jobs_s * 1000)
        self._lease_ms = round(limits.lease_s * 1000)

    # Clients.

    async def enqueue(self, spec: JobSpec, *, instead_of: str = "") -> tuple[Job, bool]:
        """The job of a request, and whether it is a new one (an idempotency key may name an older one).

        A stored result of an identical request makes the new job succeed at once; an identical computation in flight
        is shared, except under `no_cache`. `instead_of` is a job whose result was lost: a key that names it will name
        the new one.

        Raises:
            ProblemError: `idempotency-mismatch`, `quota-exceeded`, `queue-full`.
        """
        job_id = new_id()
        status, flat, extra = await self._scripts.run(
            "enqueue", id=job_id, instead_of=instead_of, **submission(spec, self._limits)
        )
        if status in ("new", "same"):
            found = str(extra) or job_id
            held = pairs(flat) or await self._archived(found, spec.caller)
            return Job.from_hash(found, held), status == "new"
        raise refusal(str(status), str(extra), spec, self._limits)

    async def get(self, job_id: str, caller: str) -> Job:
        """A caller's job.

        Raises:
            ProblemError: `not-found`, also for another caller's job.
        """
        held = await self._record(job_id) or await self._archived(job_id, caller)
        if not hmac.compare_digest(held.get("caller", "").encode(), caller.encode()) or not held:
            raise _no_such_job(job_id)
        return Job.from_hash(job_id, held)

    async def _record(self, job_id: str) -> Mapping[str, str]:
        if len(job_id) > _LONGEST_ID:
            return {}
        async with guarded():
            held = await self._redis.hgetall(key("job", job_id))
        return {str(name): str(value) for name, value in held.items()}

    async def _archived(self, job_id: str, caller: str) -> Mapping[str, str]:
        """The record of a caller's job that is in the archive; empty where it is not."""
        if len(job_id) > _LONGEST_ID:
            return {}
        async with guarded():
            found = await self._redis.hget(archived_key(caller, job_id), job_id)
        return await self._unpack(job_id, str(found)) if found else {}

    async def _unpack(self, job_id: str, archived: str) -> Mapping[str, str]:
        """The record that an entry of the archive is about."""
        if self._archive is None:
            raise ProblemError("gone", "The record of this job is in the archive.")
        return await self._archive.read(archived[1:], job_id)

    async def page(
        self,
        caller: str,
        *,
        state: JobState | str | None = None,
        operation: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        fits: Callable[[Job], bool] | None = None,
    ) -> tuple[list[Job], str | None]:
        """A caller's jobs, newest first, that fit, and the cursor of the next page; None where there is none.

        Raises:
            ProblemError: `invalid-request` for a cursor that this method did not give.
        """
        return await read_page(
            self._redis, caller, self._unpack, state=state, operation=operation, fits=fits, limit=limit, cursor=cursor
        )

    async def cancel(self, job_id: str, caller: str) -> Job:
        """End a job: at once where it waits or others share its computation, else the worker is asked to stop.

        A job that was cancelled before is answered like the first time.

        Raises:
            ProblemError: `not-found`, `already-finished`.
        """
        if len(job_id) > _LONGEST_ID:
            raise _no_such_job(job_id)
        status, flat = await self._scripts.run("cancel", id=job_id, caller=caller, keep_ms=self._keep_ms)
        held = pairs(flat) or await self._archived(job_id, caller)
        if not held:
            raise _no_such_job(job_id)
        if status == "finished" or (status == "not-found" and held["state"] != JobState.CANCELLED):
            raise ProblemError("already-finished", f"The job is {held['state']}.", job_id=job_id, state=held["state"])
        return Job.from_hash(job_id, held)

    async def delete(self, job: Job) -> None:
        """Forget a finished job, its events, its key, and its result as an answer to identical requests.

        Raises:
            ProblemError: `not-found`.
        """
        status = await self._scripts.run(
            "delete",
            id=job.id,
            caller=job.caller,
            idempotency=job.idempotency,
            digest=job.digest,
            result=short_key(job.manifest or ""),
        )
        if status != "deleted":
            raise _no_such_job(job.id)

    async def forget_result(self, job: Job) -> None:
        """No longer answer identical requests with this job's result: its artifacts are gone."""
        if not job.digest or not job.manifest:
            return
        async with guarded():
            if await self._redis.get(key("result", job.digest)) == short_key(job.manifest):
                await self._redis.delete(key("result", job.digest))

    # Workers.

    async def claim(
        self,
        worker: str,
        *,
        quick: int = 0,
        interactive: int,
        batch: int,
        operations: Collection[str],
        aged: int = 1,
        most: Mapping[Lane, int] | None = None,
    ) -> list[Claim]:
        """Runs for a worker that has room for so many of each lane and knows those operations.

        A run marked `alone` is given only to a worker that holds no lease, and nothing else until it has let it go or
        written a checkpoint. Among `interactive` places there may be an aged batch run (`slot` says so) where `aged` of
        them are left for such. `most` bounds how many of a lane's runs this worker may hold of one caller.
        """
        most = most or {}
        reply = await self._scripts.run(
            "claim",
            worker=worker,
            token=secrets.token_hex(8),
            quick=max(quick, 0),
            interactive=max(interactive, 0),
            batch=max(batch, 0),
            aged=aged,
            most_quick=most.get("quick", 0),
            most_interactive=most.get("interactive", 0),
            most_batch=most.get("batch", 0),
            operations=",".join(sorted(operations)),
            lease_ms=self._lease_ms,
            aged_ms=round(self._limits.aged_s * 1000),
            patience_ms=round(self._limits.alone_patience_s * 1000),
            keep_ms=self._keep_ms,
        )
        return [Claim.from_reply(one) for one in reply]

    async def renew(self, worker: str, runs: Sequence[tuple[str, int]]) -> dict[str, Verdict]:
        """Extend the leases of runs (with their epochs), which the engine has moved since the last time."""
        if not runs:
            return {}
        reply = await self._scripts.run(
            "renew",
            worker=worker,
            runs=" ".join(f"{run} {epoch}" for run, epoch in runs),
            lease_ms=self._lease_ms,
        )
        return {run: Verdict(verdict) for run, verdict in pairs(reply).items()}

    async def progress(self, run: str, epoch: int, progress: JobProgress, preview: str | None = None) -> Verdict:
        """Say how far a run is; `preview` is the artifact key of a PNG."""
        reply = await self._scripts.run(
            "progress",
            run=run,
            epoch=epoch,
            token=secrets.token_hex(8),
            done=progress.done,
            total=progress.total,
            message=progress.message,
            losses="" if progress.losses is None else json.dumps(progress.losses),
            preview=preview or "",
            every_ms=PROGRESS_EVERY_MS,
        )
        return Verdict(reply)

    async def checkpointed(self, run: str, epoch: int, ref: str, step: int) -> Verdict:
        """Remember a stored checkpoint, its artifact key and step; the one before is kept too."""
        return Verdict(await self._scripts.run("checkpointed", run=run, epoch=epoch, ref=ref, step=step))

    async def finish(
        self,
        run: str,
        epoch: int,
        *,
        manifest: str | None = None,
        error: Mapping[str, Any] | None = None,
        computed_ms: float,
        environment: str = "",
        granted: Collection[str] | None = None,
    ) -> Verdict:
        """The end of a run, after its artifacts are stored: a result's manifest, or an error {name, detail, extra}.

        A result answers later requests only where `environment`, what the worker runs on, is what its digest was made
        for: while versions or devices are mixed, a job may be computed by a worker of another kind.

        `granted` are the callers whom the result's pictures were granted to, where it has pictures: the answer is
        `JOINED`, and nothing has happened, where others have asked for it meanwhile.
        """
        if (manifest is None) == (error is None):
            raise ValueError("a run ends with either a manifest or an error")
        reply = await self._scripts.run(
            "finish",
            run=run,
            epoch=epoch,
            manifest=manifest or "",
            result=short_key(manifest or ""),
            error=compact(dict(error)) if error else "",
            error_name=str(error["name"]) if error else "",
            passing=int(error is not None and is_passing(str(error["name"]))),
            environment=environment,
            granted="*" if granted is None else " ".join(sorted(granted)),
            computed_ms=computed_ms,
            keep_ms=self._keep_ms,
        )
        return Verdict(reply)

    async def callers(self, run: str) -> frozenset[str]:
        """The callers of the unfinished jobs that share a run."""
        async with guarded():
            jobs = await self._redis.smembers(key("members", run))
            found = [await self._redis.hget(key("job", str(job)), "caller") for job in sorted(jobs)]
        return frozenset(str(caller) for caller in found if caller is not None)

    async def requeue(self, run: str, epoch: int, *, crashed: bool, reason: str = "") -> Verdict:
        """Let a run go unfinished: after a crash of its engine, a stop of the worker, or to confirm a cancellation."""
        reply = await self._scripts.run(
            "requeue",
            run=run,
            epoch=epoch,
            crashed=int(crashed),
            reason=reason or "no reason known",
            crash_limit=self._limits.crashes,
            keep_ms=self._keep_ms,
        )
        return Verdict(reply)

    async def archived(self, jobs: Sequence[str], ref: str) -> None:
        """The records of these jobs are in the archive, under that reference (or are no more)."""
        await self._scripts.run("archive", jobs=" ".join(jobs), ref=ref)

    async def sweep(self) -> SweepReport:
        """Put right what time and accidents have done; every supervisor calls it each second."""
        reply = await self._scripts.run(
            "sweep", lease_ms=self._lease_ms, crash_limit=self._limits.crashes, keep_ms=self._keep_ms
        )
        return SweepReport.model_validate(pairs(reply))

    async def bury(self, worker: str) -> int:
        """A worker is known to be dead: its leases are over now. How many there were."""
        return int(await self._scripts.run("bury", worker=worker))

    async def heartbeat(self, info: WorkerInfo) -> None:
        """A worker lives; without another heartbeat for 10 s it no longer counts."""
        await self._scripts.run("heartbeat", id=info.id, info=info.model_dump_json(exclude={"heartbeat_ms"}))

    async def sign_off(self, worker_id: str) -> None:
        """A worker has ended in order; it no longer counts."""
        async with guarded(), self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(key("workers"), worker_id)
            pipe.delete(key("worker", worker_id))
            await pipe.execute()

    async def workers(self) -> list[WorkerInfo]:
        """The workers that live."""
        return await read_workers(self._redis)

    async def room(self, caller: str, caller_jobs: int | None) -> dict[str, tuple[int, int]]:
        """A caller's quota (`caller_jobs`, else the setting's) of `quick` and `long` jobs, and how many more may be."""
        quota = self._limits.caller_jobs if caller_jobs is None else caller_jobs
        taken = await read_unfinished(self._redis, caller)
        return {kind: (quota, max(0, quota - count)) for kind, count in taken.items()}

    async def workers_online(self) -> int:
        """How many workers live."""
        return len(await read_beats(self._redis))

    async def check_writable(self) -> None:
        """Write a few bytes, to see that the server takes them, and that it is recent enough.

        Raises:
            ProblemError: `queue-unavailable`, `queue-full`.
        """
        await refuse_old_server(self._redis)
        async with guarded():
            await self._redis.set(key("probe"), "1", ex=_PROBE_KEPT_S)

    async def stats(self) -> QueueStats:
        """Figures for /metrics."""
        return await read_stats(self._redis)


def _no_such_job(job_id: str) -> ProblemError:
    return ProblemError("not-found", f"There is no job {job_id[:_LONGEST_ID]!r}.")
