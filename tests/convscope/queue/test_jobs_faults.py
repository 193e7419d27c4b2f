"""The queue when things go wrong: lost answers, restarts, wiped and full servers, records that disagree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from convscope.queue import connection
from convscope.queue.connection import connect
from convscope.queue.jobs import JobLimits, JobProgress, Jobs, JobState, Verdict, WorkerInfo
from convscope.queue.keys import key
from tests.convscope.queue.queue_steps import (
    ERROR,
    ME,
    claim,
    claim_one,
    events_of,
    make_queue,
    problem_of,
    spec,
    submit,
)
from tests.proxy import FaultyProxy
from tests.servers import PrivateServer

Servers = Callable[..., PrivateServer]


def test_a_blocking_read_ends_well_before_its_socket_gives_up() -> None:
    assert 2 * connection.BLOCK_MS / 1000 < connection.SOCKET_TIMEOUT_S < connection.COMMAND_LIMIT_S


# Lost answers.


async def test_whatever_answer_is_lost_everything_happens_once(redis: Redis, valkey_url: str) -> None:
    """A whole life on a line that loses an answer at every call."""
    async with FaultyProxy(valkey_url.removeprefix("unix://")) as proxy:
        client = connect(proxy.url)
        jobs = Jobs(client, JobLimits())

        async def lossy(work: object) -> object:
            proxy.lose_answers = 1
            return await work  # type: ignore[misc]

        await client.ping()
        job, new = await lossy(jobs.enqueue(spec(digest="d")))  # type: ignore[misc]
        assert new and await redis.zcard(key("lane", "interactive")) == 1
        other, _ = await lossy(jobs.enqueue(spec(lane="batch")))  # type: ignore[misc]
        runs = await lossy(jobs.claim("w1", interactive=1, batch=1, operations=["classify"]))
        assert [(run.run, run.epoch) for run in runs] == [(job.id, 1), (other.id, 1)]  # type: ignore[attr-defined]
        assert await lossy(jobs.progress(job.id, 1, JobProgress(done=1), "previews/1")) is Verdict.GO_ON
        assert await lossy(jobs.checkpointed(job.id, 1, "checkpoints/1", 5)) is Verdict.GO_ON
        assert await lossy(jobs.renew("w1", [(job.id, 1)])) == {job.id: Verdict.GO_ON}
        assert await lossy(jobs.requeue(other.id, 1, crashed=True)) is Verdict.GO_ON
        assert (await lossy(jobs.cancel(other.id, ME))).state is JobState.CANCELLED  # type: ignore[attr-defined]
        assert await lossy(jobs.finish(job.id, 1, manifest="m", computed_ms=1)) is Verdict.GO_ON
        await lossy(jobs.heartbeat(WorkerInfo(id="w1")))
        await lossy(jobs.sweep())
        assert proxy.lost == 11
        await client.aclose()
    names = [name for name, _ in await events_of(redis, job)]
    assert names == ["state", "state", "progress", "preview", "state", "done"]
    counters = (await make_queue(redis).stats()).counters
    assert (counters["submitted"], counters["crashes"], counters["checkpoints"]) == (2, 1, 1)


async def test_a_slow_server_is_no_dead_one(redis: Redis, valkey_url: str) -> None:
    async with FaultyProxy(valkey_url.removeprefix("unix://")) as proxy:
        client = connect(proxy.url)
        await client.ping()
        proxy.delay_s = 2.0
        job, new = await Jobs(client, JobLimits()).enqueue(spec())
        assert new and (await make_queue(redis).get(job.id, ME)).state is JobState.QUEUED
        await client.aclose()


async def test_a_cut_off_server_is_reported_in_bounded_time(
    redis: Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SOCKET_TIMEOUT_S", 0.2)
    async with FaultyProxy(valkey_url.removeprefix("unix://")) as proxy:
        client = connect(proxy.url)
        await client.ping()
        proxy.black_hole(True)
        problem = await problem_of(Jobs(client, JobLimits()).enqueue(spec()))
        assert problem.name == "queue-unavailable" and (problem.retry_after_s or 0) > 0
        proxy.black_hole(False)
        assert (await Jobs(client, JobLimits()).enqueue(spec()))[1]
        await client.aclose()


async def test_a_cancelled_caller_stops_whenever_it_is_cancelled(redis: Redis, valkey_url: str) -> None:
    """The redis client may forget a cancellation; a caller must not go on as if there had been none."""
    for steps in range(60):
        client = connect(valkey_url)
        went_on: list[bool] = []

        async def call(jobs: Jobs, went_on: list[bool]) -> None:
            await jobs.stats()
            went_on.append(True)
            await asyncio.Event().wait()

        task = asyncio.create_task(call(Jobs(client, JobLimits()), went_on))
        for _ in range(steps):
            await asyncio.sleep(0)
        before = list(went_on)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled() and went_on == before
        await client.aclose()


# Restarts.


async def test_no_server(private_server: Servers) -> None:
    server = private_server()
    client = connect(server.url)
    jobs = Jobs(client, JobLimits())
    job = await submit(jobs)
    server.kill()
    for work in (
        jobs.enqueue(spec()),
        jobs.get(job.id, ME),
        jobs.page(ME),
        jobs.cancel(job.id, ME),
        claim(jobs),
        jobs.renew("w1", [(job.id, 1)]),
        jobs.finish(job.id, 1, manifest="m", computed_ms=1),
        jobs.sweep(),
        jobs.workers(),
        jobs.stats(),
    ):
        problem = await problem_of(work)
        assert problem.name == "queue-unavailable" and problem.retry_after_s
    await client.aclose()


async def test_a_restart_loses_nothing_and_leaves_workers_time_to_come_back(private_server: Servers) -> None:
    server = private_server(append_only=True, config={"appendfsync": "always"})
    client = connect(server.url)
    jobs = Jobs(client, JobLimits())
    running, waiting = await submit(jobs, deadline_s=500), await submit(jobs, lane="batch")
    (run,) = await claim(jobs, batch=0)
    await jobs.sweep()
    server.kill()
    server.start()
    await client.zadd(key("leases"), {run.run: 1})  # the server was away for longer than a lease
    report = await jobs.sweep()
    assert (report.leases_extended, report.leases_lost) == (1, 0)
    assert await jobs.renew("w1", [(run.run, run.epoch)]) == {run.run: Verdict.GO_ON}
    assert await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1) is Verdict.GO_ON
    assert (await jobs.get(running.id, ME)).state is JobState.SUCCEEDED
    assert (await claim_one(jobs)).run == waiting.id
    # The grace is for the first sweep after a restart only.
    await client.zadd(key("leases"), {waiting.id: 1})
    assert (await jobs.sweep()).leases_lost == 1
    await client.aclose()


async def test_after_a_wipe_workers_are_refused_and_everything_works_again(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, idempotency_key="k", fingerprint="f")
    run = await claim_one(jobs)
    await redis.flushall()
    await redis.script_flush()
    verdicts = [
        (await jobs.renew("w1", [(run.run, run.epoch)]))[run.run],
        await jobs.progress(run.run, run.epoch, JobProgress()),
        await jobs.checkpointed(run.run, run.epoch, "checkpoints/1", 1),
        await jobs.requeue(run.run, run.epoch, crashed=True),
        await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1),
    ]
    assert verdicts == [Verdict.FENCED] * 5
    assert set(await redis.keys()) == {key("counters")}
    assert (await problem_of(jobs.get(job.id, ME))).name == "not-found"
    assert (await submit(jobs, idempotency_key="k", fingerprint="g")).id != job.id
    assert (await claim_one(jobs)).epoch == 1


# A full server.


async def test_submissions_are_refused_before_the_memory_is_used_up(redis: Redis) -> None:
    jobs = make_queue(redis)
    await submit(jobs)
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", int(used * 1.1))
    try:
        problem = await problem_of(submit(jobs))
        assert problem.name == "queue-full" and problem.retry_after_s
    finally:
        await redis.config_set("maxmemory", 0)
    await submit(jobs)


async def test_stored_and_shared_results_need_memory_too(redis: Redis) -> None:
    jobs = make_queue(redis)
    await submit(jobs, digest="stored")
    run = await claim_one(jobs)
    await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=7)
    known = await submit(jobs, digest="shared", idempotency_key="k", fingerprint="f")
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", int(used * 1.1))
    try:
        for digest in ("stored", "shared"):
            assert (await problem_of(submit(jobs, digest=digest))).name == "queue-full", digest
        assert (await jobs.enqueue(spec(digest="shared", idempotency_key="k", fingerprint="f")))[0].id == known.id
    finally:
        await redis.config_set("maxmemory", 0)
    for digest, state in (("stored", JobState.SUCCEEDED), ("shared", JobState.QUEUED)):
        assert (await submit(jobs, digest=digest)).state is state


async def test_a_full_server_still_lets_work_finish(redis: Redis) -> None:
    jobs = make_queue(redis)
    ids = [(await submit(jobs)).id for _ in range(5)]
    runs = {run.run: run for run in await claim(jobs, interactive=4)}
    await redis.config_set("maxmemory", 1)
    try:
        assert (await problem_of(submit(jobs))).name == "queue-full"
        done, failed, stopped, back = runs.values()
        assert await jobs.progress(done.run, 1, JobProgress(done=1), "previews/1") is Verdict.GO_ON
        assert await jobs.checkpointed(done.run, 1, "checkpoints/1", 1) is Verdict.GO_ON
        assert await jobs.finish(done.run, 1, manifest="m", computed_ms=1) is Verdict.GO_ON
        assert await jobs.finish(failed.run, 1, error=ERROR, computed_ms=1) is Verdict.GO_ON
        assert (await jobs.cancel(stopped.run, ME)).cancelling
        assert await jobs.renew("w1", [(stopped.run, 1)]) == {stopped.run: Verdict.CANCELLED}
        assert await jobs.requeue(stopped.run, 1, crashed=False) is Verdict.CANCELLED
        assert await jobs.requeue(back.run, 1, crashed=False) is Verdict.GO_ON
        assert len(await claim(jobs)) == 2
        await jobs.heartbeat(WorkerInfo(id="w1"))
        await jobs.sweep()
        states = sorted([(await jobs.get(job_id, ME)).state for job_id in ids])
        assert states == ["cancelled", "failed", "running", "running", "succeeded"]
    finally:
        await redis.config_set("maxmemory", 0)


# Records that disagree, as a failover that lost the last writes leaves them.


async def test_a_record_without_lane_entry_gets_one(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs, lane="batch")
    await redis.delete(key("lane", "batch"))
    assert (await jobs.sweep()).repaired == 1
    assert (await claim_one(jobs)).run == job.id


async def test_a_running_record_without_lease_gets_one_and_comes_back(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    await claim_one(jobs)
    await redis.delete(key("leases"))
    assert (await jobs.sweep()).repaired == 1
    await redis.zadd(key("leases"), {job.id: 1})
    await jobs.sweep()
    assert (await claim_one(jobs)).epoch == 2


@pytest.mark.parametrize("claimed", [False, True])
async def test_a_lost_computation_is_made_again_beyond_every_old_epoch(redis: Redis, claimed: bool) -> None:
    jobs = make_queue(redis)
    first, second = await submit(jobs, digest="d"), await submit(jobs, digest="d")
    old = (await claim_one(jobs)).epoch if claimed else 0
    await redis.delete(key("run", first.id), key("members", first.id))
    assert (await jobs.sweep()).repaired >= 1
    assert (await jobs.get(second.id, ME)).state is JobState.QUEUED
    again = await claim_one(jobs)
    assert again.epoch > old + 1_000_000 and again.members == sorted([first.id, second.id])
    assert await jobs.finish(first.id, old, manifest="m", computed_ms=1) is Verdict.FENCED
    assert await jobs.finish(first.id, again.epoch, manifest="m", computed_ms=1) is Verdict.GO_ON
    assert (await jobs.get(second.id, ME)).state is JobState.SUCCEEDED


async def test_lane_entries_without_record_disappear(redis: Redis) -> None:
    jobs = make_queue(redis)
    await redis.zadd(key("lane", "batch"), {"ghost": 1})
    await redis.zadd(key("lane", "interactive"), {"ghost": 1})
    await redis.zadd(key("leases"), {"phantom": 1})
    assert (await jobs.sweep()).dropped == 3
    assert await redis.exists(key("lane", "batch"), key("lane", "interactive"), key("leases")) == 0
    await redis.zadd(key("lane", "interactive"), {"ghost": 1})
    job = await submit(jobs)
    assert (await claim_one(jobs)).run == job.id
    assert await redis.exists(key("run", "ghost")) == 0


async def test_a_computation_whose_job_vanished_ends(redis: Redis) -> None:
    jobs = make_queue(redis)
    waiting, running = await submit(jobs, lane="batch"), await submit(jobs)
    (run,) = await claim(jobs, batch=0)
    await redis.delete(key("job", waiting.id), key("job", running.id))
    assert (await jobs.sweep()).dropped >= 2
    assert await claim(jobs) == []
    assert await redis.zcard(key("active")) == 0
    assert await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1) is not Verdict.FENCED
    assert await redis.exists(key("job", running.id)) == 0
    assert await redis.zcard(key("leases")) == 0


async def test_a_large_queue_is_mended_bit_by_bit(redis: Redis) -> None:
    jobs = make_queue(redis, caller_jobs=1000)
    await asyncio.gather(*(submit(jobs, lane=random.choice(["batch", "interactive"])) for _ in range(250)))
    await redis.delete(key("lane", "batch"), key("lane", "interactive"))
    repaired = [(await jobs.sweep()).repaired for _ in range(3)]
    assert sum(repaired) == 250 and max(repaired) < 250
    waiting = (await jobs.stats()).waiting
    assert sum(waiting.values()) == 250


async def test_ghosts_are_found_beyond_the_first_window(redis: Redis) -> None:
    jobs = make_queue(redis)
    await redis.zadd(key("lane", "batch"), {f"ghost{number}": number for number in range(250)})
    for _ in range(6):
        await jobs.sweep()
    assert await redis.zcard(key("lane", "batch")) == 0
