"""Pages of a caller's jobs, newest first, from the index that submissions keep. Reads only; used by `jobs`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from convscope.queue.connection import guarded
from convscope.queue.cursors import Position, read_cursor, write_cursor
from convscope.queue.keys import archived_key, key
from convscope.queue.records import TERMINAL, Job

_AT_ONCE = 20
"""Records of one reading; each may have a MiB."""


async def read_page(
    redis: Redis,
    caller: str,
    unpack: Callable[[str, str], Awaitable[Mapping[str, str]]],
    *,
    state: str | None,
    operation: str | None,
    fits: Callable[[Job], bool] | None,
    limit: int,
    cursor: str | None,
) -> tuple[list[Job], str | None]:
    """Up to `limit` jobs that fit, after the cursor, and the cursor of the next page; None where there is none.

    `unpack` gives the record of an archived job by its id and what the queue holds of it; `fits` sees whole records.

    Raises:
        ProblemError: `invalid-request` for a cursor that no page gave; `queue-unavailable`.
    """
    found: list[tuple[str, dict[str, str] | str]] = []
    place: Position | None = None

    async def jobs() -> list[Job]:
        whole = await asyncio.gather(*(record(*one) for one in found))
        return [Job.from_hash(job_id, held) for (job_id, _), held in zip(found, whole, strict=True)]

    async def record(job_id: str, held: dict[str, str] | str) -> Mapping[str, str]:
        return await unpack(job_id, held) if isinstance(held, str) else held

    after = read_cursor(cursor) if cursor else None
    while True:
        positions = await _positions(redis, caller, after)
        if not positions:
            return await jobs(), None
        for position, held in zip(positions, await _records(redis, caller, positions), strict=True):
            # A job whose time is over leaves the index a little later than its record goes.
            if not held or (state and not _is(state, held)):
                continue
            if operation and (await record(position[1], held))["operation"] != operation:
                continue
            if fits is not None and not fits(Job.from_hash(position[1], await record(position[1], held))):
                continue
            if len(found) == limit:
                assert place is not None
                return await jobs(), write_cursor(place)
            found.append((position[1], held))
            place = position
        after = positions[-1]


def _is(state: str, held: dict[str, str] | str) -> bool:
    return held[0] == state[0] and state in TERMINAL if isinstance(held, str) else held["state"] == state


async def _records(redis: Redis, caller: str, positions: Sequence[Position]) -> list[dict[str, str] | str]:
    """What the queue holds of each: the record, or where it is archived; empty where there is nothing."""
    async with guarded():
        pipe = redis.pipeline(transaction=False)
        for _, job_id in positions:
            pipe.hgetall(key("job", job_id))
            pipe.hget(archived_key(caller, job_id), job_id)
        replies = await pipe.execute()
    return [held or where or "" for held, where in zip(replies[::2], replies[1::2], strict=True)]


async def _positions(redis: Redis, caller: str, after: Position | None) -> list[Position]:
    """The next entries of a caller's index; none where it ends."""
    top: int | str = "+inf" if after is None else after[0]
    start = 0
    while True:
        async with guarded():
            raw: list[Any] = await redis.zrevrangebyscore(
                key("index", caller), top, "-inf", start=start, num=_AT_ONCE, withscores=True
            )
        entries = [(int(created), str(job_id)) for job_id, created in raw]
        # Jobs of one millisecond stand in descending order of their ids; those up to the position were given before.
        fresh = [entry for entry in entries if after is None or entry < after]
        if fresh or not entries:
            return fresh
        start += len(entries)
