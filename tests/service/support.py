"""A real service on a port of its own, and a small worker with predictable answers.

The worker claims, computes with numpy and finishes through the queue, as a real one does. What it does with a request
is said by the request's seed, see `Worker`.
"""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import httpx2
import numpy as np
import safetensors.numpy
from PIL import Image

from convscope import logs
from convscope.protocol.cards import LayerCard, ModelCard, ModelSummary, PreprocessCard
from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError
from convscope.protocol.results import Manifest, Provenance, StoredImage, read_safetensors_header
from convscope.queue.connection import connect
from convscope.queue.jobs import Claim, JobLimits, JobProgress, Jobs, Verdict, WorkerInfo
from convscope.settings import Settings
from convscope.store.artifacts import Artifacts
from convscope.store.card_store import CardStore
from convscope.store.images import npy_file, npy_pixels
from service.__main__ import Server, bind, server

DEADLINE_S = 20.0
FAIL, HOLD, SLOW, NOT_FINITE, BIG, CRASHED = 901, 902, 903, 904, 905, 906
"""Seeds: fail with numerical-error; compute until cancelled; report progress and a preview; NaN and infinity in the
array; an array too large for JSON; end as a worker that crashed for good."""


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition gives something."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {DEADLINE_S} s")


def toy_card(name: str = "toy") -> ModelCard:
    """A network of three layers that nobody computes."""
    maps = dict.fromkeys(operations())
    return ModelCard(
        id=name,
        title="Toy",
        source="test",
        weights="random, seed 0",
        entry_digest="0" * 64,
        parameters=1000,
        preprocess=PreprocessCard(
            size=(8, 8), resize=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channels=3, resizable=True
        ),
        classes=("cat", "dog"),
        layers=(
            LayerCard(name="conv", kind="Conv2d", order=0, shape=(8, 6, 6), kernel_shape=(8, 3, 3, 3), methods=maps),
            LayerCard(name="conv.relu#2", kind="relu", order=1, shape=(8, 6, 6), activation="relu", methods=maps),
            LayerCard(name="wide", kind="Conv2d", order=2, shape=(64, 90, 90), methods=maps),
            LayerCard(name="huge", kind="Conv2d", order=3, shape=(64, 200, 200), methods=maps),
            LayerCard(
                name="fc", kind="Linear", order=4, shape=(2,), methods=dict.fromkeys(operations(), "it has no maps")
            ),
        ),
        default_layers=dict.fromkeys(operations(), ("conv",)),
        stages=("conv",),
    )


def publish_card(settings: Settings, name: str) -> None:
    """Say what a worker would of a network that a caller brought, by its name with its version."""

    async def publish() -> None:
        assert settings.redis_url is not None
        redis = connect(settings.redis_url)
        await CardStore(redis).publish(toy_card(name.partition("@")[0]), name)
        await redis.aclose()

    asyncio.run(publish())


