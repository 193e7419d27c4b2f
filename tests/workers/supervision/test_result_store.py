"""How a result comes into the store: arrays and manifest together, and what becomes of one when the other fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from redis.asyncio import Redis

from convscope.protocol.problems import ProblemError
from convscope.protocol.results import Manifest
from convscope.queue.jobs import Claim, JobLimits, Jobs, JobSpec, Verdict
from convscope.store.artifacts import Artifacts, Blob, Kind
from convscope.store.images import Images
from workers.supervision.claimed_run import ClaimedRun
from workers.supervision.result_store import ResultStore
from workers.wire import Frame

ARRAYS = safetensors.numpy.save({"ramp": np.arange(4, dtype=np.float32)})


class Watched(Artifacts):
    """A store whose writes begin and end where a test sees it."""

    def __init__(self, store: Artifacts) -> None:
        super().__init__(store._store, folder=store._folder)
        self.begun: list[bytes] = []
        self.both = asyncio.Event()
        self.fails: bytes | None = None
        self.ended: list[bytes] = []

    async def put(self, kind: Kind, data: Blob, key: str | None = None) -> str:
        self.begun.append(bytes(data))
        if len(self.begun) == 2:
            self.both.set()
        async with asyncio.timeout(5):
            await self.both.wait()
        if bytes(data) == self.fails:
            raise ProblemError("store-unavailable", "as the test wants it")
        await asyncio.sleep(0.05)
        stored = await super().put(kind, data, key)
        self.ended.append(bytes(data))
        return stored


@pytest.fixture
def artifacts(tmp_path: Path) -> Watched:
    return Watched(Artifacts.open(str(tmp_path)))


@pytest.fixture
def results(redis: Redis, artifacts: Watched) -> ResultStore:
    return ResultStore(Jobs(redis, JobLimits()), artifacts, Images(redis, artifacts, 60), patience_s=0.0)


def held() -> ClaimedRun:
    """A run that somebody has claimed."""
    return ClaimedRun(
        Claim(
            run="r1", epoch=1, operation="sums", request={}, lane="interactive", slot="interactive", attempt=1,
            submitted_ms=0,
        )
    )  # fmt: skip


def frame(*blobs: bytes) -> Frame:
    """What an engine says at the end."""
    provenance: dict[str, Any] = {"model": "m", "code": "c", "torch": "t", "device": "cpu", "precision": "exact"}
    header = {"type": "result", "run": "r1/1", "facts": {"n": 1}, "provenance": provenance, "computed_ms": 1.0}
    return Frame(header, blobs)


async def test_arrays_and_manifest_are_written_together(results: ResultStore, artifacts: Watched) -> None:
    stored = await results.result(held(), frame(ARRAYS))
    manifest = Manifest.model_validate_json(await artifacts.get(stored.manifest))
    assert manifest.arrays_key is not None
    assert await artifacts.get(manifest.arrays_key) == ARRAYS
    assert len(artifacts.ended) == 2, "the queue is told of neither before both are there"


async def test_a_result_without_arrays_is_its_manifest(results: ResultStore, artifacts: Watched) -> None:
    artifacts.both.set()
    manifest = Manifest.model_validate_json(await artifacts.get((await results.result(held(), frame())).manifest))
    assert manifest.arrays_key is None and manifest.arrays == {}


async def test_arrays_that_cannot_be_stored_leave_no_result(results: ResultStore, artifacts: Watched) -> None:
    artifacts.fails = ARRAYS
    with pytest.raises(ProblemError, match="as the test wants it"):
        await results.result(held(), frame(ARRAYS))
    assert len(artifacts.ended) == 1, "the other write was waited for"


async def test_who_asks_while_a_result_is_stored_owns_its_pictures(
    results: ResultStore, artifacts: Watched, redis: Redis
) -> None:
    artifacts.both.set()
    jobs, images = Jobs(redis, JobLimits()), Images(redis, artifacts, 60)
    spec = JobSpec(operation="maximize", request={}, caller="ann", digest="d", lane="batch")
    await jobs.enqueue(spec)
    (claim,) = await jobs.claim("w", interactive=0, batch=1, operations=["maximize"])
    made = frame(safetensors.numpy.save({"images": np.full((1, 4, 4, 3), 7, np.uint8)}))
    made.header["facts"] = {"pictures": [{"kind": "channel"}]}
    stored = await results.result(ClaimedRun(claim), made)
    assert stored.granted == {"ann"}
    late, _ = await jobs.enqueue(spec.model_copy(update={"caller": "bob"}))
    told = {"manifest": stored.manifest, "computed_ms": 1.0}
    assert await jobs.finish(claim.run, claim.epoch, **told, granted=stored.granted) is Verdict.JOINED
    assert not (await jobs.get(late.id, "bob")).finished
    stored = await results.grant_to_joined(ClaimedRun(claim), stored)
    assert stored.granted == {"ann", "bob"}
    assert await jobs.finish(claim.run, claim.epoch, **told, granted=stored.granted) is Verdict.GO_ON
    manifest = Manifest.model_validate_json(await artifacts.get(stored.manifest))
    for caller in ("ann", "bob"):
        assert (await images.get(caller, manifest.facts["pictures"][0]["image_id"])).width == 4
