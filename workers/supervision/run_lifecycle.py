"""One claimed run from its claim to its commit: fetch pixels, hand over, forward, store, finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import structlog

from convscope.backoff import Backoff
from convscope.protocol.problems import PROBLEMS, ProblemError
from convscope.queue.jobs import JobImage, JobProgress, Jobs, Verdict
from convscope.queue.keys import LANES
from convscope.recent import Recent
from convscope.store.artifacts import Artifacts
from convscope.store.images import Images, Pixels, Planes
from workers.supervision.claimed_run import ClaimedRun
from workers.supervision.counters import Counters
from workers.supervision.fault_points import fault_point
from workers.supervision.image_files import ImageFiles
from workers.supervision.network_files import NetworkFiles
from workers.supervision.result_store import ResultStore, StoredResult
from workers.wire import Frame, WireError

log = structlog.get_logger(__name__)

FETCHES = 4
RECENT_PIXELS_BYTES = 64 * 1024**2
"""Of images read last: people ask for one layer after the other of the same image."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
INTERNAL = "An error of ours; the worker's log has it under the job's id."


class Withdrawn(Exception):  # noqa: N818  (not an error: the queue says that the run is no longer ours to report on)
    """The queue answered CANCELLED or FENCED."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


class RunLifecycle:
    """Takes runs from claim to commit. Raises Withdrawn when the queue wants one back.

    Args:
        send: hands a run to an engine that is ready, and marks it as sent.
        counters: counts what happens.
        image_files: where the images of sets lie while a run needs them.
        network_files: has networks that callers brought at hand.
        environment: what the engine runs on, as it says itself.
    """

    def __init__(
        self,
        jobs: Jobs,
        artifacts: Artifacts,
        images: Images,
        results: ResultStore,
        send: Callable[[ClaimedRun, Frame], Awaitable[None]],
        counters: Counters,
        image_files: ImageFiles,
        network_files: NetworkFiles,
        environment: Callable[[], str],
    ) -> None:
        self._image_files = image_files
        self._network_files = network_files
        self._environment = environment
        self._jobs = jobs
        self._artifacts = artifacts
        self._images = images
        self._results = results
        self._send = send
        self._counters = counters
        self._recent: Recent[str, Pixels | Planes] = Recent(RECENT_PIXELS_BYTES)
        self._fetching = {lane: asyncio.Semaphore(FETCHES) for lane in LANES}
        self._fetching_sets = asyncio.Semaphore(1)

    async def follow(self, held: ClaimedRun) -> None:
        """All of a run's life here.

        Raises:
            Withdrawn: the run was cancelled or is no longer ours.
        """
        try:
            await self._hand_over(held)
            while held.final is None:
                await held.wake.wait()
                held.wake.clear()
                if held.refused:
                    held.refused = False
                    self._counters.add("checkpoints_refused")
                    held.checkpoints = held.checkpoints[1:]
                    await self._hand_over(held)
                if held.final is None:
                    await self._forward(held)
            await self._commit(held, held.final)
        except ProblemError as problem:
            log.error("run_failed", run=held.run, problem=problem.name, detail=problem.detail, jobs=held.claim.members)
            await self._finish(held, error=_error(problem))
        except WireError as error:
            log.error("run_too_large", run=held.run, jobs=held.claim.members, error=str(error))
            detail = "The images of this request are too large together for one worker."
            await self._finish(held, error=_error(ProblemError("out-of-memory", detail)))
        except Withdrawn:
            raise
        except Exception:
            # A bug of ours must not leave a run that is held, renewed and never finished.
            log.exception("run_broken", run=held.run, jobs=held.claim.members)
            await self._finish(held, error=_error(ProblemError("internal-error", INTERNAL)))
        finally:
            if held.claim.image_list:
                await self._image_files.empty(held.token)

    # To the engine.

    async def _hand_over(self, held: ClaimedRun) -> None:
        """Fetch what the run needs and send it to the engine."""
        claim = held.claim
        files: list[str] = []
        # A set of thousands must not keep single pictures waiting, nor must an engine that is still starting.
        async with self._fetching_sets if claim.image_list else self._fetching[claim.lane]:
            # An image that is named many times is fetched once.
            distinct = {image.planes or image.pixels: image for image in claim.images}
            fetched = await asyncio.gather(*(self._pixels(image) for image in distinct.values()))
            found = dict(zip(distinct, fetched, strict=True))
            pixels = [found[image.planes or image.pixels] for image in claim.images]
            sizes: Sequence[tuple[int, ...]] = [_size(picture) for picture in pixels]
            if claim.image_list:
                files, members = await self._image_files.fill(held.token, claim.image_list)
                sizes = [(member.height, member.width) for member in members]
                held.members = members
            networks = {
                model: await self._network_files.fetch(model, version) for model, version in claim.networks.items()
            }
            checkpoint = await self._checkpoint(held)
        header = {
            "type": "run",
            "run": held.token,
            "operation": claim.operation,
            "request": claim.request,
            "lane": claim.lane,
            "caller": claim.caller,
            "alone": claim.alone,
            "deadline_s": held.deadline_s(),
            "images": sizes,
            "files": files,
            "networks": networks,
            "checkpoint": checkpoint is not None,
        }
        blobs: list[Any] = [np.ascontiguousarray(picture).data.cast("B") for picture in pixels]
        if checkpoint is not None:
            blobs.append(checkpoint)
        fault_point("before_send")
        await self._send(held, Frame(header, blobs))

    async def _pixels(self, image: JobImage) -> Pixels | Planes:
        kept = image.planes or image.pixels
        pixels = self._recent.get(kept)
        if pixels is None:
            try:
                reading = self._images.read_planes if image.planes is not None else self._images.read_pixels
                pixels = await reading(kept)
            except ValueError as error:
                raise ProblemError("gone", f"The image {image.id or image.pixels} is damaged in the store.") from error
            self._recent.put(kept, pixels, pixels.nbytes)
        return pixels

    async def _checkpoint(self, held: ClaimedRun) -> bytes | None:
        """The newest checkpoint that can be had whole."""
        while held.checkpoints:
            try:
                return await self._artifacts.get(held.checkpoints[0])
            except ProblemError as problem:
                if problem.name != "gone":
                    raise
                log.warning("checkpoint_damaged", run=held.run, checkpoint=held.checkpoints[0], detail=problem.detail)
                self._counters.add("checkpoints_damaged")
                held.checkpoints = held.checkpoints[1:]
        return None

    # From the engine.

    async def _forward(self, held: ClaimedRun) -> None:
        """Pass on the newest checkpoint and progress. What cannot be told now is told with the next, or never."""
        checkpoint = held.checkpoint
        if checkpoint is not None:
            await self._keep_checkpoint(held, checkpoint)
            if held.checkpoint is checkpoint:
                held.checkpoint = None
            else:
                held.wake.set()  # a newer one has come meanwhile
        progress, held.progress = held.progress, None
        if progress is None:
            return
        shown, held.preview = held.preview, None
        preview: str | None = None
        told = JobProgress(
            done=progress.header["done"],
            total=progress.header["total"],
            message=progress.header["message"],
            losses=progress.header.get("losses"),
        )
        try:
            if shown is not None:
                preview = await self._results.preview(shown)
        except ProblemError as problem:
            log.warning("preview_lost", run=held.run, problem=problem.name)
        try:
            _heed(await self._jobs.progress(held.run, held.epoch, told, preview))
        except ProblemError as problem:
            log.warning("progress_lost", run=held.run, problem=problem.name)

    async def _keep_checkpoint(self, held: ClaimedRun, frame: Frame) -> None:
        try:
            stored = await self._artifacts.put("checkpoints", frame.blobs[0])
            fault_point("in_checkpoint")
            step = int(frame.header["step"])
            verdict = await self._jobs.checkpointed(held.run, held.epoch, stored, step)
            self._counters.add("checkpoints")
            log.info("checkpointed", run=held.run, step=step, nbytes=memoryview(frame.blobs[0]).nbytes)
            fault_point("after_checkpoint")
            if verdict is not Verdict.PARK or held.final is None:  # what is computed by now is better stored
                _heed(verdict)
        except ProblemError as problem:
            # The run goes on; its next checkpoint will be tried as well.
            log.warning("checkpoint_lost", run=held.run, problem=problem.name, detail=problem.detail)

    # The end.

    async def _commit(self, held: ClaimedRun, frame: Frame) -> None:
        if frame.type == "failed":
            name = frame.header["problem"] if frame.header["problem"] in PROBLEMS else "internal-error"
            error = {"name": name, "detail": frame.header["detail"]}
            await self._finish(held, error=error, computed_ms=frame.header["computed_ms"])
            return
        stored = await self._results.result(held, frame)
        await self._finish(held, stored=stored, computed_ms=frame.header["computed_ms"])

    async def _finish(
        self,
        held: ClaimedRun,
        *,
        stored: StoredResult | None = None,
        error: dict[str, Any] | None = None,
        computed_ms: float = 0.0,
    ) -> None:
        """Tell the queue, however long it is away: the result is stored, and only the queue can say that it is late."""
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        fault_point("before_finish")
        while True:
            try:
                verdict = await self._jobs.finish(
                    held.run,
                    held.epoch,
                    manifest=None if stored is None else stored.manifest,
                    error=error,
                    computed_ms=computed_ms,
                    environment=self._environment(),
                    granted=None if stored is None else stored.granted,
                )
                if stored is None or verdict is not Verdict.JOINED:
                    break
                stored = await self._results.grant_to_joined(held, stored)
                continue
            except ProblemError as problem:
                pause_s = backoff.next_s()
                log.warning("finish_retry", run=held.run, problem=problem.name, pause_s=pause_s)
            await asyncio.sleep(pause_s)
        fault_point("after_finish")
        outcome = "finished" if error is None else "failed"
        self._counters.add(f"runs_{outcome if verdict is not Verdict.FENCED else 'fenced'}")
        log.info(
            "run_" + outcome,
            run=held.run,
            jobs=held.claim.members,
            operation=held.claim.operation,
            attempt=held.claim.attempt,
            verdict=str(verdict),
            problem=None if error is None else error["name"],
            computed_ms=round(computed_ms, 1),
            request_id=held.claim.request_id,
        )


def _heed(verdict: Verdict) -> None:
    if verdict is not Verdict.GO_ON:
        raise Withdrawn(verdict)


def _size(picture: Pixels | Planes) -> tuple[int, ...]:
    """Height and width of pixels, and the planes of floats."""
    return tuple(picture.shape) if picture.dtype == np.float32 else (picture.shape[0], picture.shape[1])


def _error(problem: ProblemError) -> dict[str, Any]:
    return {"name": problem.name, "detail": problem.detail, "extra": problem.extra}
