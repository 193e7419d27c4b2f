"""One move after another: what a client and a worker see of it."""

from __future__ import annotations

import asyncio
import random

import pytest
from redis.asyncio import Redis

from convscope.queue.jobs import JobImage, JobProgress, JobState, Verdict, new_id
from convscope.queue.keys import idempotency_key, key
from tests.convscope.queue.queue_steps import (
    ERROR,
    ME,
    claim,
    claim_one,
    events_of,
    lose_lease,
    make_queue,
    pass_deadline,
    problem_of,
    spec,
    submit,
)


async def test_a_life_in_full(redis: Redis) -> None:
    jobs = make_queue(redis)
    image = JobImage(id="i1", pixels="images/ab/cd", width=4, height=3)
    job = await submit(jobs, labels={"ticket": "7"}, images=[image], request={"model": "m", "top": 5}, request_id="r9")
    assert (job.state, job.attempt, job.run, job.revision) == (JobState.QUEUED, 0, job.id, 1)
    assert (job.labels, job.images, job.request) == ({"ticket": "7"}, [image], {"model": "m", "top": 5})

    run = await claim_one(jobs)
    assert (run.epoch, run.attempt, run.lane, run.alone, run.members) == (1, 1, "interactive", False, [job.id])
    assert (run.request, run.images, run.request_id) == (job.request, job.images, "r9")
    running = await jobs.get(job.id, ME)
    assert (running.state, running.attempt) == (JobState.RUNNING, 1)
    assert running.started_ms is not None and running.queued_ms == running.started_ms - running.created_ms

    said = JobProgress(done=2, total=8, message="step 2", losses=[-1.25, None, 3e-7])
    assert await jobs.progress(run.run, run.epoch, said, "previews/1") is Verdict.GO_ON
    assert (await jobs.get(job.id, ME)).progress == said
    plain = JobProgress(done=3, total=8, message="step 3")
    assert await jobs.progress(run.run, run.epoch, plain, "previews/2") is Verdict.GO_ON
    assert (await jobs.get(job.id, ME)).progress == plain
    assert await jobs.progress(run.run, run.epoch, JobProgress(done=4, total=8, losses=[1.0])) is Verdict.GO_ON
    assert await jobs.finish(run.run, run.epoch, manifest="results/1", computed_ms=12.5) is Verdict.GO_ON
    done = await jobs.get(job.id, ME)
    assert (done.state, done.manifest, done.computed_ms, done.error) == (JobState.SUCCEEDED, "results/1", 12.5, None)
    assert done.progress == JobProgress(done=8, total=8, message="done")
    assert done.finished_ms is not None and done.expires_ms == done.finished_ms + 86_400_000
    assert done.revision > running.revision > job.revision
    assert await events_of(redis, job) == [
        ("state", {"state": "queued", "attempt": 0, "cancelling": False}),
        ("state", {"state": "running", "attempt": 1, "cancelling": False}),
        ("progress", {"done": 2, "total": 8, "message": "step 2", "losses": [-1.25, None, 3e-7]}),
        ("preview", {"key": "previews/1"}),
        ("progress", {"done": 3, "total": 8, "message": "step 3"}),
        ("preview", {"key": "previews/2"}),
        ("state", {"state": "succeeded", "attempt": 1, "cancelling": False}),
        ("done", {"state": "succeeded"}),
    ]


async def test_a_failure_carries_its_problem(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    run = await claim_one(jobs)
    assert await jobs.finish(run.run, run.epoch, error=ERROR, computed_ms=1) is Verdict.GO_ON
    failed = await jobs.get(job.id, ME)
    assert (failed.state, failed.error, failed.manifest) == (JobState.FAILED, ERROR, None)


async def test_a_run_ends_with_a_manifest_or_an_error(redis: Redis) -> None:
    jobs = make_queue(redis)
    with pytest.raises(ValueError, match="either"):
        await jobs.finish("r", 1, computed_ms=1)
    with pytest.raises(ValueError, match="either"):
        await jobs.finish("r", 1, manifest="m", error=ERROR, computed_ms=1)


async def test_nothing_stays_of_a_finished_job_but_what_has_a_lifetime(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, digest="d", deadline_s=100, idempotency_key="k", fingerprint="f")
    assert {name for name in await redis.keys() if await redis.pttl(name) < 0} >= {key("job", job.id)}
    run = await claim_one(jobs)
    await jobs.progress(run.run, run.epoch, JobProgress())
    await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1)
    lasting = {name for name in await redis.keys() if await redis.pttl(name) < 0}
    assert lasting == {
        key("changes"),
        key("doorbell"),
        key("counters"),
        key("times"),
        key("turns"),
        key("finished"),
        key("shares", "interactive"),
    }
    for name in (key("job", job.id), key("events", job.id), key("result", "d"), idempotency_key(ME, "k")):
        assert 86_300_000 < await redis.pttl(name) <= 86_400_000


