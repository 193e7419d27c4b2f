"""Small records that belong to a caller and end by themselves: images and image sets in Redis.

A record is one JSON string with a lifetime; an index (sorted set by the time of the last writing) lists a caller's own,
newest first. Knows Redis and nothing of what the records mean.
"""

from __future__ import annotations

import re
import time
from typing import Generic, TypeVar, cast

from pydantic import BaseModel
from redis.asyncio import Redis

from convscope.protocol.problems import ProblemError
from convscope.queue.connection import guarded
from convscope.queue.cursors import read_cursor, write_cursor
from convscope.queue.keys import key

# An id from an address may not reach into the keys of a caller whose name goes on with a colon.
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


class ShelfRecord(BaseModel):
    """What every record has: its id, and when it was made and ends (Unix time, ms)."""

    id: str
    created_ms: int = 0
    expires_ms: int = 0


R = TypeVar("R", bound=ShelfRecord)


class Shelf(Generic[R]):
    """The records of one type.

    Args:
        redis: where they are kept.
        record: their type.
        kinds: kind of key of a record and of an index, as in keys.py.
        what: what a caller calls one, for the problem's detail.
        keep_s: lifetime since the last writing, seconds.
    """

    def __init__(self, redis: Redis, record: type[R], kinds: tuple[str, str], what: str, keep_s: float) -> None:
        self._redis = redis
        self._record = record
        self._kind, self._index = kinds
        self._what = what
        self._keep_ms = int(keep_s * 1000)

    async def put(self, caller: str, record: R) -> R:
        """Write a record and return it with its times; one that is there already keeps the time it was made.

        A record that has been read before is known to be there, which spares a look.

        Raises:
            ProblemError: `queue-unavailable`, `queue-full`.
        """
        now = int(time.time() * 1000)
        name, index = key(self._kind, caller, record.id), key(self._index, caller)
        new = not record.created_ms
        times = {"created_ms": record.created_ms or now, "expires_ms": now + self._keep_ms}
        record = record.model_copy(update=times)
        async with guarded():
            # Each of these may be sent twice without harm.
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(name, record.model_dump_json(), px=self._keep_ms, nx=new)
                pipe.get(name)
                pipe.zadd(index, {record.id: now})
                pipe.zremrangebyscore(index, "-inf", now - self._keep_ms)
                pipe.pexpire(index, self._keep_ms)
                found = self._record.model_validate_json((await pipe.execute())[1])
            if found.created_ms != record.created_ms:
                record = record.model_copy(update={"created_ms": found.created_ms})
                await self._redis.set(name, record.model_dump_json(), px=self._keep_ms)
        return record

    async def get(self, caller: str, record_id: str) -> R:
        """The caller's record of that id.

        Raises:
            ProblemError: `not-found`, also for another caller's; `queue-unavailable`.
        """
        self._check(record_id)
        found = await self.find(caller, record_id)
        if found is None:
            raise self._missing(record_id)
        return found

    async def find(self, caller: str, record_id: str) -> R | None:
        """As `get`, for an id of our own making; None where there is no such record.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        async with guarded():
            found = await self._redis.get(key(self._kind, caller, record_id))
        return None if found is None else self._record.model_validate_json(found)

    async def page(self, caller: str, *, limit: int = 50, cursor: str | None = None) -> tuple[list[R], str | None]:
        """The caller's records, last written first, and the cursor of the next page, if there is one.

        Raises:
            ProblemError: `invalid-request` for a cursor that is none; `queue-unavailable`.
        """
        index = key(self._index, caller)
        records: list[R] = []
        async with guarded():
            start = 0 if cursor is None else await self._place(index, *read_cursor(cursor))
            while len(records) < limit:
                rows = cast(
                    list[tuple[str, float]],
                    await self._redis.zrange(index, start, start + limit - 1, desc=True, withscores=True),
                )
                if not rows:
                    return records, None
                ids = [member for member, _ in rows]
                found = await self._redis.mget([key(self._kind, caller, each) for each in ids])
                for (_, score), each, value in zip(rows, ids, found, strict=True):
                    start += 1
                    if value is not None:
                        records.append(self._record.model_validate_json(value))
                        if len(records) == limit:
                            more = await self._redis.zcard(index) > start
                            return records, write_cursor((int(score), each)) if more else None
        return records, None

    async def delete(self, caller: str, record_id: str) -> None:
        """Remove the caller's record of that id.

        Raises:
            ProblemError: `not-found`, also for another caller's; `queue-unavailable`.
        """
        self._check(record_id)
        async with guarded(), self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(key(self._kind, caller, record_id))
            pipe.zrem(key(self._index, caller), record_id)
            removed, listed = await pipe.execute()
        if not removed and not listed:
            raise self._missing(record_id)

    def _missing(self, record_id: str) -> ProblemError:
        return ProblemError("not-found", f"You have no {self._what} {record_id[:100]!r}.")

    def _check(self, record_id: str) -> None:
        if not _ID.fullmatch(record_id):
            raise self._missing(record_id)

    async def _place(self, index: str, score: int, record_id: str) -> int:
        """How many entries of the index come up to and with the cursor's."""
        rank = cast(int | None, await self._redis.zrevrank(index, record_id))
        if rank is not None:
            return rank + 1
        # It was deleted. Of its millisecond, those with greater ids came before it.
        same = cast(list[str], await self._redis.zrangebyscore(index, score, score))
        later = int(await self._redis.zcount(index, f"({score}", "+inf"))
        return later + sum(other > record_id for other in same)
