"""Workers of two versions side by side, and workers that cannot work."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from convscope.queue.jobs import JobState
from convscope.queue.keys import key
from convscope.settings import Settings
from tests.faults.conftest import Start
from tests.faults.looks import ends, moving
from tests.service.support import Service, png_bytes, problem_of
from tests.workers.harness import ROOT, Client, until

IMAGE = ("image", ("a.png", png_bytes(64, 64), "image/png"))


def older_tree(to: Path) -> Path:
    """Our packages as another version: every script has another SHA, records have a field that we do not know."""
    for name in ("convscope", "workers", "tests"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    scripts = to / "convscope" / "queue" / "scripts"
    common = scripts / "common.lua"
    common.write_text(common.read_text() + "\n-- Another version.\n")
    taking = scripts / "claim.lua"
    text = taking.read_text()
    planted = text.replace("'owner', worker)", "'owner', worker, 'colour', 'violet')", 1)
    assert planted != text
    taking.write_text(planted)
    return to


async def test_row_30_two_versions_work_side_by_side_and_one_leaves(start: Start, client: Client, tmp_path: Path):
    old = start(
        tree=older_tree(tmp_path / "older"),
        engine={"checkpoint_s": 0.1},
        environment={"PYTHONPATH": str(tmp_path / "older"), "DUMMY_OPERATIONS": "sums"},
    )
    new = start(engine={"checkpoint_s": 0.1}, interactive_runs=1)
    for worker in (old, new):
        await worker.said("engine_ready")
    quick = [await client.submit(seed=seed, slices=2, slice_s=0.02) for seed in range(16)]
    unknown = [await client.submit("climb", steps=20, seed=seed) for seed in range(3)]
    for job_id in [*quick, *unknown]:
        await client.manifest(job_id)
        assert await ends(client, job_id) == 1
    assert {line["operation"] for line in old.lines("run_claimed")} == {"sums"}
    assert {line["operation"] for line in new.lines("run_claimed")} >= {"climb"}

    # The old one is asked to leave with work in its hands; what it began, the new one reads and ends.
    new.signal(signal.SIGSTOP)
    begun = await client.submit(slices=200, slice_s=0.02)
    await client.in_state(begun, JobState.RUNNING)
    await moving(client, begun)
    assert await client.redis.hget(key("run", begun), "colour") == "violet"
    old.signal(signal.SIGTERM)
    assert await old.ended(10.0) == 0
    new.signal(signal.SIGCONT)
    assert (await client.manifest(begun)).facts["sums"]
    job = await client.get(begun)
    assert job.attempt == 2 and await ends(client, begun) == 1
    await client.redis.script_flush()
    assert (await client.manifest(await client.submit())).facts["sums"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """One network whose weights are not what the catalogue says, and one whose weights are not there."""
    (tmp_path / "swapped.pth").write_bytes(b"not what was agreed upon" * 100)
    path = tmp_path / "catalogue.toml"
    path.write_text(
        f'[networks.swapped]\nsource = "torchvision:alexnet"\nweights = "file:swapped.pth"\nsha256 = "{"0" * 64}"\n'
        '[networks.absent]\nsource = "torchvision:alexnet"\nweights = "file:absent.safetensors"\n'
    )
    return path


async def test_row_32_workers_without_a_device_or_with_wrong_weights(
    start: Start, client: Client, valkey_url: str, tmp_path: Path, catalogue: Path
):
    broken = start(module="workers", device="cuda:63")
    settings = Settings(redis_url=valkey_url, data=tmp_path, card_wait_s=1.0)
    with Service(settings) as service, service.client() as http:
        (unready, *_) = await broken.said("engine_unready")
        assert unready["reason"]

        async def told() -> bool:
            infos = await client.jobs.workers()
            return any(not info.ready and "63" in info.reason for info in infos)

        await until(told)
        answer = await asyncio.to_thread(http.post, "/v1/classify", files=[IMAGE])
        problem_of(answer, 503, "queue-unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        figures = [
            line for line in http.get("/metrics").text.splitlines() if line.startswith("convscope_worker_ready{")
        ]
        assert [line.rsplit(" ", 1)[1] for line in figures] == ["0.0"]
        waiting = await client.submit("classify", model="efficientnet_lite0", top=5, images=[await client.image()])

        # Another one takes what the broken one cannot; its own trouble with two networks hurts nobody else.
        good = start(module="workers", catalogue=catalogue, threads=1)
        assert len((await client.manifest(waiting)).facts["predictions"]) == 1
        assert not broken.lines("run_claimed") and len(good.lines("run_claimed")) == 1
        for model in ("swapped", "absent"):
            answer = await asyncio.to_thread(
                http.post, "/v1/classify", files=[IMAGE, ("model", (None, model.encode()))]
            )
            problem_of(answer, 424, "weights-unavailable")
            assert str(tmp_path) not in answer.text
        assert (await asyncio.to_thread(http.post, "/v1/classify", files=[IMAGE])).status_code == 200