async def test_another_callers_job_does_not_exist(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    for work in (jobs.get(job.id, "bob"), jobs.cancel(job.id, "bob"), jobs.get("", ""), jobs.get("x" * 1000, ME)):
        assert (await problem_of(work)).name == "not-found"


# Idempotency keys.


async def test_the_same_key_and_request_name_the_same_job(redis: Redis) -> None:
    jobs = make_queue(redis)
    first = await submit(jobs, idempotency_key="k", fingerprint="f")
    again, new = await jobs.enqueue(spec(idempotency_key="k", fingerprint="f"))
    assert (again.id, new) == (first.id, False)
    mismatch = await problem_of(jobs.enqueue(spec(idempotency_key="k", fingerprint="g")))
    assert (mismatch.name, mismatch.extra["job_id"]) == ("idempotency-mismatch", first.id)
    other = await submit(jobs, idempotency_key="k", fingerprint="g", caller="bob")
    assert other.id != first.id


async def test_a_key_is_remembered_after_the_end_and_forgotten_with_the_job(redis: Redis) -> None:
    jobs = make_queue(redis)
    first = await submit(jobs, idempotency_key="k", fingerprint="f")
    run = await claim_one(jobs)
    await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1)
    again, new = await jobs.enqueue(spec(idempotency_key="k", fingerprint="f"))
    assert (again.id, again.state, new) == (first.id, JobState.SUCCEEDED, False)
    await redis.delete(key("job", first.id))
    assert (await submit(jobs, idempotency_key="k", fingerprint="g")).id != first.id


async def test_fifty_submissions_at_once_with_one_key_are_one_job(redis: Redis) -> None:
    jobs = make_queue(redis)
    answers = await asyncio.gather(*(jobs.enqueue(spec(idempotency_key="k", fingerprint="f")) for _ in range(50)))
    assert len({job.id for job, _ in answers}) == 1
    assert sum(new for _, new in answers) == 1
    assert await redis.zcard(key("lane", "interactive")) == await redis.zcard(key("unfinished", "long", ME)) == 1


async def test_ids_are_uuids_of_version_7_that_sort_by_age() -> None:
    ids = [new_id() for _ in range(3)]
    assert all(one[14] == "7" and one[19] in "89ab" and len(one) == 36 for one in ids)
    await asyncio.sleep(0.002)
    assert new_id() > max(ids)


# One computation for many.


async def test_identical_requests_in_flight_share_one_computation(redis: Redis) -> None:
    jobs = make_queue(redis)
    first = await submit(jobs, digest="d")
    second = await submit(jobs, digest="d", caller="bob", labels={"a": "b"})
    other = await submit(jobs, digest="e")
    fresh = await submit(jobs, digest="d", no_cache=True)
    assert (second.run, second.labels) == (first.id, {"a": "b"})
    assert (other.run, fresh.run) == (other.id, fresh.id)
    runs = {run.run: run for run in await claim(jobs)}
    assert set(runs) == {first.id, other.id, fresh.id}
    shared = runs[first.id]
    assert shared.members == sorted([first.id, second.id])  # ids made within one millisecond sort by chance
    third = await submit(jobs, digest="d")
    assert (third.state, third.run, third.attempt) == (JobState.RUNNING, first.id, 1)
    await jobs.progress(shared.run, shared.epoch, JobProgress(done=1, total=2))
    await jobs.finish(shared.run, shared.epoch, manifest="m", computed_ms=1)
    for job, caller in ((first, ME), (second, "bob"), (third, ME)):
        ended = await jobs.get(job.id, caller)
        assert (ended.state, ended.manifest, ended.progress.total) == (JobState.SUCCEEDED, "m", 2)
    assert (await jobs.get(fresh.id, ME)).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("meant", "ran_on", "kept"),
    [("new", "new", True), ("new", "old", False), ("", "old", True), ("new", "", True), ("", "", True)],
)
async def test_what_another_kind_of_worker_computed_answers_its_job_and_no_later_one(
    redis: Redis, meant: str, ran_on: str, kept: bool
) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, digest="d", environment=meant)
    run = await claim_one(jobs)
    await jobs.finish(run.run, run.epoch, manifest="results/1", computed_ms=1, environment=ran_on)
    assert (await jobs.get(job.id, ME)).manifest == "results/1"
    later = await submit(jobs, digest="d", environment=meant)
    assert later.state is (JobState.SUCCEEDED if kept else JobState.QUEUED)


