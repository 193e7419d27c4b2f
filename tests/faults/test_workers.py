"""Workers that die, freeze and are interrupted at the worst moments; the rows of faults that no other test has."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from convscope.queue.jobs import JobState
from convscope.queue.keys import key
from tests.faults.conftest import Start
from tests.faults.looks import (
    CHECKPOINTS,
    checkpointed,
    counter,
    ends,
    equals_undisturbed,
    moving,
    told_by_workers,
    undisturbed,
)
from tests.workers.harness import Client, until
from workers.supervision.fault_points import FAULT_POINTS, VARIABLE

ELSEWHERE = {
    "before_send", "after_arrays_put", "after_manifest_put", "before_finish", "after_finish", "in_checkpoint",
    "after_checkpoint",
}  # fmt: skip
"""Fault points that tests/workers/supervision/test_supervisor_faults.py kills a worker at."""


async def test_row_02_killed_anywhere_on_the_way_to_its_commit(start: Start, client: Client):
    """Between the pictures and the manifest, and while it gives back: done again, the same bytes, one end."""
    assert set(FAULT_POINTS) - ELSEWHERE == {"after_pictures_put", "before_requeue"}
    second = start()
    await second.said("engine_ready")
    for seed, point in enumerate(("after_pictures_put", "before_requeue")):
        second.signal(signal.SIGSTOP)
        first = start(engine=CHECKPOINTS, environment={VARIABLE: point})
        requeueing = point == "before_requeue"
        how = {"pictures": 2, "steps": 300 if requeueing else 10, "seed": seed}
        job_id = await client.submit("climb", **how, step_s=0.01 if requeueing else 0.0)
        if requeueing:
            await checkpointed(client, job_id)
            first.signal(signal.SIGTERM)
        assert await first.ended() == -signal.SIGKILL
        assert (await client.get(job_id)).state is JobState.RUNNING
        second.signal(signal.SIGCONT)
        manifest = await client.manifest(job_id)
        again = await client.manifest(await client.submit("climb", **how))
        assert manifest.arrays_key == again.arrays_key
        assert (await client.get(job_id)).attempt == 2 and await ends(client, job_id) == 1


async def test_row_03_a_frozen_worker_wakes_and_the_one_in_its_place_dies(start: Start, client: Client):
    frozen = start(engine=CHECKPOINTS)
    how = {"steps": 400, "step_s": 0.01, "seed": 8}
    job_id = await client.submit("climb", **how)
    await checkpointed(client, job_id)
    frozen.signal(signal.SIGSTOP)
    os.kill(frozen.engine_pid, signal.SIGSTOP)
    second = start(engine=CHECKPOINTS)
    await second.said("run_claimed")
    refused = await counter(client, "fenced_writes")
    os.kill(frozen.engine_pid, signal.SIGCONT)
    frozen.signal(signal.SIGCONT)
    (withdrawn,) = await frozen.said("run_withdrawn")
    assert withdrawn["verdict"] == "fenced" and await counter(client, "fenced_writes") > refused
    assert (await client.get(job_id)).state is JobState.RUNNING
    second.signal(signal.SIGKILL)
    assert await equals_undisturbed(client, job_id, **how)
    assert len(frozen.lines("run_claimed")) == 3  # the first time, the third, and the undisturbed one
    assert (await client.get(job_id)).attempt == 3 and await ends(client, job_id) == 1


async def test_row_18_cancelled_during_checkpoints_and_during_a_reclaim(start: Start, client: Client):
    first = start(engine={"checkpoint_s": 0.0})
    checkpointing = await client.submit("climb", steps=10**9)
    await checkpointed(client, checkpointing, 20)  # one with every slice: the cancellation comes into the middle of one
    await client.jobs.cancel(checkpointing, "tester")
    assert (await client.end(checkpointing)).state is JobState.CANCELLED
    reclaimed = await client.submit("climb", steps=10**9)
    await moving(client, reclaimed)
    first.signal(signal.SIGKILL)
    assert (await client.jobs.cancel(reclaimed, "tester")).cancelling
    second = start()
    job = await client.end(reclaimed)
    assert job.state is JobState.CANCELLED and job.attempt == 1
    await client.manifest(await client.submit())
    assert all(reclaimed not in line["jobs"] for line in second.lines("run_claimed"))
    for job_id in (checkpointing, reclaimed):
        assert await ends(client, job_id) == 1
        assert not await client.redis.exists(key("members", job_id), key("computation", job_id))
        assert await client.redis.zscore(key("leases"), job_id) is None


async def test_row_29_checkpoints_that_are_damaged_or_of_an_older_schema(start: Start, client: Client, tmp_path: Path):
    first = start(engine=CHECKPOINTS)
    damaged = {"steps": 200, "step_s": 0.01, "seed": 7}
    older = {"steps": 201, "step_s": 0.01, "seed": 7}
    jobs = [await client.submit("climb", **how) for how in (damaged, older)]
    for job_id in jobs:

        async def has_two(job_id: str = job_id) -> bool:
            return bool(await client.redis.hget(key("run", job_id), "previous_checkpoint"))

        await until(has_two)
    first.signal(signal.SIGKILL)
    await first.ended()
    store = tmp_path / "artifacts"
    for name in ("checkpoint", "previous_checkpoint"):
        path = store / str(await client.redis.hget(key("run", jobs[0]), name))
        path.write_bytes(path.read_bytes()[:-1] + b"\x99")
        data = await client.artifacts.get(str(await client.redis.hget(key("run", jobs[1]), name)))
        await client.redis.hset(key("run", jobs[1]), name, await client.artifacts.put("checkpoints", _aged(data)))
    second = start(engine=CHECKPOINTS)
    for job_id, how in zip(jobs, (damaged, older), strict=True):
        assert await equals_undisturbed(client, job_id, **how)
        assert (await client.get(job_id)).attempt == 2 and await ends(client, job_id) == 1
    assert len(second.lines("checkpoint_damaged")) == 2

    async def counted() -> bool:
        found = [await told_by_workers(client, f"checkpoints_{kind}") for kind in ("damaged", "refused")]
        return found == [2, 2]

    await until(counted)


def _aged(data: bytes) -> bytes:
    """A checkpoint as a version before the first would have written it."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["schema"] = "0"
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


