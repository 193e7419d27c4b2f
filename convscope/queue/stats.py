"""Who works and how much is waiting: reads for /metrics, /readyz and `workers_online`. Used by `jobs`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from redis.asyncio import Redis

from convscope.queue.connection import guarded
from convscope.queue.keys import LANES, TIME_BUCKETS_MS, WORKER_KEPT_MS, key
from convscope.queue.records import Durations, QueueStats, WorkerInfo

KINDS = ("quick", "long")
"""Of jobs, each with a quota of its own."""


def _ms(clock: tuple[int, int]) -> int:
    """The server's TIME reply as Unix milliseconds."""
    return int(clock[0]) * 1000 + int(clock[1]) // 1000


async def read_beats(redis: Redis) -> dict[str, int]:
    """The workers whose last heartbeat is recent, with its time by the server's clock, ms."""
    async with guarded():
        pipe = redis.pipeline(transaction=False)
        pipe.time()
        pipe.zrange(key("workers"), 0, -1, withscores=True)
        clock, beats = await pipe.execute()
    return {str(name): int(beat) for name, beat in beats if beat >= _ms(clock) - WORKER_KEPT_MS}


async def read_workers(redis: Redis) -> list[WorkerInfo]:
    """The workers that live, as they describe themselves."""
    beats = await read_beats(redis)
    if not beats:
        return []
    async with guarded():
        texts = await redis.mget([key("worker", name) for name in beats])
    return [
        WorkerInfo.model_validate({**json.loads(text), "heartbeat_ms": beat})
        for beat, text in zip(beats.values(), texts, strict=True)
        if text
    ]


async def read_unfinished(redis: Redis, caller: str) -> dict[str, int]:
    """How many unfinished jobs of each kind, `quick` and `long`, count in a caller's quota."""
    async with guarded():
        pipe = redis.pipeline(transaction=False)
        for kind in KINDS:
            pipe.zcount(key("unfinished", kind, caller), "-inf", "(0")
        return dict(zip(KINDS, await pipe.execute(), strict=True))


def _durations(held: Mapping[str, str]) -> dict[str, dict[str, Durations]]:
    """The histograms in the hash `times`."""
    found: dict[str, dict[str, Durations]] = {}
    for name in held:
        kind, operation, _ = name.split(":")
        if operation not in found.setdefault(kind, {}):
            at = f"{kind}:{operation}"
            counts = [int(held.get(f"{at}:{bucket}", 0)) for bucket in range(1, len(TIME_BUCKETS_MS) + 2)]
            found[kind][operation] = Durations(counts=counts, sum_ms=float(held.get(f"{at}:sum", 0)))
    return found


async def read_stats(redis: Redis) -> QueueStats:
    """Depths, ages, totals and memory."""
    workers = len(await read_beats(redis))
    async with guarded():
        pipe = redis.pipeline(transaction=False)
        pipe.time()
        for lane in LANES:
            pipe.zcard(key("lane", lane))
            pipe.zrange(key("waiting", lane), 0, 0, withscores=True)
        pipe.zcard(key("leases"))
        pipe.zcard(key("active"))
        pipe.hgetall(key("counters"))
        pipe.hgetall(key("times"))
        pipe.info("memory")
        clock, *lanes, running, unfinished, counters, times, memory = await pipe.execute()
    now = _ms(clock)
    oldest = dict(zip(LANES, lanes[1::2], strict=True))
    return QueueStats(
        waiting=dict(zip(LANES, lanes[::2], strict=True)),
        oldest_s={lane: max(0.0, (now - first[0][1]) / 1000) if (first := oldest[lane]) else 0.0 for lane in LANES},
        running=running,
        unfinished=unfinished,
        workers=workers,
        counters={name: int(total) for name, total in counters.items()},
        times=_durations(times),
        memory_bytes=int(memory["used_memory"]),
        memory_limit_bytes=int(memory.get("maxmemory", 0)),
    )
