"""The supervisor of one device: claims runs, feeds the engine, renews leases, commits results, replaces a dead engine.

One asyncio loop with a task for each concern. Redis and the artifact store are here, torch is in the engine.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import structlog
from redis.asyncio import Redis

from convscope import logs
from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError
from convscope.queue.events import Doorbell
from convscope.queue.jobs import JobLimits, Jobs, WorkerInfo
from convscope.settings import Settings
from convscope.store.archive import AT_ONCE, Archive
from convscope.store.artifacts import Artifacts
from convscope.store.card_store import CardStore
from convscope.store.images import Images
from convscope.store.kinds import retention_s
from convscope.store.uploaded_networks import UploadedNetworks
from workers.engine_config import EngineConfig
from workers.supervision.claimed_runs import ClaimedRuns, Places
from workers.supervision.counters import Counters
from workers.supervision.image_files import ImageFiles
from workers.supervision.neighbours import Neighbours
from workers.supervision.network_files import NetworkFiles
from workers.supervision.publishing import Publisher
from workers.supervision.result_store import ResultStore
from workers.supervision.run_lifecycle import RunLifecycle
from workers.supervision.tasks import end_tasks
from workers.supervision.watchdog import Watchdog
from workers.wire import Frame

log = structlog.get_logger(__name__)

LOOK_S = 2.0
"""Longest pause between two looks at the queue, should a ring of the doorbell get lost."""
SLOW_S = 1.0
"""While the queue takes longer than this to answer, nothing more is claimed from it."""
SWEEP_EVERY_S = 0.5
SWEEP_ARTIFACTS_S = 3600.0
ARCHIVE_EVERY_S = 1.0
LAST_STEPS_S = 2.0
"""Part of `drain_s` that is kept for giving back."""


class Supervisor:
    """Everything of a worker but the computing.

    Args:
        settings: of the operator.
        config: of the engine.
        redis: an ordinary client.
        redis_url: for the doorbell's own connection.
        artifacts: the store.
    """

    def __init__(
        self,
        settings: Settings,
        config: EngineConfig,
        *,
        redis: Redis,
        redis_url: str,
        artifacts: Artifacts,
    ) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._settings = settings
        self._neighbours = Neighbours(settings.data / "worker" / "alive", self.id)
        self._artifacts = artifacts
        self._redis = redis
        self._archive = Archive(artifacts)
        self._started_ms = time.time_ns() // 1_000_000
        self._answer_s = 0.0
        self._stopping = asyncio.Event()
        self._look = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._publish_now = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._room = Places(settings.quick_runs, settings.interactive_runs, settings.batch_runs)
        self._counters = Counters()
        self._doorbell = Doorbell(redis_url)
        self._jobs = Jobs(redis, JobLimits.from_settings(settings))
        images = Images(redis, artifacts, settings.keep_images_s, round(settings.caller_store_gib * 2**30))
        results = ResultStore(self._jobs, artifacts, images, settings.store_patience_s)
        image_files = ImageFiles(settings.data / "worker" / "spool", artifacts)
        self._networks = UploadedNetworks(redis, artifacts)
        self._network_files = NetworkFiles(settings.data / "worker" / "networks", self._networks, artifacts)
        self._watchdog = Watchdog(config.json(), settings.stall_s, self._hear, self._engine_ended, self._counters)
        self._publisher = Publisher(CardStore(redis), config.default_model, self._watchdog.send, self._network_files)
        self._claimed = ClaimedRuns(
            self._jobs,
            RunLifecycle(
                self._jobs,
                artifacts,
                images,
                results,
                self._watchdog.hand_over,
                self._counters,
                image_files,
                self._network_files,
                lambda: self._publisher.environment,
            ),
            self._watchdog,
            self._counters,
            room=self._room,
            requeue_s=settings.lease_s,
            freed=self._look.set,
        )

    def stop(self) -> None:
        """Begin to stop: claim nothing more, checkpoint, give back, end."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop` is called and everything is given back."""
        log.info("worker_started", worker=self.id, pid=os.getpid())
        self._doorbell.start()
        concerns = [
            self._watchdog.keep,
            self._watchdog.watch,
            self._listen,
            self._claim,
            self._renew,
            self._beat,
            self._sweep,
            self._publish,
            self._sweep_artifacts,
            self._archive_records,
        ]
        tasks = [asyncio.create_task(concern(), name=concern.__name__) for concern in concerns]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stopping in done:
                await self._drain()
            for task in done - {stopping}:
                # No concern ever ends by itself: this raises, and the worker ends to be started afresh.
                task.result()
        finally:
            stopping.cancel()
            await end_tasks([*tasks, *self._claimed.tasks(), *self._publisher.tasks()])
            await self._watchdog.close()
            await self._sign_off()
            # Awaited with a limit that cancels again: a library may swallow the first cancellation.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._doorbell.aclose(), LAST_STEPS_S)
            self._neighbours.close()
            log.info("worker_ended", worker=self.id)

    # The engine.

    def _hear(self, frame: Frame) -> None:
        """A frame of the engine. Must not block."""
        if frame.type in ("card", "catalogue"):
            self._publisher.hear(frame)
            self._publish_now.set()
        elif frame.type == "ready":
            for wanted in (self._publish_now, self._look, self._beat_now):
                wanted.set()
        else:
            self._claimed.hear(frame)

    async def _engine_ended(self, how: str) -> None:
        self._publisher.engine_ended(how)
        await self._claimed.requeue_all(crashed=True, reason=how)

    # The queue.

    async def _listen(self) -> None:
        """Pass the doorbell's rings to those they concern."""
        while True:
            reasons = await self._doorbell.wait(LOOK_S)
            self._look.set()
            if reasons & {"cancel", "room", "lost"}:
                self._renew_now.set()
            if reasons & {"card", "lost"}:
                self._publish_now.set()

    async def _claim(self) -> None:
        """Take runs while there is room, the engine works and the queue answers quickly."""
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                await self._claim_what_fits()
            except ProblemError as problem:
                log.warning("claim_failed", problem=problem.name, detail=problem.detail)

    async def _claim_what_fits(self) -> None:
        """One claim for all the room there is: what it leaves waiting has to wait for room, or rings when it comes."""
        async with self._claiming:
            room = self._claimed.free()
            known = set(self._watchdog.card.get("operations", ())) & set(operations())
            slow = self._answer_s > SLOW_S
            if self._stopping.is_set() or not known or slow or not room.any:
                return
            async with self._timed():
                claims = await self._jobs.claim(
                    self.id,
                    quick=room.quick,
                    interactive=room.interactive,
                    batch=room.batch,
                    operations=known,
                    aged=room.aged,
                    most=self._room.most(),
                )
            for claim in claims:
                self._claimed.take(claim)

    @asynccontextmanager
    async def _timed(self) -> AsyncIterator[None]:
        """Remembers how long the queue took to answer, or not to."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._answer_s = time.monotonic() - began

    async def _renew(self) -> None:
        """Keep what is held, and hear what is no longer wanted."""
        while True:
            await _wait(self._renew_now, self._settings.renew_s)
            try:
                async with self._timed():
                    await self._claimed.renew(self.id)
            except ProblemError as problem:
                log.warning("renew_failed", problem=problem.name, runs=len(self._claimed))

    async def _beat(self) -> None:
        """Say that this worker lives and what it can do; also measures how quickly the queue answers."""
        while True:
            try:
                async with self._timed():
                    await self._jobs.heartbeat(self._info())
            except ProblemError as problem:
                log.warning("heartbeat_failed", problem=problem.name)
            await _wait(self._beat_now, LOOK_S)

    def _info(self) -> WorkerInfo:
        card, beat, stopping = self._watchdog.card, self._watchdog.beat, self._stopping.is_set()
        return WorkerInfo(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=card.get("device", ""),
            code=card.get("code", ""),
            torch=card.get("torch", ""),
            version=version("convscope"),
            operations=sorted(set(card.get("operations", ())) & set(operations())),
            started_ms=self._started_ms,
            ready=bool(card) and not stopping,
            reason="it is stopping" if stopping else "" if card else self._watchdog.unready,
            running=len(self._claimed),
            metrics={
                **self._counters.counts,
                "log_lines_dropped": logs.dropped(),
                "slices": beat.get("slices", 0),
                "engine_resident_bytes": beat.get("rss", 0),
            },
        )

    async def _sweep(self) -> None:
        """Put right in the queue what time and accidents have done."""
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                for worker in await asyncio.to_thread(self._neighbours.dead):
                    log.warning("neighbour_died", worker=worker, runs=await self._jobs.bury(worker))
                    self._neighbours.forget(worker)
                report = await self._jobs.sweep()
            except ProblemError as problem:
                log.warning("sweep_failed", problem=problem.name)
                continue
            found = {name: number for name, number in report.model_dump().items() if number}
            if found:
                log.info("swept", **found)

    async def _archive_records(self) -> None:
        """Move the records of finished jobs out of the queue's memory into the store."""
        while True:
            moved = 0
            try:
                moved = await self._archive.move(self._redis, self._jobs)
            except ProblemError as problem:
                log.warning("archive_failed", problem=problem.name, detail=problem.detail)
            await asyncio.sleep(0 if moved == AT_ONCE else ARCHIVE_EVERY_S)

    async def _publish(self) -> None:
        """Keep the catalogue and the cards that requests wait for published."""
        told: int | None = None
        while True:
            card = self._watchdog.card
            try:
                if card and told != card["pid"]:
                    await self._publisher.engine_ready(card["environment"])
                    told = card["pid"]
                await self._publisher.work()
            except ProblemError as problem:
                log.warning("publish_failed", problem=problem.name, detail=problem.detail)
            await _wait(self._publish_now, LOOK_S)

    async def _sweep_artifacts(self) -> None:
        """Remove artifacts whose lifetime is over, each hour, not all workers at the same minute."""
        while True:
            await asyncio.sleep(SWEEP_ARTIFACTS_S * (0.5 + secrets.randbelow(1000) / 1000))
            for kind, seconds in retention_s(self._settings.keep_images_s, self._settings.keep_jobs_s).items():
                try:
                    if kind == "models":
                        removed = await self._networks.sweep(seconds) + await self._network_files.sweep()
                    else:
                        removed = await self._artifacts.sweep(kind, seconds)
                except ProblemError as problem:
                    log.warning("artifact_sweep_failed", kind=kind, problem=problem.name, detail=problem.detail)
                    continue
                log.info("artifacts_swept", kind=kind, removed=removed)

    # The end.

    async def _drain(self) -> None:
        """Checkpoint, store, give back; within `drain_s`, whatever does not answer."""
        log.info("worker_stopping", worker=self.id, runs=len(self._claimed))
        until = time.monotonic() + self._settings.drain_s
        last_steps = max(0.5, min(LAST_STEPS_S, self._settings.drain_s / 2))
        try:
            async with asyncio.timeout(max(0.1, until - last_steps - time.monotonic())):
                async with self._claiming:  # what is just being claimed is given back as well
                    pass
                if self._claimed and self._watchdog.ready.is_set():
                    await self._watchdog.send(Frame({"type": "drain"}))
                    await self._watchdog.drained.wait()
                # The checkpoints came before the word that all are made; now they are stored.
                while self._claimed.storing():  # noqa: ASYNC110  (a state of many tasks, for a second at most)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.warning("drain_slow", runs=self._claimed.names())
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + last_steps):
                await self._claimed.requeue_all(crashed=False, reason="the worker stops")
        except TimeoutError:
            log.warning("drain_incomplete", runs=self._claimed.names())

    async def _sign_off(self) -> None:
        try:
            async with asyncio.timeout(LAST_STEPS_S):
                await self._jobs.sign_off(self.id)
        except (ProblemError, TimeoutError):
            log.info("sign_off_lost")  # it counts for as long as its last heartbeat does


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event and clear it, for so long at most."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