def toy_maps(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """What the worker answers for one image: its mean, plus the channel, plus a tenth of the place."""
    channels, height, width = shape
    place = np.arange(height * width, dtype=np.float32).reshape(height, width) / 10
    return (pixels.mean() + np.arange(channels, dtype=np.float32)[:, None, None] + place).astype(np.float32)


def png_bytes(width: int = 20, height: int = 16, value: int = 100) -> bytes:
    """A PNG file of one colour; each file of tests has its own, since one computation answers equal requests."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def noise_png(width: int, height: int, seed: int = 0) -> bytes:
    """A PNG file that nobody can pack."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Worker:
    """Computes `feature-maps` of the toy network; every other operation fails with `not-applicable`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._idle = threading.Event()
        self._resting = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="test-worker")
        self.computed: list[str] = []
        self.environment = "test environment"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Claim nothing while the block runs."""
        self._resting.clear()
        self._idle.set()
        assert self._resting.wait(DEADLINE_S)  # a claim that is under way may still take what the block submits
        try:
            yield
        finally:
            self._idle.clear()

    async def _run(self) -> None:
        assert self._settings.redis_url is not None
        redis = connect(self._settings.redis_url)
        self._artifacts = Artifacts.open(self._settings.artifacts_location)
        self._jobs = Jobs(redis, JobLimits.from_settings(self._settings))
        cards = CardStore(redis)
        names = ("toy", "toy-random")
        summaries = [
            ModelSummary(id=name, title="Toy", source="test", weights="random", default=name == "toy") for name in names
        ]
        broken = ModelSummary(id="broken", title="Broken", source="test", weights="none", problem="no weights here")
        await cards.publish_catalogue([*summaries, broken], self.environment, "toy")
        for name in names:
            await cards.publish(toy_card(name))
        info = WorkerInfo(id="w1", device="cpu", operations=["feature-maps"], metrics={"batch_rows": 3})
        running: set[asyncio.Task[None]] = set()
        beat = 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() > beat + 1:
                    await self._jobs.heartbeat(info)
                    await self._jobs.sweep()
                    beat = time.monotonic()
                if self._idle.is_set():
                    self._resting.set()
                else:
                    for claim in await self._jobs.claim("w1", quick=8, interactive=8, batch=8, operations=operations()):
                        task = asyncio.create_task(self._compute(claim))
                        running.add(task)
                        task.add_done_callback(running.discard)
            except ProblemError as error:
                if error.name != "queue-unavailable":
                    raise
            await asyncio.sleep(0.01)
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await redis.aclose()

    async def _compute(self, claim: Claim) -> None:
        self.computed.append(claim.run)
        seed = claim.request["seed"]
        if claim.operation != "feature-maps":
            await self._fail(claim, "not-applicable", "The test's worker cannot do that.")
        elif seed == FAIL:
            await self._fail(claim, "numerical-error", "The loss is NaN.")
        elif seed == CRASHED:
            await self._fail(claim, "worker-crashed", "The engine died three times.")
        elif seed == HOLD:
            await self._until_cancelled(claim)
        else:
            if seed == SLOW:
                await self._report(claim)
            await self._succeed(claim)

    async def _fail(self, claim: Claim, name: str, detail: str) -> None:
        error = {"name": name, "detail": detail, "extra": {}}
        await self._jobs.finish(claim.run, claim.epoch, error=error, computed_ms=1.0)

    async def _until_cancelled(self, claim: Claim) -> None:
        while not self._stop.is_set():
            verdict = (await self._jobs.renew("w1", [(claim.run, claim.epoch)]))[claim.run]
            if verdict != Verdict.GO_ON:
                await self._jobs.requeue(claim.run, claim.epoch, crashed=False)
                return
            await asyncio.sleep(0.02)

    async def _report(self, claim: Claim) -> None:
        preview = await self._artifacts.put("previews", png_bytes(4, 4))
        for step in range(1, 4):
            progress = JobProgress(done=step, total=4, message=f"step {step}")
            await self._jobs.progress(claim.run, claim.epoch, progress, preview if step == 2 else None)
            await asyncio.sleep(0.05)

    async def _succeed(self, claim: Claim) -> None:
        layers = claim.request["layers"]
        card = toy_card()
        images = [npy_pixels(npy_file(await self._artifacts.get(image.pixels))) for image in claim.images]
        arrays: dict[str, np.ndarray] = {}
        facts = []
        for name in layers:
            shape = card.layer(name).shape
            maps = np.stack([toy_maps(pixels, shape) for pixels in images])  # (N, C, H, W)
            if claim.request["seed"] == NOT_FINITE:
                maps[0, 0, 0, :2] = [np.nan, np.inf]
            arrays[f"maps/{name}"] = maps
            numbers = np.nan_to_num(maps, posinf=0.0)
            facts.append(
                {
                    "layer": name,
                    "shape": list(shape),
                    "channels": [list(range(shape[0]))] * len(images),
                    "minimum": numbers.min((2, 3)).tolist(),
                    "mean": numbers.mean((2, 3)).tolist(),
                    "maximum": numbers.max((2, 3)).tolist(),
                    "std": numbers.std((2, 3)).tolist(),
                    "zeros": [[0.0] * shape[0]] * len(images),
                    "dead_channels": [[] for _ in images],
                }
            )
        data = safetensors.numpy.save(arrays)
        transforms = [
            {
                "upload_size": list(pixels.shape[:2]),
                "input_size": [8, 8],
                "scale": [pixels.shape[0] / 8, pixels.shape[1] / 8],
                "offset": [0.0, 0.0],
            }
            for pixels in images
        ]
        manifest = Manifest(
            operation=claim.operation,
            request=claim.request,
            facts={"layers": facts, "transforms": transforms},
            arrays=read_safetensors_header(data),
            arrays_key=await self._artifacts.put("results", data),
            images=[StoredImage(**image.model_dump()) for image in claim.images],
            provenance=Provenance(
                model=claim.request["model"], code="test", torch="none", device="cpu", precision="exact"
            ),
            computed_ms=1.5,
        )
        key = await self._artifacts.put("results", manifest.model_dump_json().encode())
        await self._jobs.finish(claim.run, claim.epoch, manifest=key, computed_ms=1.5)


class Service:
    """The application behind uvicorn in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._listener: socket.socket = bind("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server: Server = server(settings)
        logs.configure(settings.log_level, "json")
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)  # what is said belongs to the test that runs
        self.app: Any = self.server.config.app
        self._thread = threading.Thread(target=lambda: self.server.run([self._listener]), name="test-service")

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.server.started or not self._thread.is_alive(), "the start of the service")
        assert self.server.started
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join()

    def client(self, **more: Any) -> httpx2.Client:
        """A client of it."""
        return httpx2.Client(base_url=self.url, timeout=DEADLINE_S, trust_env=False, **more)


def problem_of(answer: httpx2.Response, status: int, name: str) -> dict[str, Any]:
    """The problem document of an answer, after checking that it is one of that status and name."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text[:500]
    document: dict[str, Any] = answer.json()
    assert (answer.status_code, document["type"]) == (status, f"/problems/{name}"), document
    assert document["status"] == status
    assert document["title"] and document["detail"] and document["instance"]
    assert document["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return document


def numbers_of(file: bytes) -> bytes:
    """The arrays of a safetensors file, whatever its header says beside where they are."""
    return file[8 + int.from_bytes(file[:8], "little") :]
