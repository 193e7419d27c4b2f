"""Puts what an engine found into the artifact store: arrays, pictures, previews, the manifest that names them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import structlog
from PIL import Image
from redis.asyncio import Redis

from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError
from convscope.protocol.results import Manifest, Provenance, StoredArray, StoredImage, read_safetensors_header
from convscope.queue.connection import guarded
from convscope.queue.keys import key
from convscope.store.artifacts import Artifacts, Blob
from convscope.store.images import Images
from workers.supervision.claimed_run import ClaimedRun
from workers.supervision.fault_points import FaultPoint, fault_point
from workers.wire import Frame

log = structlog.get_logger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
PREVIEW_SIDE = 512


async def persist(call: Callable[[], Awaitable[T]], *, patience_s: float, **context: Any) -> T:
    """Call the store again and again, with growing pauses, while the caller keeps in memory what is to be stored.

    A queue that is away is waited for without end: without it nobody could be told of a failure either.

    Raises:
        ProblemError: what the store said last, once `patience_s` is over.
    """
    clock = asyncio.get_running_loop().time
    until, pause_s = clock() + patience_s, FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except ProblemError as problem:
            late = clock() + pause_s > until
            if problem.name != "queue-unavailable" and (late or problem.name != "store-unavailable"):
                raise
            log.warning("store_retry", problem=problem.name, detail=problem.detail, pause_s=pause_s, **context)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class ResultStore:
    """Stores results and previews.

    Args:
        redis: tells whose jobs share a run.
        artifacts: where bytes go.
        images: where pictures become images.
        patience_s: how long to try.
    """

    def __init__(self, redis: Redis, artifacts: Artifacts, images: Images, patience_s: float) -> None:
        self._redis = redis
        self._artifacts = artifacts
        self._images = images
        self._patience_s = patience_s

    async def result(self, held: ClaimedRun, frame: Frame) -> str:
        """Store pictures, then arrays and manifest at the same time; the manifest's artifact key.

        Nobody knows that key before the queue is told of it, after both.

        Raises:
            ProblemError: `store-unavailable`, `queue-unavailable`.
        """
        arrays: dict[str, StoredArray] = {}
        arrays_key: str | None = None
        blobs: list[tuple[Blob, FaultPoint, str | None]] = []
        facts = dict(frame.header["facts"])
        if frame.blobs:
            data = memoryview(frame.blobs[0])
            arrays = read_safetensors_header(data)
            arrays_key = await self._artifacts.key_of("results", data)
            await self._register_pictures(held, facts, arrays, data)
            fault_point("after_pictures_put")
            blobs.append((data, "after_arrays_put", arrays_key))
        manifest = Manifest(
            operation=held.claim.operation,
            request=held.claim.request,
            facts=facts,
            arrays=arrays,
            arrays_key=arrays_key,
            images=[StoredImage(**image.model_dump()) for image in held.claim.images],
            provenance=Provenance(**frame.header["provenance"]),
            computed_ms=frame.header["computed_ms"],
        )
        text = manifest.model_dump_json().encode()
        blobs.append((text, "after_manifest_put", None))
        # Each is waited for, also where another has failed: nothing is still being written for a run that has ended.
        stored = await asyncio.gather(*(self._put(held, *blob) for blob in blobs), return_exceptions=True)
        for key_or_error in stored:
            if isinstance(key_or_error, BaseException):
                raise key_or_error
        return str(stored[-1])

    async def _put(self, held: ClaimedRun, data: Blob, point: FaultPoint, key: str | None = None) -> str:
        stored = await self._persist(held, lambda: self._artifacts.put("results", data, key))
        fault_point(point)
        return stored

    async def preview(self, frame: Frame) -> str:
        """Store a preview as PNG; its artifact key.

        Raises:
            ProblemError: `store-unavailable`.
        """
        height, width, channels = frame.header["preview"]
        pixels = np.frombuffer(frame.blobs[0], np.uint8).reshape(height, width, channels)
        return await self._artifacts.put("previews", await asyncio.to_thread(encode_png, pixels))

    async def _register_pictures(
        self, held: ClaimedRun, facts: dict[str, Any], arrays: dict[str, StoredArray], data: memoryview
    ) -> None:
        """Make each picture of a result an image of everybody who asked for it, with its id in the facts."""
        operation = operations().get(held.claim.operation)
        name = operation.image_array if operation is not None else None
        where = arrays.get(name) if name is not None else None
        if where is None:
            return
        pixels = np.frombuffer(data, np.uint8, where.nbytes, where.offset).reshape(where.shape)
        callers = await self._persist(held, lambda: self._callers(held.run))
        facts["pictures"] = [dict(picture) for picture in facts["pictures"]]
        try:
            for picture, told in zip(pixels, facts["pictures"], strict=True):
                if told.get("withheld"):
                    continue
                for caller in callers:
                    record = await self._persist(held, partial(self._images.add_pixels, caller, picture))
                    told["image_id"] = record.id
        except ProblemError as problem:
            if problem.name != "queue-full":
                raise
            # Records of images do not count among what a full queue still takes; the pictures are in the result anyway.
            log.warning("pictures_not_kept", run=held.run, detail=problem.detail)

    async def _callers(self, run: str) -> list[str]:
        """The callers of the jobs that share a run."""
        async with guarded():
            jobs = await self._redis.smembers(key("members", run))
            found = [await self._redis.hget(key("job", str(job)), "caller") for job in sorted(jobs)]
        return sorted({str(caller) for caller in found if caller is not None})

    async def _persist(self, held: ClaimedRun, call: Callable[[], Awaitable[T]]) -> T:
        return await persist(call, patience_s=self._patience_s, run=held.run)


def encode_png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A picture (uint8, H×W×3) as PNG, scaled down to PREVIEW_SIDE where it is larger."""
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
