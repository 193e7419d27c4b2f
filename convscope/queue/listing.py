"""Pages of a caller's jobs, newest first, from the index that submissions keep. Reads only; used by `jobs`."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from convscope.queue.connection import guarded
from convscope.queue.cursors import Position, read_cursor, write_cursor
from convscope.queue.keys import key
from convscope.queue.records import Job

_AT_ONCE = 100


async def read_page(
    redis: Redis, caller: str, *, state: str | None, operation: str | None, limit: int, cursor: str | None
) -> tuple[list[Job], str | None]:
    """Up to `limit` jobs that fit, after the cursor, and the cursor of the next page; None where there is none.

    Raises:
        ProblemError: `invalid-request` for a cursor that no page gave; `queue-unavailable`.
    """
    found: list[Job] = []
    after = read_cursor(cursor) if cursor else None
    while True:
        positions = await _positions(redis, caller, after)
        if not positions:
            return found, None
        async with guarded():
            pipe = redis.pipeline(transaction=False)
            for _, job_id in positions:
                pipe.hgetall(key("job", job_id))
            records = await pipe.execute()
        for (_, job_id), held in zip(positions, records, strict=True):
            # A job whose time is over leaves the index a little later than its record goes.
            if not held or (state and held["state"] != state) or (operation and held["operation"] != operation):
                continue
            if len(found) == limit:
                return found, write_cursor((found[-1].created_ms, found[-1].id))
            found.append(Job.from_hash(job_id, held))
        after = positions[-1]


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
