"""Puts what an engine found into the artifact store: arrays, pictures, previews, the manifest that names them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import structlog
from PIL import Image

from convscope.backoff import Backoff
from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError
from convscope.protocol.results import Manifest, Provenance, StoredArray, StoredImage, read_safetensors_header
from convscope.queue.jobs import Jobs
from convscope.store.artifacts import Artifacts, Blob
from convscope.store.images import Images, Pixels
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
    until, backoff = clock() + patience_s, Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    while True:
        try:
            return await call()
        except ProblemError as problem:
            pause_s = backoff.next_s()
            late = clock() + pause_s > until
            # The store may come back, or have room again; a caller's own share does not grow.
            waits = problem.name == "store-unavailable" or (
                problem.name == "store-full" and "limit_bytes" not in problem.extra
            )
            if problem.name != "queue-unavailable" and (late or not waits):
                raise
            log.warning("store_retry", problem=problem.name, detail=problem.detail, pause_s=pause_s, **context)
        await asyncio.sleep(pause_s)


MOST_DRAWN_OVER = 1000
"""Images of one result; so many a method of maps takes of a set."""


@dataclass(frozen=True)
class StoredResult:
    """A result that is stored.

    Args:
        manifest: its manifest's artifact key.
        pictures: those of it that are images of its callers, each uint8 H×W×3.
        granted: these callers; None where it has no such pictures, or they could not be granted.
    """

    manifest: str
    pictures: tuple[Pixels, ...] = ()
    granted: frozenset[str] | None = None


class ResultStore:
    """Stores results and previews.

    Args:
        jobs: tells whose jobs share a run.
        artifacts: where bytes go.
        images: where pictures become images.
        patience_s: how long to try.
    """

    def __init__(self, jobs: Jobs, artifacts: Artifacts, images: Images, patience_s: float) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._images = images
        self._patience_s = patience_s

    async def result(self, held: ClaimedRun, frame: Frame) -> StoredResult:
        """Store pictures, then arrays and manifest at the same time.

        Nobody knows the manifest's key before the queue is told of it, after both.

        Raises:
            ProblemError: `store-unavailable`, `queue-unavailable`.
        """
        arrays: dict[str, StoredArray] = {}
        arrays_key: str | None = None
        blobs: list[tuple[Blob, FaultPoint, str | None]] = []
        facts = dict(frame.header["facts"])
        pictures: tuple[Pixels, ...] = ()
        granted: frozenset[str] | None = None
        if frame.blobs:
            data = memoryview(frame.blobs[0])
            arrays = read_safetensors_header(data)
            arrays_key = await self._artifacts.key_of("results", data)
            pictures, granted = await self._grant_pictures(held, facts, arrays, data)
            fault_point("after_pictures_put")
            blobs.append((data, "after_arrays_put", arrays_key))
        manifest = Manifest(
            operation=held.claim.operation,
            request=held.claim.request,
            facts=facts,
            arrays=arrays,
            arrays_key=arrays_key,
            images=_images(held),
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
        return StoredResult(str(stored[-1]), pictures, granted)

    async def grant_to_joined(self, held: ClaimedRun, stored: StoredResult) -> StoredResult:
        """Grant a stored result's pictures to those who asked for it since they were granted.

        Raises:
            ProblemError: `store-unavailable`, `queue-unavailable`.
        """
        callers = await self._persist(held, lambda: self._jobs.callers(held.run))
        new = callers - (stored.granted or frozenset())
        granted = [await self._grant(held, new, picture) is not None for picture in stored.pictures]
        return replace(stored, granted=callers if all(granted) else None)

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

    async def _grant_pictures(
        self, held: ClaimedRun, facts: dict[str, Any], arrays: dict[str, StoredArray], data: memoryview
    ) -> tuple[tuple[Pixels, ...], frozenset[str] | None]:
        """Make each picture of a result an image of everybody who asked for it, with its id in the facts."""
        operation = operations().get(held.claim.operation)
        name = operation.image_array if operation is not None else None
        where = arrays.get(name) if name is not None else None
        if where is None:
            return (), None
        pixels = np.frombuffer(data, np.uint8, where.nbytes, where.offset).reshape(where.shape)
        callers = await self._persist(held, lambda: self._jobs.callers(held.run))
        facts["pictures"] = [dict(picture) for picture in facts["pictures"]]
        shown = [each for each in zip(pixels, facts["pictures"], strict=True) if not each[1].get("withheld")]
        for picture, told in shown:
            told["image_id"] = await self._grant(held, callers, picture)
            if told["image_id"] is None:
                return (), None
        return tuple(picture for picture, _ in shown), callers

    async def _grant(self, held: ClaimedRun, callers: Collection[str], picture: Pixels) -> str | None:
        """Make a picture an image of these callers; its id, None where the queue is full.

        Records of images do not count among what a full queue still takes; the picture is in the result anyway.
        """
        try:
            return await self._persist(held, partial(self._images.grant, callers, picture))
        except ProblemError as problem:
            if problem.name not in ("queue-full", "store-full"):
                raise
            log.warning("pictures_not_kept", run=held.run, detail=problem.detail)
            return None

    async def _persist(self, held: ClaimedRun, call: Callable[[], Awaitable[T]]) -> T:
        return await persist(call, patience_s=self._patience_s, run=held.run)


def encode_png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A picture (uint8, H×W×3) as PNG, scaled down to PREVIEW_SIDE where it is larger."""
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _images(held: ClaimedRun) -> list[StoredImage]:
    """What pictures of the result are drawn over; nothing is drawn over the images of a larger set."""
    images = held.claim.images or held.members
    return [StoredImage(**image.model_dump()) for image in images] if len(images) <= MOST_DRAWN_OVER else []
