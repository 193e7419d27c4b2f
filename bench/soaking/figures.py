"""What a soak comes to: every job's end, recoveries, latencies, memory; read from the queue and the clients' notes."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis.exceptions import RedisError

from bench.soaking.faults import Faults, Kill
from bench.soaking.load import Ask, Load
from bench.soaking.processes import Processes
from convscope.protocol.results import Manifest
from convscope.queue.jobs import JobLimits, Jobs
from convscope.queue.keys import key
from convscope.store.archive import Archive
from convscope.store.artifacts import Artifacts

SAMPLE_S = 2.0
RECORD_EVERY_S = 4.0
SLOWEST = 8
POINTS = 60


def spread(seconds: Iterable[float]) -> dict[str, float | int]:
    """Count, median, 99th percentile and largest, seconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {"count": 0}
    return {
        "count": len(ordered),
        "p50_s": round(ordered[len(ordered) // 2], 3),
        "p99_s": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
        "max_s": round(ordered[-1], 3),
    }


class Memory:
    """Samples of every process and of the server, over time."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._began = time.monotonic()
        self._samples: list[dict[str, float]] = []

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            sample = {"at_s": round(time.monotonic() - self._began, 1), **self._processes.memory()}
            try:
                used = int((await self._processes.redis.info("memory"))["used_memory"])
                sample["redis used"] = round(used / 2**20, 2)
            except (RedisError, OSError):
                sample["redis used"] = -1.0
            self._samples.append(sample)
            await asyncio.sleep(SAMPLE_S)

    def report(self) -> dict[str, Any]:
        """MiB by part: in the second fifth of the time, in the last, at most; and some points in between."""
        names = sorted({name for sample in self._samples for name in sample} - {"at_s"})
        fifth = max(1, len(self._samples) // 5)
        parts = {}
        for name in names:
            values = [sample[name] for sample in self._samples if sample.get(name, -1) > 0]
            early = [sample[name] for sample in self._samples[fifth : 2 * fifth] if sample.get(name, -1) > 0]
            late = [sample[name] for sample in self._samples[-fifth:] if sample.get(name, -1) > 0]
            parts[name] = {"early_max": max(early, default=0), "late_max": max(late, default=0), "max": max(values)}
        step = max(1, len(self._samples) // POINTS)
        return {"mib": parts, "over_time": self._samples[::step]}


class Recorder:
    """Events of finished jobs, read before they are dropped with the records that go into the archive."""

    def __init__(self, processes: Processes, load: Load) -> None:
        self._processes = processes
        self._load = load
        self._kept: dict[str, Events] = {}

    async def watch(self) -> None:
        """Read until cancelled."""
        while True:
            await asyncio.sleep(RECORD_EVERY_S)
            for ask in [ask for ask in self._load.asked if ask.job_id and ask.job_id not in self._kept]:
                try:
                    found = await _events(self._processes, ask.job_id)
                except (RedisError, OSError):
                    continue
                # Seen at its end for some seconds: a second end would have come with the first.
                if any(name == "done" and data["at_ms"] < 1000 * (time.time() - 5) for name, data in found):
                    self._kept[ask.job_id] = found

    async def events(self, job_id: str) -> Events:
        """What a job told of."""
        return self._kept.get(job_id) or await _events(self._processes, job_id)


async def judge(processes: Processes, load: Load, faults: Faults, recorder: Recorder) -> dict[str, Any]:
    """The figures of a finished soak. `lost` and `twice` are what must be empty."""
    jobs = [ask for ask in load.asked if ask.job_id]
    events = {ask.job_id: await recorder.events(ask.job_id) for ask in jobs}
    queue = _queue(processes)
    states = {job_id: _state(found) for job_id, found in events.items()}
    terminal = {job_id: sum(name == "done" for name, _ in found) for job_id, found in events.items()}
    lost = [job_id for job_id, count in terminal.items() if count == 0]
    twice = [job_id for job_id, count in terminal.items() if count > 1]
    failed = Counter([await _failure(queue, job_id) for job_id, state in states.items() if state == "failed"])
    quick = [ask for ask in jobs if ask.operation != "maximize"]
    operations = {ask.job_id: ask.operation for ask in jobs}
    recoveries = sorted(_recoveries(faults.kills, events), key=lambda recovery: -recovery.whole_s)
    return {
        "submitted": len(jobs),
        "finished": dict(Counter(states.values())),
        "failed": dict(failed),
        "lost": lost,
        "twice": twice,
        "terminal_transitions_per_job": dict(Counter(terminal.values())),
        "refused": load.refused,
        "keys_with_two_jobs": load.different_ids,
        "attempts": dict(Counter(_attempts(found) for found in events.values())),
        "different_results": await _different(
            processes, queue, [ask for ask in jobs if ask.operation == "maximize"], states
        ),
        "gaps_in_events": sum(ask.gaps for ask in jobs),
        "resets_of_events": sum(ask.resets for ask in jobs),
        "steps_back": sum(ask.steps_back for ask in jobs),
        "reconnects": load.reconnects,
        "retries": load.retries,
        "kills": dict(Counter(kill.kind for kill in faults.kills)),
        "server_restarts": faults.server_restarts,
        "recovery": spread(recovery.whole_s for recovery in recoveries),
        "recovery_by_kind": {
            kind: spread(recovery.whole_s for recovery in recoveries if recovery.kind == kind)
            for kind in ("worker", "engine")
        },
        "slowest_recoveries": [
            {"operation": operations.get(recovery.job_id, "unknown"), **asdict(recovery)}
            for recovery in recoveries[:SLOWEST]
        ],
        "worker_start": spread(processes.start_times()),
        "interactive_latency": spread(ask.answered - ask.asked for ask in quick if ask.answered is not None),
        "cancel_latency": {
            state: spread(
                ask.cancel_seen - ask.cancelled
                for ask in jobs
                if ask.cancel_state == state and ask.cancelled is not None and ask.cancel_seen is not None
            )
            for state in ("queued", "running")
        },
        "fenced_writes": int(await processes.redis.hget(key("counters"), "fenced_writes") or 0),
        "beside_a_flood": {
            "flooded": len(load.flooded),
            "quick": spread(ask.answered - ask.asked for ask in quick if ask.answered is not None and ask.beside_flood),
            "same_again": load.same_again,
            "same_again_ids": len(load.same_ids),
        },
        "archived": int(await processes.redis.hget(key("counters"), "archived") or 0),
        "queue_bytes_a_finished_job": await _bytes_a_job(processes),
        "leases_lost": int(await processes.redis.hget(key("counters"), "leases_lost") or 0),
    }


async def _bytes_a_job(processes: Processes) -> float | None:
    """Of the queue's memory, for a job that is archived: its entry, its place in the listing, its result for others."""
    entries = jobs = total = 0
    async for name in processes.redis.scan_iter(match=key("archived", "*"), count=1000):
        total += int(await processes.redis.memory_usage(name, samples=0) or 0)
        jobs += int(await processes.redis.hlen(name))
    if not jobs:
        return None
    index = key("index", "anonymous")
    listed = int(await processes.redis.memory_usage(index, samples=0) or 0) / max(1, await processes.redis.zcard(index))
    async for name in processes.redis.scan_iter(match=key("result", "*"), count=1000):
        entries += int(await processes.redis.memory_usage(name) or 0)
    return round(total / jobs + listed + entries / jobs, 1)


Events = Sequence[tuple[str, dict[str, Any]]]


async def _events(processes: Processes, job_id: str) -> Events:
    entries: Any = await processes.redis.xrange(key("events", job_id))
    return [(fields["name"], json.loads(fields["data"])) for _, fields in entries]


def _state(found: Events) -> str:
    return str(next((data["state"] for name, data in reversed(found) if name == "done"), "unfinished"))


def _attempts(found: Events) -> int:
    return int(max((data["attempt"] for name, data in found if name == "state"), default=0))


def _queue(processes: Processes) -> Jobs:
    store = Artifacts.open(str(processes.folder / "artifacts"))
    return Jobs(processes.redis, JobLimits(), Archive(store))


async def _failure(queue: Jobs, job_id: str) -> str:
    return str(((await queue.get(job_id, "anonymous")).error or {}).get("name", "unknown"))


@dataclass(frozen=True)
class Recovery:
    """How a job went on after a kill, seconds: until it waited again, and until it ran again or had ended."""

    kind: str
    job_id: str
    waiting_s: float | None
    whole_s: float
    beside: int


def _recoveries(kills: Sequence[Kill], events: dict[str, Events]) -> list[Recovery]:
    """Of each kill, for each job that was being computed there."""
    taken = []
    for kill in kills:
        for run in kill.runs:
            later = [(name, data) for name, data in events.get(run, ()) if data.get("at_ms", 0) > kill.at_ms]
            states = [data for name, data in later if name == "state" and not data["cancelling"]]
            waiting = [data["at_ms"] for data in states if data["state"] == "queued"]
            going = [data["at_ms"] for data in states if data["state"] == "running"]
            going += [data["at_ms"] for name, data in later if name == "done"]
            if going:
                back = round((min(waiting) - kill.at_ms) / 1000, 3) if waiting and min(waiting) <= min(going) else None
                whole = round((min(going) - kill.at_ms) / 1000, 3)
                taken.append(Recovery(kill.kind, run, back, whole, len(kill.runs) - 1))
    return taken


async def _different(processes: Processes, queue: Jobs, long: Sequence[Ask], states: dict[str, str]) -> int:
    """How many of the requests that were asked for again and again came to more than one result."""
    store = Artifacts.open(str(processes.folder / "artifacts"))
    results: dict[str, set[str | None]] = defaultdict(set)
    for ask in long:
        if states[ask.job_id] == "succeeded":
            manifest = str((await queue.get(ask.job_id, "anonymous")).manifest)
            results[ask.same].add(Manifest.model_validate_json(await store.get(manifest)).arrays_key)
    return sum(len(found) > 1 for found in results.values())
