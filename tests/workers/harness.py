"""Real workers on a real server for tests: start, watch, stop, kill; and shorthands of a client of the queue."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from redis.asyncio import Redis

from convscope.protocol.results import Manifest
from convscope.queue.jobs import NO_QUOTA, Job, JobImage, JobLimits, Jobs, JobSpec, JobState
from convscope.queue.keys import key
from convscope.store.archive import Archive
from convscope.store.artifacts import Artifacts

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0
CALLER = "tester"


async def until(what: Callable[[], Awaitable[T]], deadline_s: float = DEADLINE_S) -> T:
    """Ask again and again until the answer is true."""
    end = time.monotonic() + deadline_s
    while True:
        found = await what()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"it did not happen within {deadline_s:g} s")
        await asyncio.sleep(0.02)


async def gone(process: psutil.Process) -> None:
    """Wait for its end, be it that nobody has asked for its status yet."""

    async def look() -> bool:
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await until(look)


class Worker:
    """A supervisor process with its engine.

    Args:
        engine: changes of the engine's configuration.
        module: what is run; `workers` is the real one.
        tree: where our packages lie, for one of another version.
        environment: further variables.
        settings: names of settings without the prefix, in lower case.
    """

    def __init__(
        self,
        redis_url: str,
        data: Path,
        *,
        engine: dict[str, Any] | None = None,
        module: str = "tests.workers.dummy_worker",
        tree: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        data.mkdir(exist_ok=True)
        self._log = data / f"worker-{time.monotonic_ns()}.log"
        whole = {
            **os.environ,
            "CONVSCOPE_REDIS_URL": redis_url,
            "CONVSCOPE_ARTIFACTS_URL": str(data / "artifacts"),
            "CONVSCOPE_DATA": str(data),
            "CONVSCOPE_LOG_FORMAT": "json",
            "CONVSCOPE_LEASE_S": "2",
            "CONVSCOPE_RENEW_S": "0.4",
            "CONVSCOPE_DIE_WITH_PARENT": "1",
            "DUMMY_ENGINE": json.dumps(engine or {}),
            **{f"CONVSCOPE_{name.upper()}": str(value) for name, value in settings.items()},
            **(environment or {}),
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", module], cwd=tree, env=whole, stderr=log)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of one event."""
        found = []
        for line in self._log.read_text().splitlines():
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            if fields.get("event") == event:
                found.append(fields)
        return found

    @property
    def engine_pid(self) -> int:
        """The process id of its present engine."""
        return int(self.lines("engine_ready")[-1]["pid"])

    async def said(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until it has logged that event."""

        async def look() -> list[dict[str, Any]]:
            assert self.process.poll() is None or event == "worker_ended", self._log.read_text()[-3000:]
            lines = self.lines(event)
            return lines if len(lines) >= count else []

        return await until(look)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end; the exit status."""

        async def look() -> bool:
            return self.process.poll() is not None

        await until(look, deadline_s)
        return self.process.returncode

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()


async def moving(client: Client, job_id: str, beyond: float = 0) -> bool:
    """Whether the job has made progress beyond that step."""
    return (await client.get(job_id)).progress.done > beyond


class Client:
    """Submits jobs and reads what became of them."""

    def __init__(self, redis: Redis, data: Path) -> None:
        self.redis = redis
        self.artifacts = Artifacts.open(str(data / "artifacts"))
        self.jobs = Jobs(redis, JobLimits(lease_s=2.0), Archive(self.artifacts))

    async def image(self, seed: int = 0) -> JobImage:
        pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        return JobImage(pixels=await self.artifacts.put("images", buffer.getvalue()), width=4, height=5)

    async def submit(
        self,
        operation: str = "sums",
        *,
        caller: str = CALLER,
        deadline_s: float | None = None,
        digest: str = "",
        **how: Any,
    ) -> str:
        lane = how.pop("lane", "interactive" if operation == "sums" else "batch")
        bounded = {name: how.pop(name) for name in ("cost", "caller_jobs", "networks") if name in how}
        if not how.pop("bounded", True):
            bounded["caller_jobs"] = NO_QUOTA
        images = how.pop("images", [await self.image()] if operation == "sums" else [])
        request = {"model": "small", "precision": "exact", "seed": 0, **how}
        if operation == "climb":
            request = {"pictures": 1, "steps": 5, **request}
        spec = JobSpec(
            operation=operation,
            request=request,
            images=images,
            lane=lane,
            caller=caller,
            deadline_s=deadline_s,
            digest=digest,
            **bounded,
        )
        job, _ = await self.jobs.enqueue(spec)
        return job.id

    async def get(self, job_id: str, caller: str = CALLER) -> Job:
        return await self.jobs.get(job_id, caller)

    async def age(self, job_id: str) -> None:
        """As if the job had waited for an hour."""
        job = await self.get(job_id)
        since = await self.redis.hget(key("run", job.run), "waiting_ms")
        await self.redis.hset(key("run", job.run), "waiting_ms", int(since) - 3_600_000)

    async def in_state(self, job_id: str, *states: JobState, caller: str = CALLER) -> Job:
        """Wait until the job is in one of the states."""

        async def look() -> Job | None:
            job = await self.get(job_id, caller)
            return job if job.state in states else None

        found = await until(look)
        assert found is not None
        return found

    async def end(self, job_id: str, caller: str = CALLER) -> Job:
        """Wait for its end."""
        states = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)
        return await self.in_state(job_id, *states, caller=caller)

    async def manifest(self, job_id: str, caller: str = CALLER) -> Manifest:
        """The manifest of a job that must succeed."""
        job = await self.end(job_id, caller)
        assert job.state is JobState.SUCCEEDED, job.error
        assert job.manifest is not None
        return Manifest.model_validate_json(await self.artifacts.get(job.manifest))

    async def array(self, manifest: Manifest, name: str) -> Any:
        """One array of a result, read as the service reads it."""
        where = manifest.arrays[name]
        assert manifest.arrays_key is not None
        data = await self.artifacts.get_range(manifest.arrays_key, where.offset, where.nbytes)
        return np.frombuffer(data, where.dtype).reshape(where.shape)

    async def events(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        """All its events, name and data."""
        entries = await self.redis.xrange(key("events", job_id))
        return [(fields["name"], json.loads(fields["data"])) for _, fields in entries]

    async def checkpoint_step(self, job_id: str) -> int:
        """The step of its newest checkpoint; 0 without one."""
        job = await self.get(job_id)
        return int(await self.redis.hget(key("run", job.run), "checkpoint_step") or 0)
