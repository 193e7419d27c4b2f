"""The queue slow, cut off, full, failed over, and with another time: under real workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis

from convscope.queue.connection import connect
from convscope.queue.jobs import JobLimits, Jobs, JobSpec, JobState
from convscope.queue.keys import key
from convscope.settings import Settings
from tests.faults.conftest import Start
from tests.faults.looks import counter, ends, moving
from tests.proxy import FaultyProxy
from tests.servers import PrivateServer
from tests.service.support import Service, png_bytes, problem_of
from tests.workers.harness import Client, until
from tests.workers.harness import moving as beyond

Servers = Callable[..., PrivateServer]


async def test_row_14_a_slow_queue_and_then_a_cut_off_worker(start: Start, client: Client, valkey_url: str):
    async with FaultyProxy(valkey_url.removeprefix("unix://")) as proxy:
        far = start(url=proxy.url, lease_s=6, renew_s=1, crashes=1)
        long = await client.submit("climb", steps=10**9)
        await moving(client, long)

        # Two seconds an answer: it keeps what it has, and takes nothing more.
        proxy.delay_s = 2.0
        for _ in range(2):
            await until(_another_heartbeat(client))
        quick = await client.submit()
        await until(_another_heartbeat(client))
        assert (await client.get(quick)).state is JobState.QUEUED and len(far.lines("run_claimed")) == 1
        proxy.delay_s = 0.0
        assert (await client.manifest(quick)).facts["sums"]
        assert await counter(client, "leases_lost") <= 1
        await client.in_state(long, JobState.RUNNING)
        lost, attempt = await counter(client, "leases_lost"), (await client.get(long)).attempt

        # Cut off: it loses its lease once, another goes on, and what it says later changes nothing.
        proxy.black_hole(True)
        near = start()
        await near.said("run_claimed")
        assert await counter(client, "leases_lost") == lost + 1
        proxy.black_hole(False)
        withdrawn = await far.said("run_withdrawn", attempt)
        assert {line["verdict"] for line in withdrawn} == {"fenced"}
        job = await client.get(long)
        assert job.state is JobState.RUNNING and job.attempt == attempt + 1
        await client.jobs.cancel(long, "tester")
        assert (await client.end(long)).state is JobState.CANCELLED
        assert await ends(client, long) == 1 and len(far.lines("run_finished")) == 1
        near.close()
        assert (await client.manifest(await client.submit())).facts["sums"]


def _another_heartbeat(client: Client) -> Callable[[], object]:
    first: list[int] = []

    async def look() -> bool:
        infos = await client.jobs.workers()
        latest = max((info.heartbeat_ms for info in infos), default=0)
        first.append(latest)
        return latest > first[0]

    return look


async def test_row_11_a_full_queue_takes_nothing_new_and_what_runs_comes_to_its_end(
    start: Start, private_server: Servers, tmp_path: Path
):
    server = private_server()
    redis = connect(server.url)
    client = Client(redis, tmp_path)
    worker = start(url=server.url)
    finishing = await client.submit("climb", steps=60, step_s=0.02)
    stopping = await client.submit("climb", steps=10**9)
    await moving(client, finishing)
    await moving(client, stopping)
    await redis.config_set("maxmemory", 1)
    with Service(Settings(redis_url=server.url, data=tmp_path, card_wait_s=1.0)) as service, service.client() as http:
        answer = http.post("/v1/images", files=[("image", ("a.png", png_bytes(), "image/png"))])
        problem_of(answer, 503, "queue-full")
        assert int(answer.headers["retry-after"]) >= 1
        problem_of(http.get("/readyz"), 503, "queue-full")
        assert http.get("/livez").status_code == 200
        figures = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if line[0] != "#")
        assert float(figures["convscope_queue_memory_bytes"]) > float(figures["convscope_queue_memory_limit_bytes"]) > 0
    await client.jobs.cancel(stopping, "tester")
    assert (await client.end(stopping)).state is JobState.CANCELLED
    manifest = await client.manifest(finishing)
    assert manifest.facts["steps"] == [60] and await ends(client, finishing) == 1
    assert manifest.facts["pictures"] == [{"image_id": None}] and worker.lines("pictures_not_kept")
    await redis.config_set("maxmemory", 0)
    assert (await client.manifest(await client.submit())).facts["sums"]
    await redis.aclose()


async def test_row_12_a_failover_that_loses_the_last_writes(private_server: Servers):
    port = _free_port()
    primary = private_server(port=port)
    replica = private_server(config={"replicaof": f"127.0.0.1 {port}", "repl-diskless-sync-delay": "0"})
    before, after = connect(primary.url), connect(replica.url)
    spec = JobSpec(operation="sums", request={}, idempotency_key="k", fingerprint="f", caller="ada")
    kept, _ = await Jobs(before, JobLimits()).enqueue(spec.model_copy(update={"idempotency_key": "earlier"}))
    await until(lambda: after.exists(key("job", kept.id)))
    (claimed,) = await Jobs(before, JobLimits()).claim("w1", interactive=1, batch=0, operations=["sums"])

    async def replicated() -> bool:
        return await after.hget(key("run", kept.id), "state") == "running"

    await until(replicated)
    await after.replicaof("NO", "ONE")  # the two part: what comes to the primary from here on is lost
    lost, _ = await Jobs(before, JobLimits()).enqueue(spec)
    await before.zrem(key("leases"), kept.id)
    primary.kill()
    await after.zrem(key("leases"), kept.id)  # a script's writes may also arrive in part
    jobs = Jobs(after, JobLimits())
    again, new = await jobs.enqueue(spec)
    assert new and again.id != lost.id
    assert (await jobs.enqueue(spec))[0].id == again.id
    assert (await jobs.enqueue(spec.model_copy(update={"idempotency_key": "earlier"})))[0].id == kept.id
    assert (await jobs.sweep()).repaired == 1
    assert await jobs.renew("w1", [(claimed.run, claimed.epoch)]) == {claimed.run: "go-on"}
    runs = await jobs.claim("w2", interactive=9, batch=9, operations=["sums"])
    assert [run.run for run in runs] == [again.id]
    assert await jobs.finish(kept.id, claimed.epoch, manifest="m", computed_ms=1) == "go-on"
    await before.aclose()
    await after.aclose()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# Clocks.


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Variables under which a process sees another time (wall clock only), and a way to change it while it runs."""
    said = subprocess.run(["faketime", "-f", "+0", "env"], capture_output=True, text=True, check=True).stdout
    preload = next(line for line in said.splitlines() if line.startswith("LD_PRELOAD=")).partition("=")[2]
    file = tmp_path / "clock"
    common = {"LD_PRELOAD": preload, "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def fixed(offset: str) -> dict[str, str]:
        return {**common, "FAKETIME": offset}

    def step(offset: str) -> None:
        part = file.with_suffix(".part")
        part.write_text(offset + "\n")
        part.rename(file)

    step("+0")
    steered = {**common, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
    yield SimpleNamespace(fixed=fixed, step=step, steered=steered)


async def _server_s(redis: Redis) -> int:
    return int((await redis.time())[0])


async def _server_is(redis: Redis, fits: Callable[[int], bool]) -> bool:
    """Whether the server sees such a time; it may take a moment to notice the step."""
    return fits(await _server_s(redis))


async def test_row_26_workers_whose_clocks_are_an_hour_off(start: Start, client: Client, clock: SimpleNamespace):
    offsets = ("+3600", "-3600")
    workers = [start(environment=clock.fixed(offset), interactive_runs=1, batch_runs=1) for offset in offsets]
    for worker in workers:
        await worker.said("engine_ready")
    # (The shim breaks time.sleep, so nothing here sleeps.)
    long = [await client.submit("climb", steps=2000, deadline_s=100, seed=seed) for seed in range(2)]
    quick = [await client.submit(slices=2, deadline_s=100, seed=seed) for seed in range(10)]
    for job_id in [*long, *quick]:
        await client.manifest(job_id)
        assert (await client.get(job_id)).attempt == 1 and await ends(client, job_id) == 1
    assert all(worker.lines("run_finished") for worker in workers)
    logged = [worker.lines("worker_started")[0]["timestamp"] for worker in workers]
    assert logged[0] > logged[1]  # they did see other times
    assert len(await client.jobs.workers()) == 2


async def test_row_26_the_clock_of_the_server_jumps(
    start: Start, private_server: Servers, clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if os.environ.get("CONVSCOPE_TEST_SERVER") == "redis-server":
        pytest.skip("libfaketime cannot steer Debian's server: its allocator and the shim call each other at the start")
    with monkeypatch.context() as patched:
        for name, value in clock.steered.items():
            patched.setenv(name, value)
        server = private_server()
    redis = connect(server.url)
    client = Client(redis, tmp_path)
    workers = [start(url=server.url), start(url=server.url)]
    for worker in workers:
        await worker.said("engine_ready")
    began = await _server_s(redis)
    jobs = [await client.submit("climb", steps=600, step_s=0.02, seed=seed) for seed in range(2)]
    for job_id in jobs:
        await moving(client, job_id)

    # An hour on: every lease has run out at once, unless its worker renews it before anybody looks.
    clock.step("+3600")
    await until(lambda: _server_is(redis, lambda now: now > began + 3000))
    for job_id in jobs:
        before = (await client.get(job_id)).progress.done
        await until(lambda job_id=job_id, before=before: beyond(client, job_id, before))

    # Two hours back, and a worker dies at that moment: its leases must not last until the hour comes again.
    for worker in workers:
        worker.signal(signal.SIGSTOP)
    clock.step("-3600")
    await until(lambda: _server_is(redis, lambda now: now < began))
    holders = [await redis.hget(key("run", job_id), "owner") for job_id in jobs]
    dead = next(worker for worker in workers if str(worker.process.pid) in str(holders[0]).split("-"))
    dead.close()
    next(worker for worker in workers if worker is not dead).signal(signal.SIGCONT)
    for job_id in jobs:
        await client.manifest(job_id)
        assert await ends(client, job_id) == 1

    async def forgotten() -> bool:
        return len(await client.jobs.workers()) == 1

    await until(forgotten)
    await redis.aclose()
