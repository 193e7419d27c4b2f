"""A real worker (supervisor and engine) on a real server, with throw-away methods: the ordinary life of jobs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import JobState
from convscope.queue.keys import key
from convscope.store.card_store import CardStore
from convscope.store.images import Images
from tests.workers.harness import Client, Worker, moving, until
from workers.supervision.supervisor import LOOK_S


@pytest.fixture(scope="module")
def shared(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Path]]:
    """One worker for the tests that leave it well; the server is emptied between them."""
    data = tmp_path_factory.mktemp("worker")
    started = Worker(valkey_url, data)
    yield started, data
    started.close()


@pytest.fixture
async def worker(redis: Redis, shared: tuple[Worker, Path]) -> Worker:
    await shared[0].said("engine_ready")
    return shared[0]


@pytest.fixture
def client(redis: Redis, shared: tuple[Worker, Path]) -> Client:
    return Client(redis, shared[1])


async def test_a_job_end_to_end(worker: Worker, client: Client):
    image = await client.image(1)
    job_id = await client.submit(seed=3, images=[image])
    job = await client.end(job_id)
    manifest = await client.manifest(job_id)
    pixels = await Images(client.redis, client.artifacts, 60).read_pixels(image.pixels)
    assert manifest.facts["sums"] == [float(pixels.sum())]
    assert (await client.array(manifest, "ramp")).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert manifest.operation == "sums" and manifest.request["seed"] == manifest.provenance.seed == 3
    assert manifest.images[0].pixels == image.pixels and manifest.images[0].height == 5
    assert manifest.provenance.model_dump() == {
        "model": "small", "weights_sha256": "5ha256", "code": "c0de", "torch": manifest.provenance.torch,
        "device": "cpu", "precision": "exact", "tile": 1, "seed": 3, "libraries": {"nothing": "1.0"}, "notes": [],
    }  # fmt: skip
    assert job.attempt == 1 and job.computed_ms == manifest.computed_ms > 0
    names = [name for name, _ in await client.events(job_id)]
    assert names == ["state", "state", "state", "done"]


async def test_waiting_jobs_are_computed_in_one_batch_and_a_bad_row_fails_alone(worker: Worker, client: Client):
    good = [await client.submit(seed=seed) for seed in range(6)]
    bad = await client.submit(act="refuse")
    broken = await client.submit(act="raise")
    assert (await client.end(bad)).error == {"name": "not-applicable", "detail": "The request said so."}
    failed = await client.end(broken)
    assert failed.error is not None and failed.error["name"] == "internal-error"
    manifests = [await client.manifest(job) for job in good]
    assert all(manifest.facts["sums"] for manifest in manifests)
    together = [await client.submit(seed=seed) for seed in range(8)]
    batches = [(await client.manifest(job)).facts["batch"] for job in together]
    assert max(batches) > 1


async def test_a_look_at_the_queue_is_one_claim(worker: Worker, client: Client):
    await client.end(await client.submit())
    before, began = int(await client.redis.get(key("turns")) or 0), time.monotonic()
    for seed in range(20):
        await client.end(await client.submit(seed=seed))
    claims = int(await client.redis.get(key("turns")) or 0) - before
    # At the ring, when there is room again, and now and then unasked.
    assert 20 <= claims <= 2 * 20 + 1 + (time.monotonic() - began) / LOOK_S


async def test_an_image_that_was_just_used_is_not_read_again(
    worker: Worker, client: Client, shared: tuple[Worker, Path]
):
    image = await client.image(77)
    first = await client.manifest(await client.submit(images=[image]))
    (shared[1] / "artifacts" / image.pixels).unlink()
    again = await client.manifest(await client.submit(images=[image]))
    assert again.facts["sums"] == first.facts["sums"]


async def test_a_damaged_or_missing_image_fails_its_job_only(worker: Worker, client: Client, tmp_path: Path):
    missing = (await client.image(1)).model_copy(update={"pixels": "images/00/" + "0" * 64})
    bad, good = await client.submit(images=[missing]), await client.submit()
    failed = await client.end(bad)
    assert failed.error is not None and failed.error["name"] == "gone"
    await client.manifest(good)


async def test_the_worker_says_what_it_is_and_publishes_catalogue_and_cards(worker: Worker, client: Client):
    (info,) = await until(lambda: _ready(client))
    assert info.operations == ["climb", "sums"] and info.device == "cpu" and info.code == "c0de"
    cards = CardStore(client.redis)
    assert (await cards.get("small", 30.0)).title == "small"
    assert (await cards.get("other", 30.0)).title == "other"
    with pytest.raises(ProblemError, match="no such network"):
        await cards.get("missing", 30.0)
    assert await cards.environment() == "test environment" and await cards.default_model() == "small"
    assert [summary.id for summary in await cards.summaries()] == ["missing", "other", "slow", "small"]
    await client.redis.flushall()
    assert (await _card_again(cards)).title == "small"


async def _ready(client: Client):
    return [info for info in await client.jobs.workers() if info.ready]


async def _card_again(cards: CardStore):
    async def look():
        return await cards.peek("small")

    return await until(look)


async def test_an_iterative_job_reports_progress_previews_and_pictures_as_images(worker: Worker, client: Client):
    job_id = await client.submit("climb", pictures=2, steps=40, step_s=0.02)
    manifest = await client.manifest(job_id)
    assert manifest.facts["steps"] == [40, 40]
    events = await client.events(job_id)
    steps = [data["done"] for name, data in events if name == "progress"]
    assert steps and steps == sorted(steps)
    previews = [data for name, data in events if name == "preview"]
    assert previews
    png = await client.artifacts.get(next(value for value in previews[0].values() if "previews/" in str(value)))
    assert png.startswith(b"\x89PNG")
    images = Images(client.redis, client.artifacts, 60)
    pictures = await client.array(manifest, "pictures")
    for picture, told in zip(pictures, manifest.facts["pictures"], strict=True):
        record = await images.get("tester", told["image_id"])
        assert (await images.read_pixels(record.pixels) == picture).all()


async def test_pictures_become_images_of_everybody_who_shares_the_computation(worker: Worker, client: Client):
    await worker.said("engine_ready")
    blocker = await client.submit("climb", steps=10**6)
    mine = await client.submit("climb", steps=60, step_s=0.01, digest="shared", caller="one")
    theirs = await client.submit("climb", steps=60, step_s=0.01, digest="shared", caller="two")
    first, second = await client.manifest(mine, "one"), await client.manifest(theirs, "two")
    assert first == second
    images = Images(client.redis, client.artifacts, 60)
    for caller in ("one", "two"):
        assert await images.get(caller, first.facts["pictures"][0]["image_id"])
    await client.jobs.cancel(blocker, "tester")
    await client.end(blocker)


@pytest.mark.parametrize("operation", ["sums", "climb"])
async def test_a_running_job_is_cancelled_and_the_worker_goes_on(
    worker: Worker, client: Client, operation: str, tmp_path: Path
):
    closed = tmp_path / "closed"
    how = {"slices": 10**6, "slice_s": 0.01, "closed": str(closed)} if operation == "sums" else {"steps": 10**9}
    job_id = await client.submit(operation, **how)
    await client.in_state(job_id, JobState.RUNNING)
    await until(lambda: moving(client, job_id))
    await client.jobs.cancel(job_id, "tester")
    assert (await client.end(job_id)).state is JobState.CANCELLED
    assert operation != "sums" or closed.exists()
    await client.manifest(await client.submit())
    withdrawn = [line for line in worker.lines("run_withdrawn") if job_id in line["jobs"]]
    assert [line["verdict"] for line in withdrawn] == ["cancelled"]


async def test_a_deadline_ends_a_running_job_as_expired(worker: Worker, client: Client):
    await worker.said("engine_ready")
    job_id = await client.submit("climb", steps=10**9, deadline_s=1.0)
    job = await client.end(job_id)
    assert job.state is JobState.EXPIRED and job.attempt == 1
    await client.manifest(await client.submit())


async def test_weights_that_cannot_be_had_fail_the_job(worker: Worker, client: Client):
    job = await client.end(await client.submit(model="missing"))
    assert job.error == {"name": "weights-unavailable", "detail": "There is no such network."}


async def test_operations_that_this_worker_does_not_know_stay_in_the_lane(worker: Worker, client: Client):
    unknown = await client.submit("from-the-future")
    await client.manifest(await client.submit())
    assert (await client.get(unknown)).state is JobState.QUEUED


def test_importing_the_supervisor_leaves_torch_out():
    code = (
        "import sys, json, workers.supervision.supervisor, workers.__main__; print(json.dumps('torch' in sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) is False


async def test_a_job_of_a_network_that_is_not_there_any_more_fails_and_others_go_on(worker: Worker, client: Client):
    """Deleted, or replaced by another version, while the job waited: said, and never answered by what is there now."""
    waited = await client.submit(networks={"small": "0" * 24})
    other = await client.submit(seed=99)
    failed = await client.end(waited)
    assert failed.state is JobState.FAILED and failed.error is not None
    assert failed.error["name"] == "gone" and "small was deleted after this was asked" in failed.error["detail"]
    assert (await client.end(other)).state is JobState.SUCCEEDED