async def test_a_job_detaches_and_the_last_one_ends_the_computation(redis: Redis) -> None:
    jobs = make_queue(redis)
    first, second = await submit(jobs, digest="d"), await submit(jobs, digest="d")
    run = await claim_one(jobs)
    assert (await jobs.cancel(first.id, ME)).state is JobState.CANCELLED
    assert await jobs.renew("w1", [(run.run, run.epoch)]) == {run.run: Verdict.GO_ON}
    leaving = await jobs.cancel(second.id, ME)
    assert (leaving.state, leaving.cancelling) == (JobState.RUNNING, True)
    assert await jobs.renew("w1", [(run.run, run.epoch)]) == {run.run: Verdict.CANCELLED}
    newcomer = await submit(jobs, digest="d")
    assert newcomer.run == newcomer.id, "nobody joins a computation that is being stopped"


async def test_an_identical_request_is_answered_from_the_store(redis: Redis) -> None:
    jobs = make_queue(redis)
    await submit(jobs, digest="d")
    run = await claim_one(jobs)
    await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=7)
    job = await submit(jobs, digest="d", idempotency_key="k", fingerprint="f")
    assert (job.state, job.manifest, job.queued_ms) == (JobState.SUCCEEDED, "m", 0)
    assert job.cached and job.computed_ms is None, "how long another's took is nobody's affair"
    assert await events_of(redis, job) == []
    assert (await jobs.enqueue(spec(digest="d", idempotency_key="k", fingerprint="f")))[0].id == job.id


async def test_no_cache_computes_again_and_replaces_what_is_stored(redis: Redis) -> None:
    jobs = make_queue(redis)
    for manifest in ("old", "new"):
        await submit(jobs, digest="d", no_cache=True)
        run = await claim_one(jobs)
        await jobs.finish(run.run, run.epoch, manifest=manifest, computed_ms=7)
    answered = await submit(jobs, digest="d")
    assert answered.manifest == "new"
    await jobs.forget_result(answered)
    assert (await submit(jobs, digest="d")).state is JobState.QUEUED


async def test_failures_and_requests_without_digest_are_not_stored(redis: Redis) -> None:
    jobs = make_queue(redis)
    await submit(jobs, digest="d")
    run = await claim_one(jobs)
    await jobs.finish(run.run, run.epoch, error=ERROR, computed_ms=7)
    assert (await submit(jobs, digest="d")).state is JobState.QUEUED
    await submit(jobs)
    for run in await claim(jobs):
        await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=7)
    assert (await submit(jobs)).state is JobState.QUEUED


# Cancelling.


async def test_a_waiting_job_is_cancelled_at_once(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, digest="d")
    for _ in range(2):
        assert (await jobs.cancel(job.id, ME)).state is JobState.CANCELLED
    assert await claim(jobs) == []
    assert await redis.zcard(key("lane", "interactive")) == 0
    assert (await events_of(redis, job))[-1] == ("done", {"state": "cancelled"})


@pytest.mark.parametrize("confirm", ["give back", "finish", "crash", "silence"])
async def test_a_running_job_is_cancelled_when_its_worker_confirms(redis: Redis, confirm: str) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, digest="d")
    run = await claim_one(jobs)
    for _ in range(2):
        asked = await jobs.cancel(job.id, ME)
        assert (asked.state, asked.cancelling) == (JobState.RUNNING, True)
    assert await jobs.progress(run.run, run.epoch, JobProgress(done=1)) is Verdict.CANCELLED
    if confirm == "finish":
        verdict = await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1)
        assert await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1) is verdict is Verdict.CANCELLED
    elif confirm == "silence":
        await lose_lease(redis, jobs, run.run)
    else:
        verdict = await jobs.requeue(run.run, run.epoch, crashed=confirm == "crash")
        assert verdict is Verdict.CANCELLED
    ended = await jobs.get(job.id, ME)
    assert (ended.state, ended.manifest, ended.cancelling) == (JobState.CANCELLED, None, False)
    assert await redis.zcard(key("leases")) == await redis.scard(key("held", "w1")) == 0
    assert (await jobs.cancel(job.id, ME)).state is JobState.CANCELLED
    # The work was not for nothing where it was complete.
    assert (await submit(jobs, digest="d")).state is (JobState.SUCCEEDED if confirm == "finish" else JobState.QUEUED)