async def test_row_24_long_jobs_fill_every_row_and_quick_ones_go_between(start: Start, client: Client):
    """Batch work has all its room for ever; each quick job ends all the same, and every long one moves on meanwhile."""
    start(engine={"progress_s": 0.0}, batch_runs=3, interactive_runs=4)
    long = [await client.submit("climb", steps=10**9, step_s=0.05, seed=seed) for seed in range(4)]
    for job_id in long[:3]:
        await moving(client, job_id)
    before = [(await client.get(job_id)).progress.done for job_id in long]
    for seed in range(40):
        assert (await client.manifest(await client.submit(seed=seed, slices=2))).facts["sums"]
    after = [(await client.get(job_id)).progress.done for job_id in long]
    assert all(later > earlier for earlier, later in zip(before[:3], after[:3], strict=True))
    assert (await client.get(long[3])).state is JobState.QUEUED
    # None was starved by another: all three have had about the same number of turns.
    assert max(after[:3]) <= 3 * min(after[:3])
    for job_id in long:
        await client.jobs.cancel(job_id, "tester")
        assert (await client.end(job_id)).state is JobState.CANCELLED
    assert await undisturbed(client, steps=3) is not None


async def test_rows_05_and_08_all_that_was_in_a_killed_engine_goes_on_within_seconds(start: Start, client: Client):
    """Each runs alone until it has shown that it gets on, and no longer, though none of them ever ends."""
    worker = start(engine={"checkpoint_s": 0.3})
    long = [await client.submit("climb", steps=10**9, step_s=0.01, seed=seed) for seed in range(5)]
    for job_id in long:
        await moving(client, job_id)
    os.kill(worker.engine_pid, signal.SIGKILL)

    async def together() -> bool:
        jobs = [await client.get(job_id) for job_id in long]
        return all(job.state is JobState.RUNNING and job.attempt >= 2 for job in jobs)

    await until(together)
    again = [line for line in worker.lines("run_claimed") if line["attempt"] == 2]
    assert len(again) == 5 and all(line["alone"] for line in again)
    assert [line["verdict"] for line in worker.lines("run_withdrawn")] == ["park"] * 4
    for job_id in long:
        await client.jobs.cancel(job_id, "tester")
        assert (await client.end(job_id)).state is JobState.CANCELLED and await ends(client, job_id) == 1


