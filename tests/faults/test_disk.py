"""The disk: flat pictures take little of it, callers have shares, and what is under way has room when it is full."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import redis
from PIL import Image

from convscope.queue.jobs import JobState
from convscope.queue.keys import key
from convscope.settings import Settings
from tests.faults.conftest import Start
from tests.faults.looks import moving
from tests.servers import PrivateServer
from tests.service.support import Service, Worker, noise_png, png_bytes, problem_of
from tests.workers.harness import Client

MAPS = "/v1/feature-maps"
MIB = 2**20


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with PrivateServer() as server:
        yield Settings(redis_url=server.url, data=tmp_path, card_wait_s=1.0, disk_reserve_mib=0)


def _upload(client: httpx2.Client, data: bytes) -> httpx2.Response:
    return client.post("/v1/images", files=[("image", ("a.png", data, "image/png"))])


def _stored(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "artifacts").rglob("*") if path.is_file())


def test_row_44_flat_pictures_are_packed_and_photographs_are_not(settings: Settings):
    with Worker(settings), Service(settings) as service, service.client() as client:
        for value in range(4):
            answer = _upload(client, png_bytes(3000, 3000, value))
            assert answer.status_code == 201, answer.text
        assert _stored(settings.data) < MIB, "108 MB of pixels"
        picture = client.get(f"/v1/images/{answer.json()['id']}", headers={"Accept": "image/png"})
        assert np.array(Image.open(io.BytesIO(picture.content))).mean() == 3
        before = _stored(settings.data)
        noise = noise_png(600, 400)
        image = _upload(client, noise).json()["id"]
        assert _stored(settings.data) - before > 600 * 400 * 3, "it is stored as it is"
        shown = client.get(f"/v1/images/{image}", headers={"Accept": "image/png"}).content
        assert np.array_equal(np.array(Image.open(io.BytesIO(shown))), np.array(Image.open(io.BytesIO(noise))))
        # A worker reads both.
        answer = client.post(MAPS, json={"images": [{"id": image}]})
        assert answer.status_code == 200, answer.text


def test_row_44_a_caller_has_a_share_and_others_have_theirs(settings: Settings, tmp_path: Path):
    keys = tmp_path / "keys.toml"
    digests = {name: hashlib.sha256(f"{name}-key".encode()).hexdigest() for name in ("ann", "bob")}
    keys.write_text("".join(f'[callers.{name}]\nkey_sha256 = "{digest}"\n' for name, digest in digests.items()))
    changed = settings.model_copy(update={"api_keys_file": keys, "caller_store_gib": 2 / 1024})
    files = [noise_png(600, 500, seed) for seed in range(4)]
    with Service(changed) as service:
        ann = service.client(headers={"Authorization": "Bearer ann-key"})
        bob = service.client(headers={"Authorization": "Bearer bob-key"})
        with ann, bob:
            assert [_upload(ann, file).status_code for file in files[:2]] == [201, 201]
            problem = problem_of(_upload(ann, files[2]), 507, "store-full")
            assert problem["limit_bytes"] == 2 * MIB and "ann" in problem["detail"]
            assert _upload(ann, files[0]).status_code == 201, "what is there is there"
            assert _upload(bob, files[2]).status_code == 201
            _expire(str(settings.redis_url), "ann")
            assert _upload(ann, files[3]).status_code == 201, "what has expired takes no room"


def _expire(url: str, caller: str) -> None:
    """As if the lifetime of a caller's images were over."""
    with redis.Redis.from_url(url, decode_responses=True) as server:
        for entry in server.zrange(key("stored", caller), 0, -1):
            server.zadd(key("stored", caller), {entry: 1})


def test_row_44_the_store_has_a_bound(settings: Settings):
    changed = settings.model_copy(update={"store_gib": 2 / 1024})
    with Worker(changed), Service(changed) as service, service.client() as client:
        assert [_upload(client, noise_png(600, 500, seed)).status_code for seed in range(2)] == [201, 201]
        answer = _upload(client, noise_png(600, 500, 3))
        problem_of(answer, 507, "store-full")
        assert int(answer.headers["retry-after"]) >= 1
        assert _stored(settings.data) < 2 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk of its own needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path, leave_mib: float) -> Path:
    """Take all but so much of a disk."""
    ballast = folder / "ballast"
    free = shutil.disk_usage(folder).free
    ballast.write_bytes(os.urandom(max(0, free - int(leave_mib * MIB))))
    return ballast


async def test_row_44_on_a_full_disk_new_work_is_refused_and_what_runs_comes_to_its_end(
    start: Start, client: Client, valkey_url: str, small_disk: Path
):
    settings = Settings(redis_url=valkey_url, data=small_disk, card_wait_s=1.0, disk_reserve_mib=8)
    there = Client(client.redis, small_disk)
    worker = start(artifacts_url=str(small_disk / "artifacts"), disk_reserve_mib=8, engine={"checkpoint_s": 0.2})
    await worker.said("engine_ready")
    climb = await there.submit("climb", steps=200, step_s=0.02)
    await moving(there, climb)
    image = await there.image()
    ballast = _fill(small_disk, 6)
    with Service(settings) as service, service.client() as http:
        problem_of(_upload(http, png_bytes()), 507, "store-full")
        for answer in (http.post("/v1/kernels", json={}), _upload(http, noise_png(500, 500))):
            # (Without a card the network is what is told first.)
            assert answer.status_code in (507, 503)
        assert http.get("/livez").status_code == 200
        # Two megabytes of arrays still find room, and the checkpoints did.
        big = await there.submit(act="big", images=[image])
        for job in (climb, big):
            assert (await there.end(job)).state is JobState.SUCCEEDED
        assert not worker.lines("checkpoint_lost")
        # Below the last part, which is for the queue's file, results are kept in memory until there is room.
        ballast.unlink()
        ballast = _fill(small_disk, 1)
        held = await there.submit(act="big", images=[image], seed=7)
        await worker.said("store_retry")
        ballast.unlink()
        assert (await there.end(held)).state is JobState.SUCCEEDED
        assert _upload(http, png_bytes()).status_code == 201


def test_row_44_a_disk_that_is_really_full_is_told_at_once(settings: Settings, small_disk: Path):
    changed = settings.model_copy(update={"data": small_disk})
    with Service(changed) as service, service.client() as client:
        ballast = _fill(small_disk, 0.2)
        problem_of(_upload(client, noise_png(600, 600)), 507, "store-full")
        ballast.unlink()
        assert _upload(client, noise_png(600, 600)).status_code == 201