async def test_renewing_does_not_prolong_what_is_being_cancelled(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    run = await claim_one(jobs)
    await jobs.cancel(job.id, ME)
    before = await redis.zscore(key("leases"), run.run)
    await asyncio.sleep(0.003)
    await jobs.renew("w1", [(run.run, run.epoch)])
    assert await redis.zscore(key("leases"), run.run) == before


async def test_a_finished_job_cannot_be_cancelled(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    run = await claim_one(jobs)
    await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1)
    problem = await problem_of(jobs.cancel(job.id, ME))
    assert (problem.name, problem.extra["state"]) == ("already-finished", "succeeded")


async def test_cancel_races_with_finish_and_one_of_them_wins(redis: Redis) -> None:
    """A thousand times both at once: the answers to client and worker agree with the one end the job has."""
    jobs = make_queue(redis, caller_jobs=2000)
    rng = random.Random(17)

    async def later(work: object) -> object:
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        return await work  # type: ignore[misc]

    async def race() -> None:
        job = await submit(jobs)
        (run,) = await jobs.claim(job.id, interactive=1, batch=0, operations=["classify"])
        mine = await jobs.get(run.members[0], ME)
        verdict, answer = await asyncio.gather(
            later(jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1)),
            later(jobs.cancel(mine.id, ME)),
            return_exceptions=True,
        )
        ended = await jobs.get(mine.id, ME)
        names = [name for name, _ in await events_of(redis, mine)]
        assert names.count("done") == 1 and names[-1] == "done"
        if ended.state is JobState.SUCCEEDED:
            assert verdict is Verdict.GO_ON
            assert getattr(answer, "name", None) == "already-finished"
        else:
            assert ended.state is JobState.CANCELLED
            assert ended.manifest is None
            assert verdict is Verdict.CANCELLED
            assert answer.cancelling or answer.state is JobState.CANCELLED  # type: ignore[union-attr]

    for _ in range(50):
        await asyncio.gather(*(race() for _ in range(20)))
    totals = (await jobs.stats()).counters
    assert totals["finished_succeeded"] + totals["finished_cancelled"] == 1000
    assert min(totals["finished_succeeded"], totals["finished_cancelled"]) > 50


# Deadlines.


async def test_a_deadline_ends_a_waiting_job(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, deadline_s=50)
    assert job.deadline_ms == job.created_ms + 50_000
    await pass_deadline(redis, job)
    assert (await jobs.sweep()).expired == 1
    ended = await jobs.get(job.id, ME)
    assert ended.state is JobState.EXPIRED and ended.error is not None
    assert ended.error["name"] == "deadline-exceeded"
    assert await claim(jobs) == []


async def test_a_claim_does_not_give_what_has_expired(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, deadline_s=50)
    await pass_deadline(redis, job)
    assert await claim(jobs) == []
    assert (await jobs.get(job.id, ME)).state is JobState.EXPIRED


async def test_a_deadline_ends_a_running_job_and_stops_its_computation(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, deadline_s=50)
    run = await claim_one(jobs)
    assert run.deadline_ms == job.deadline_ms and run.deadline_in_s is not None and 49 < run.deadline_in_s <= 50
    await pass_deadline(redis, job)
    await jobs.sweep()
    assert (await jobs.get(job.id, ME)).state is JobState.EXPIRED
    assert await jobs.renew("w1", [(run.run, run.epoch)]) == {run.run: Verdict.CANCELLED}
    assert await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1) is Verdict.CANCELLED
    assert (await jobs.get(job.id, ME)).manifest is None


async def test_a_shared_computation_goes_on_for_those_who_can_wait(redis: Redis) -> None:
    jobs = make_queue(redis)
    hasty = await submit(jobs, digest="d", deadline_s=5)
    patient = await submit(jobs, digest="d", deadline_s=500)
    run = await claim_one(jobs)
    assert run.deadline_ms == patient.deadline_ms
    await pass_deadline(redis, hasty)
    # The worker had seen only the first deadline: it stops, and the run waits again for the other job.
    error = {"name": "deadline-exceeded", "detail": "late"}
    assert await jobs.finish(run.run, run.epoch, error=error, computed_ms=1) is Verdict.GO_ON
    assert (await jobs.get(hasty.id, ME)).state is JobState.EXPIRED
    assert (await jobs.get(patient.id, ME)).state is JobState.QUEUED
    again = await claim_one(jobs)
    await jobs.finish(again.run, again.epoch, manifest="m", computed_ms=1)
    assert (await jobs.get(patient.id, ME)).state is JobState.SUCCEEDED


async def test_who_may_wait_for_ever_frees_the_computation_of_its_deadline(redis: Redis) -> None:
    jobs = make_queue(redis)
    await submit(jobs, digest="d", deadline_s=5)
    await submit(jobs, digest="d")
    run = await claim_one(jobs)
    assert run.deadline_ms is run.deadline_in_s is None