async def test_rows_05_and_08_long_work_makes_room_for_what_was_in_a_killed_engine(start: Start, client: Client):
    """The one worker left has work without end: it saves that, shows that the suspects get on, and goes on with it."""
    # Without quotas: a caller who has them holds three quarters of the two places, and its other work waits for one.
    how: dict[str, Any] = {"steps": 10**9, "step_s": 0.01, "bounded": False}
    worker = start(engine={"checkpoint_s": 10.0**6}, batch_runs=2)
    busy = [await client.submit("climb", **how, seed=seed) for seed in range(2)]
    for job_id in busy:
        await moving(client, job_id)
    suspects = [await client.submit("climb", **how, seed=seed) for seed in range(2, 4)]
    claims = await client.jobs.claim("a worker that dies", interactive=0, batch=2, operations={"climb"})
    assert {claim.run for claim in claims} == set(suspects)
    before = {job_id: (await client.get(job_id)).progress.done for job_id in busy}
    for claim in claims:
        await client.jobs.requeue(claim.run, claim.epoch, crashed=True, reason="its engine was killed")

    async def cleared() -> bool:
        runs = [await client.redis.hmget(key("run", job_id), "alone", "checkpoint_step") for job_id in suspects]
        return all(alone == "0" and int(step) > 0 for alone, step in runs)

    await until(cleared)
    for job_id in busy:

        async def further(job_id: str = job_id) -> bool:
            job = await client.get(job_id)
            return job.attempt == 2 and job.progress.done > before[job_id] + 50

        await until(further)
    parked = [line["run"] for line in worker.lines("run_withdrawn") if line["verdict"] == "park"]
    assert set(busy) < set(parked) and not worker.lines("engine_ended")
    again = {line["run"]: line for line in worker.lines("run_claimed") if line["attempt"] == 2}
    for job_id in busy:
        # Not a step was lost: it was saved where it stood, not where its last regular checkpoint was.
        assert again[job_id]["checkpoint_step"] >= before[job_id] and not again[job_id]["alone"]
    for job_id in (*busy, *suspects):
        await client.jobs.cancel(job_id, "tester")
        assert (await client.end(job_id)).state is JobState.CANCELLED and await ends(client, job_id) == 1


async def test_row_01_a_worker_beside_a_dead_one_does_not_wait_for_its_leases(start: Start, client: Client):
    dying = start(lease_s=3600, engine=CHECKPOINTS)
    job = await client.submit("climb", steps=10**9)
    await checkpointed(client, job)
    other = start(lease_s=3600, engine=CHECKPOINTS)
    await other.said("engine_ready")
    dying.close()
    (buried,) = await other.said("neighbour_died")
    assert buried["runs"] == 1
    (claimed,) = await other.said("run_claimed")
    assert claimed["run"] == job and claimed["checkpoint_step"] > 0
    assert len(await client.jobs.workers()) == 1, "the dead one is counted no more"
    # One that is stopped has not died: its lease is what decides.
    other.signal(signal.SIGSTOP)
    third = start(lease_s=3600, engine=CHECKPOINTS)
    await third.said("engine_ready")
    assert not third.lines("neighbour_died")
    other.signal(signal.SIGCONT)
    await client.jobs.cancel(job, "tester")
    assert (await client.end(job)).state is JobState.CANCELLED
