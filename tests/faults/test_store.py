"""A store that cannot take more: the kernel refuses to let files grow, as on a full disk, and later allows it again."""

from __future__ import annotations

import hashlib
import os
import resource
from pathlib import Path

import httpx2
import psutil

from convscope.queue.jobs import JobState
from tests.faults.conftest import Start
from tests.faults.looks import ends
from tests.service.support import noise_png, problem_of, wait_for
from tests.service.test_process import start as start_service
from tests.workers.harness import Client

SMALL, UNLIMITED = 1 << 20, resource.RLIM_INFINITY
IMAGE = ("image", ("a.png", noise_png(700, 700), "image/png"))


def limit(pid: int, size: int) -> None:
    """Let no file of that process grow beyond so many bytes."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))


def half_written(folder: Path) -> list[Path]:
    """Files whose content is not what their name says; obstore's own unfinished ones are nobody's key."""
    files = [path for path in folder.rglob("*") if path.is_file() and "#" not in path.name]
    return [path for path in files if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]


async def test_row_28_a_store_that_is_full_during_a_job(start: Start, client: Client, tmp_path: Path):
    worker = start(store_patience_s=4, engine={"checkpoint_s": 0.1})
    await worker.said("engine_ready")
    limit(worker.process.pid, SMALL)
    lost = await client.submit(act="big")  # 2 MiB of arrays
    (small, *_) = [await client.submit(seed=seed) for seed in range(3)]
    await worker.said("store_retry")
    assert (await client.get(lost)).state is JobState.RUNNING
    assert (await client.manifest(small)).facts["sums"]  # others go on meanwhile
    failed = await client.end(lost)
    assert failed.state is JobState.FAILED and failed.error is not None
    assert failed.error["name"] == "store-unavailable" and str(tmp_path) not in failed.error["detail"]
    assert await ends(client, lost) == 1 and not half_written(tmp_path / "artifacts")

    # The result is kept in memory while there is hope.
    kept = await client.submit(act="big", seed=5)
    await worker.said("store_retry", len(worker.lines("store_retry")) + 1)
    limit(worker.process.pid, UNLIMITED)
    manifest = await client.manifest(kept)
    assert len(await client.array(manifest, "ramp")) == 512 * 1024
    assert (await client.get(kept)).attempt == 1 and not half_written(tmp_path / "artifacts")


def test_row_28_a_store_that_is_full_when_something_is_sent(valkey_url: str, tmp_path: Path):
    environment = {
        **os.environ,
        "CONVSCOPE_REDIS_URL": valkey_url,
        "CONVSCOPE_DATA": str(tmp_path),
        "CONVSCOPE_PORT": "0",
        "CONVSCOPE_LOG_FORMAT": "json",
    }
    process, url, _ = start_service(environment)
    try:
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as http:
            assert http.get("/readyz").status_code == 200
            limit(process.pid, 0)
            refused = http.post("/v1/images", files=[IMAGE])
            problem_of(refused, 507, "store-full")
            unready = http.get("/readyz")
            problem_of(unready, 503, "store-unavailable")
            for answer in (refused, unready):
                assert int(answer.headers["retry-after"]) >= 1
            assert http.get("/livez").status_code == 200 and not half_written(tmp_path / "artifacts")
            limit(process.pid, UNLIMITED)
            wait_for(lambda: http.get("/readyz").status_code == 200, "room")
            assert http.post("/v1/images", files=[IMAGE]).status_code == 201
            assert psutil.Process(process.pid).is_running()
    finally:
        process.kill()
        process.wait()
