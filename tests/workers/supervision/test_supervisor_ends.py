"""Workers of a test's own: they are stopped, lose the store or the queue for a while, share the work with others."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
from redis.asyncio import Redis

from convscope.queue.connection import connect
from convscope.queue.jobs import JobState
from tests.workers.harness import Client, Worker, gone, moving, until


@pytest.fixture
def client(redis: Redis, tmp_path: Path) -> Client:
    return Client(redis, tmp_path)


async def test_a_result_beyond_the_limit_fails(valkey_url: str, redis: Redis, client: Client, tmp_path: Path):
    worker = Worker(valkey_url, tmp_path, engine={"result_mib": 1})
    try:
        job = await client.end(await client.submit(act="big"))
        assert job.error is not None and job.error["name"] == "too-expensive"
    finally:
        worker.close()


async def test_sigterm_checkpoints_gives_back_and_ends_within_ten_seconds(
    valkey_url: str, redis: Redis, client: Client, tmp_path: Path
):
    worker = Worker(valkey_url, tmp_path)
    try:
        long = await client.submit("climb", steps=600, step_s=0.005, seed=7)
        quick = await client.submit(slices=10**6, slice_s=0.01)
        await until(lambda: moving(client, long))
        await client.in_state(quick, JobState.RUNNING)
        worker.signal(signal.SIGTERM)
        assert await worker.ended(10.0) == 0
        for job_id in (long, quick):
            job = await client.get(job_id)
            assert job.state is JobState.QUEUED
        assert await client.checkpoint_step(long) > 0
        assert {line["crashed"] for line in worker.lines("run_given_back")} == {False}
        assert worker.lines("worker_ended")
        assert await client.jobs.workers_online() == 0, "a worker that ends in order counts no longer"
    finally:
        worker.close()
    await client.jobs.cancel(quick, "tester")
    second = Worker(valkey_url, tmp_path)
    try:
        manifest = await client.manifest(long)
        assert manifest.facts["steps"] == [600]
        assert (await client.get(long)).attempt == 2
        alone = await client.manifest(await client.submit("climb", steps=600, seed=7))
        assert np.array_equal(await client.array(manifest, "values"), await client.array(alone, "values"))
    finally:
        second.close()


async def test_the_store_may_be_away_for_a_while_and_the_result_is_kept(
    valkey_url: str, redis: Redis, client: Client, tmp_path: Path
):
    worker = Worker(valkey_url, tmp_path, store_patience_s=12)
    try:
        job_id = await client.submit(slices=30, slice_s=0.02)
        await client.in_state(job_id, JobState.RUNNING)
        results = tmp_path / "artifacts" / "results"
        results.write_text("a file where a folder should be")
        await worker.said("store_retry")
        assert (await client.get(job_id)).state is JobState.RUNNING
        results.unlink()
        assert (await client.manifest(job_id)).facts["sums"]
    finally:
        worker.close()


async def test_the_worker_works_through_a_restart_of_the_queue(private_server, tmp_path: Path):
    server = private_server(append_only=True)
    redis = connect(server.url)
    client = Client(redis, tmp_path)
    worker = Worker(server.url, tmp_path)
    try:
        job_id = await client.submit("climb", steps=400, step_s=0.01)
        await until(lambda: moving(client, job_id))
        server.kill()
        await worker.said("renew_failed")
        server.start()
        manifest = await client.manifest(job_id)
        assert manifest.facts["steps"] == [400]
        assert (await client.get(job_id)).attempt == 1
        assert len(worker.lines("run_claimed")) == 1
    finally:
        worker.close()
        await redis.aclose()


async def test_two_workers_share_the_work_and_no_job_is_done_twice(
    valkey_url: str, redis: Redis, client: Client, tmp_path: Path
):
    workers = [Worker(valkey_url, tmp_path, interactive_runs=2) for _ in range(2)]
    try:
        await asyncio.gather(*(worker.said("engine_ready") for worker in workers))
        jobs = [await client.submit(seed=seed, slices=3, slice_s=0.02) for seed in range(24)]
        for job in jobs:
            await client.manifest(job)
        claimed = [line["run"] for worker in workers for line in worker.lines("run_claimed")]
        assert len(claimed) == len(set(claimed)) == 24
        assert all(worker.lines("run_claimed") for worker in workers)
    finally:
        for worker in workers:
            worker.close()


async def test_engines_are_forked_from_a_process_that_has_loaded_everything(
    valkey_url: str, client: Client, tmp_path: Path
):
    worker = Worker(valkey_url, tmp_path)

    async def another_engine(count: int) -> psutil.Process:
        await worker.said("engine_ready", count)
        await client.end(await client.submit(seed=count))
        return psutil.Process(worker.engine_pid)

    try:
        first = await another_engine(1)
        server = first.parent()
        assert server is not None and server.ppid() == worker.process.pid
        assert server.num_threads() == 1, "a thread would be missing, and its locks held, in every fork"
        first.kill()
        second = await another_engine(2)
        assert second.parent() == server
        assert not first.is_running(), "the fork server left a zombie"
        assert len(worker.lines("fork_server_ready")) == 1

        server.kill()
        await gone(second)
        third = await another_engine(3)
        assert third.parent() != server
        assert worker.lines("engine_ended")[-1]["how"] == "signal 9"

        worker.signal(signal.SIGTERM)
        assert await worker.ended(10.0) == 0
        await gone(third)
    finally:
        worker.close()


@pytest.mark.parametrize(
    "broken", [{"methods": "tests.workers.no_such_package"}, {"networks": "tests.workers.engine.networks:NoSuchClass"}]
)
async def test_a_worker_that_can_start_no_engine_says_why_and_ends_when_told(
    broken: dict[str, str], valkey_url: str, tmp_path: Path
):
    worker = Worker(valkey_url, tmp_path, engine=broken)
    try:
        if "methods" in broken:
            failures = await worker.said("fork_server_failed", 2)
            assert failures[-1]["reason"] == "ModuleNotFoundError: No module named 'tests.workers.no_such_package'"
            assert any("no_such_package" in line["line"] for line in worker.lines("engine_output"))
        else:
            failures = await worker.said("engine_unready", 2)
            assert "NoSuchClass" in failures[-1]["reason"]
        worker.signal(signal.SIGTERM)
        assert await worker.ended(10.0) == 0
    finally:
        worker.close()
