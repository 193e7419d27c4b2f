"""Pictures that a job made are images of everybody who is shown their ids, whoever had them computed."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from redis.asyncio import Redis

from convscope.protocol.results import Manifest, Provenance, read_safetensors_header
from convscope.queue.connection import connect
from convscope.queue.jobs import Claim, JobLimits, Jobs, Verdict
from convscope.settings import Settings
from convscope.store.artifacts import Artifacts
from convscope.store.images import Images
from tests.service.support import Service, Worker, problem_of

NAMES = ("ann", "bob", "cat")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, service_settings: Settings, worker: Worker) -> Iterator[Service]:
    """The service with three callers."""
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    digests = {name: hashlib.sha256(f"{name}-key".encode()).hexdigest() for name in NAMES}
    keys.write_text("".join(f'[callers.{name}]\nkey_sha256 = "{digest}"\n' for name, digest in digests.items()))
    with Service(service_settings.model_copy(update={"api_keys_file": keys})) as running:
        yield running


@pytest.fixture
def callers(guarded: Service) -> Iterator[list[httpx2.Client]]:
    """A client of each."""
    made = [guarded.client(headers={"Authorization": f"Bearer {name}-key"}) for name in NAMES]
    yield made
    for client in made:
        client.close()


def ask(client: httpx2.Client, seed: int) -> dict[str, Any]:
    """The job of a request for one picture."""
    body = {"layer": "conv", "channels": [1], "seed": seed, "steps": 4}
    answer = client.post("/v1/maximize", json=body)
    assert answer.status_code in (200, 202), answer.text
    job: dict[str, Any] = answer.json()
    return job


def look(client: httpx2.Client, job: dict[str, Any]) -> str:
    """The id of the picture, as the finished job tells it."""
    seen = client.get(f"/v1/jobs/{job['id']}").json()
    assert seen["state"] == "succeeded", seen
    (told,) = seen["result"]["facts"]["pictures"]
    assert seen["result"]["pictures"][0]["image_id"] == told["image_id"]
    return str(told["image_id"])


def owns(client: httpx2.Client, image_id: str, picture: np.ndarray) -> None:
    """The caller may look at the image, and send it on."""
    answer = client.get(f"/v1/images/{image_id}", headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), picture)
    sent_on = client.post("/v1/feature-maps", json={"image": {"id": image_id}})
    assert sent_on.status_code == 200, sent_on.text


class Painter:
    """A worker between its steps: it has claimed a run, or is about to store what it found."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def claim(self) -> Claim:
        """The one run that waits."""

        async def work(redis: Redis, jobs: Jobs) -> Claim:
            (claim,) = await jobs.claim("painter", interactive=0, batch=1, operations=["maximize"])
            return claim

        return self._with_queue(work)

    def store(self, claim: Claim, picture: np.ndarray, knows: Sequence[str]) -> str:
        """Arrays, the picture as an image of the callers that the worker knows, and the manifest; its key."""

        async def work(redis: Redis, jobs: Jobs) -> str:
            artifacts = Artifacts.open(self.settings.artifacts_location)
            image_id = await Images(redis, artifacts, self.settings.keep_images_s).grant(knows, picture)
            data = safetensors.numpy.save({"images": picture[None]})
            told = {"kind": "channel", "layer": "conv", "channel": 1, "loss_last": 1.0, "value": 1.0, "dead": False}
            manifest = Manifest(
                operation=claim.operation,
                request=claim.request,
                facts={"pictures": [{**told, "image_id": image_id}]},
                arrays=read_safetensors_header(data),
                arrays_key=await artifacts.put("results", data),
                images=[],
                provenance=Provenance(model="toy", code="test", torch="none", device="cpu", precision="exact"),
                computed_ms=1.0,
            )
            return await artifacts.put("results", manifest.model_dump_json().encode())

        return self._with_queue(work)

    def finish(self, claim: Claim, manifest: str, granted: Sequence[str]) -> Verdict:
        """The end of the run, of whose pictures those callers have images."""

        async def work(redis: Redis, jobs: Jobs) -> Verdict:
            return await jobs.finish(claim.run, claim.epoch, manifest=manifest, granted=granted, computed_ms=1.0)

        verdict: Verdict = self._with_queue(work)
        return verdict

    def _with_queue(self, work: Any) -> Any:
        async def run() -> Any:
            redis = connect(str(self.settings.redis_url))
            try:
                return await work(redis, Jobs(redis, JobLimits.from_settings(self.settings)))
            finally:
                await redis.aclose()

        return asyncio.run(run())


def test_everyone_owns_the_pictures_of_a_shared_result(
    guarded: Service, callers: list[httpx2.Client], worker: Worker
) -> None:
    ann, bob, cat = callers
    painter = Painter(guarded.settings)
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    with worker.idle():
        first = ask(ann, 71)
        claim = painter.claim()
        manifest = painter.store(claim, picture, knows=["ann"])
        late = ask(bob, 71)  # joins when the worker has already asked whose pictures these are
        assert painter.finish(claim, manifest, ["ann"]) is Verdict.JOINED
        assert bob.get(f"/v1/jobs/{late['id']}").json()["state"] == "running", "nobody is shown what is not theirs"
        painter.store(claim, picture, knows=["bob"])
        assert painter.finish(claim, manifest, ["ann", "bob"]) is Verdict.GO_ON
        cached = ask(cat, 71)
    assert cached["state"] == "succeeded", "answered from the cache"
    ids = {look(client, job) for client, job in ((ann, first), (bob, late), (cat, cached))}
    assert len(ids) == 1
    (image_id,) = ids
    for client in callers:
        owns(client, image_id, picture)


def test_looking_writes_nothing(guarded: Service, callers: list[httpx2.Client], worker: Worker) -> None:
    ann, _, _ = callers
    painter = Painter(guarded.settings)
    with worker.idle():
        job = ask(ann, 73)
        claim = painter.claim()
        manifest = painter.store(claim, np.full((8, 8, 3), 4, np.uint8), knows=["bob"])
        painter.finish(claim, manifest, ["ann"])  # as a worker says that could not grant it, its queue being full
    image_id = look(ann, job)
    problem_of(ann.get(f"/v1/images/{image_id}"), 404, "not-found")
    assert ann.get("/v1/images").json() == {"images": []} or image_id not in ann.get("/v1/images").text


def test_a_picture_that_was_deleted_does_not_come_back_by_looking(
    guarded: Service, callers: list[httpx2.Client], worker: Worker
) -> None:
    ann, bob, _ = callers
    painter = Painter(guarded.settings)
    with worker.idle():
        first = ask(ann, 72)
        claim = painter.claim()
        painter.finish(claim, painter.store(claim, np.full((8, 8, 3), 9, np.uint8), knows=["ann"]), ["ann"])
        cached = ask(bob, 72)
    for client, job in ((ann, first), (bob, cached)):
        image_id = look(client, job)
        assert client.delete(f"/v1/images/{image_id}").status_code == 204
        assert look(client, job) == image_id
        problem_of(client.get(f"/v1/images/{image_id}"), 404, "not-found")
