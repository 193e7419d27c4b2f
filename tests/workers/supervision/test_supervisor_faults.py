"""A real worker whose processes are killed, stopped and hung for real: nothing is lost, nothing happens twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from redis.asyncio import Redis

from convscope.queue.jobs import JobState
from convscope.queue.keys import key
from tests.workers.harness import Client, Worker, gone, moving, until
from workers.supervision.fault_points import VARIABLE

Start = Callable[..., Worker]
CHECKPOINTS = {"checkpoint_s": 0.2}


@pytest.fixture
def start(valkey_url: str, redis: Redis, tmp_path: Path) -> Iterator[Start]:
    """Starts workers on one data folder; they end with the test."""
    workers: list[Worker] = []

    def make(**how: Any) -> Worker:
        workers.append(Worker(valkey_url, tmp_path, **how))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture
def client(redis: Redis, tmp_path: Path) -> Client:
    return Client(redis, tmp_path)


async def checkpointed(client: Client, job_id: str, beyond: int = 0) -> bool:
    return await client.checkpoint_step(job_id) > beyond


async def steps_seen(client: Client, job_id: str) -> list[float]:
    return [data["done"] for name, data in await client.events(job_id) if name == "progress"]


async def ends(client: Client, job_id: str) -> int:
    """How many terminal transitions the job had."""
    return len([name for name, _ in await client.events(job_id) if name == "done"])


async def test_a_poison_job_fails_alone_and_its_batch_mates_succeed(start: Start, client: Client):
    innocents = [await client.submit(seed=seed) for seed in range(7)]
    poison = await client.submit(act="exit")
    worker = start()
    for job_id in innocents:
        assert (await client.manifest(job_id)).facts["sums"]
        assert await ends(client, job_id) == 1
    failed = await client.end(poison)
    assert failed.state is JobState.FAILED and failed.error is not None
    assert failed.error["name"] == "worker-crashed" and "exit 139" in failed.error["detail"]
    # Once with the others, and three times alone.
    assert failed.attempt == 4
    assert {line["how"] for line in worker.lines("engine_ended")} == {"exit 139"}


async def test_a_hung_engine_is_killed_and_its_jobs_are_run_again(start: Start, client: Client):
    worker = start(stall_s=3.0, crashes=1)
    innocent = await client.submit("climb", steps=600, step_s=0.01)
    await until(lambda: moving(client, innocent))
    hanging = await client.submit(act="hang")
    (silent,) = await worker.said("engine_silent")
    assert silent["seconds"] >= 3.0
    assert (await client.manifest(innocent)).facts["steps"] == [600]
    failed = await client.end(hanging)
    assert failed.error is not None and failed.error["name"] == "worker-crashed"
    assert "no progress" in failed.error["detail"]


async def test_a_slice_that_takes_long_is_no_hang(start: Start, client: Client):
    worker = start(stall_s=8.0)
    job_id = await client.submit(slices=1, slice_s=4.0)
    assert (await client.manifest(job_id)).facts["sums"]
    assert (await client.get(job_id)).attempt == 1 and not worker.lines("engine_silent")


async def undisturbed(client: Client, **how: Any) -> Any:
    manifest = await client.manifest(await client.submit("climb", **{**how, "step_s": 0.0}))
    return await client.array(manifest, "values")


async def test_a_killed_engine_resumes_from_the_checkpoint_with_the_same_bits(start: Start, client: Client):
    worker = start(engine=CHECKPOINTS)
    how = {"pictures": 3, "steps": 300, "step_s": 0.003, "seed": 5}
    job_id = await client.submit("climb", **how)
    await until(lambda: checkpointed(client, job_id, 30))
    before = await client.checkpoint_step(job_id)
    os.kill(worker.engine_pid, signal.SIGKILL)
    manifest = await client.manifest(job_id)
    assert (await client.get(job_id)).attempt == 2
    (ended,) = worker.lines("engine_ended")
    assert ended["how"] == "signal 9"
    assert [line["checkpoint_step"] >= before for line in worker.lines("run_claimed")] == [False, True]
    assert np.array_equal(await client.array(manifest, "values"), await undisturbed(client, **how))
    assert await ends(client, job_id) == 1


async def test_a_killed_supervisor_takes_its_engine_along_and_another_worker_resumes(start: Start, client: Client):
    first = start(engine=CHECKPOINTS)
    how = {"pictures": 3, "steps": 400, "step_s": 0.003, "seed": 6}
    job_id = await client.submit("climb", **how)
    await until(lambda: checkpointed(client, job_id, 30))
    engine = psutil.Process(first.engine_pid)
    first.signal(signal.SIGKILL)
    await gone(engine)
    second = start(engine={**CHECKPOINTS, "tile": 4})
    manifest = await client.manifest(job_id)
    (claimed,) = second.lines("run_claimed")
    assert claimed["checkpoint_step"] > 30
    assert manifest.provenance.tile == 1
    expected = start(engine=CHECKPOINTS)
    await expected.said("engine_ready")
    second.close()
    assert np.array_equal(await client.array(manifest, "values"), await undisturbed(client, **how))
    assert await ends(client, job_id) == 1


async def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_then_to_the_start(
    start: Start, client: Client, tmp_path: Path
):
    first = start(engine=CHECKPOINTS)
    how = {"steps": 300, "step_s": 0.01, "seed": 7}
    job_id = await client.submit("climb", **how)
    await until(lambda: checkpointed(client, job_id, 40))
    first.signal(signal.SIGKILL)
    run = (await client.get(job_id)).run
    newest, before = await client.redis.hmget(key("run", run), "checkpoint", "previous_checkpoint")
    assert newest and before and newest != before
    stored = tmp_path / "artifacts" / newest
    stored.write_bytes(stored.read_bytes()[:-1] + b"\x00" + b"x")
    second = start(engine=CHECKPOINTS)
    manifest = await client.manifest(job_id)
    (damaged,) = second.lines("checkpoint_damaged")
    assert damaged["checkpoint"] == newest
    assert np.array_equal(await client.array(manifest, "values"), await undisturbed(client, **how))


async def test_a_stopped_worker_is_fenced_when_it_wakes(start: Start, client: Client):
    zombie = start()
    job_id = await client.submit("climb", steps=300, step_s=0.01, seed=8)
    await until(lambda: moving(client, job_id))
    zombie.signal(signal.SIGSTOP)
    os.kill(zombie.engine_pid, signal.SIGSTOP)
    second = start()
    manifest = await client.manifest(job_id)
    os.kill(zombie.engine_pid, signal.SIGCONT)
    zombie.signal(signal.SIGCONT)
    (withdrawn,) = await zombie.said("run_withdrawn")
    assert withdrawn["verdict"] == "fenced"
    assert int(await client.redis.hget(key("counters"), "fenced_writes") or 0) >= 1
    assert (await client.manifest(job_id)) == manifest
    assert await ends(client, job_id) == 1 and (await client.get(job_id)).attempt == 2
    assert len(second.lines("run_finished")) == 1
    # It works on, for others.
    second.close()
    await client.manifest(await client.submit())


async def test_a_worker_killed_on_the_way_to_its_commit_commits_once(
    start: Start, client: Client, monkeypatch: pytest.MonkeyPatch
):
    second = start()
    await second.said("engine_ready")
    for point in ("before_send", "after_arrays_put", "after_manifest_put", "before_finish", "after_finish"):
        second.signal(signal.SIGSTOP)
        monkeypatch.setenv(VARIABLE, point)
        first = start()
        job_id = await client.submit(seed=3)
        await first.ended()
        second.signal(signal.SIGCONT)
        assert (await client.manifest(job_id)).facts["sums"]
        assert await ends(client, job_id) == 1
        assert (await client.get(job_id)).attempt == (1 if point == "after_finish" else 2)


@pytest.mark.parametrize("point", ["in_checkpoint", "after_checkpoint"])
async def test_a_worker_killed_in_a_checkpoint_loses_no_bits(
    start: Start, client: Client, point: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, point)
    first = start(engine=CHECKPOINTS)
    how = {"steps": 100, "step_s": 0.01, "seed": 9}
    job_id = await client.submit("climb", **how)
    await first.ended()
    monkeypatch.delenv(VARIABLE)
    start()
    manifest = await client.manifest(job_id)
    assert np.array_equal(await client.array(manifest, "values"), await undisturbed(client, **how))
    assert await ends(client, job_id) == 1


async def test_a_store_that_stays_away_fails_the_job_and_nothing_else(start: Start, client: Client, tmp_path: Path):
    worker = start(store_patience_s=1)
    await worker.said("engine_ready")
    results = tmp_path / "artifacts" / "results"
    results.write_text("a file where a folder should be")
    failed = await client.end(await client.submit())
    assert failed.error is not None and failed.error["name"] == "store-unavailable"
    results.unlink()
    assert (await client.manifest(await client.submit())).facts["sums"]


async def test_emptied_data_drops_what_runs_and_the_worker_goes_on(start: Start, client: Client):
    worker = start()
    job_id = await client.submit("climb", steps=10**9)
    await until(lambda: moving(client, job_id))
    await client.redis.flushall()
    (withdrawn,) = await worker.said("run_withdrawn")
    assert withdrawn["verdict"] == "fenced"
    assert (await client.manifest(await client.submit())).facts["sums"]


async def test_what_is_told_of_progress_never_goes_back(start: Start, client: Client):
    worker = start(engine=CHECKPOINTS)
    job_id = await client.submit("climb", steps=400, step_s=0.005)
    kept = [0]
    for _ in range(2):
        await until(lambda: checkpointed(client, job_id, kept[-1]))
        kept.append(await client.checkpoint_step(job_id))
        count = len(worker.lines("engine_ready"))
        os.kill(worker.engine_pid, signal.SIGKILL)
        await worker.said("engine_ready", count + 1)
    await client.manifest(job_id)
    resumed = [line["checkpoint_step"] for line in worker.lines("run_claimed")]
    assert all(later >= earlier for earlier, later in zip(kept, resumed, strict=True))
    steps = await steps_seen(client, job_id)
    assert steps == sorted(steps)
