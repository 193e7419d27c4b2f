"""Copies a whole queue from one server to another by commands that every Redis since 7.0 and every Valkey knows.

Files and replication do not cross between all servers: a newer one writes what an older one cannot read. Commands do.
Nobody may use either queue meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from convscope.queue.connection import guarded
from convscope.queue.keys import PREFIX

AT_ONCE = 500
"""Elements of a value, or keys of a round, that one command reads."""
LIMIT_S = 60.0
"""Longest that one value may take, seconds."""

_Texts = Any
"""A client whose replies are text, as all of ours; redis-py's types say that they may be bytes."""


class QueueThereError(Exception):
    """The target has a queue already."""


async def copy_queue(source: Redis, target: Redis, *, replace: bool = False) -> int:
    """Copy every key of ours with its lifetime.

    Args:
        source: the server that has the queue.
        target: the server that is to have it, which may hold other things, but no queue.
        replace: remove a queue that the target has.

    Returns:
        How many keys were copied.

    Raises:
        QueueThereError: the target has one already.
        ProblemError: `queue-unavailable`, `queue-full`.
    """
    async for names in _names(target):
        if not replace:
            raise QueueThereError("the server that is to get the queue has one already; nothing was copied")
        async with guarded():
            await target.unlink(*names)
    copied = 0
    async for names in _names(source):
        for name in names:  # one may come twice, and is written anew then
            async with guarded(LIMIT_S):
                copied += await _copy_key(source, target, name)
    return copied


async def _names(redis: _Texts) -> AsyncIterator[list[str]]:
    """The names of our keys, some at a time."""
    cursor = 0
    while True:
        async with guarded():
            cursor, names = await redis.scan(cursor, match=f"{PREFIX}*", count=AT_ONCE)
        if names:
            yield names
        if cursor == 0:
            return


async def _copy_key(source: _Texts, target: Redis, name: str) -> bool:
    """Copy one key; whether it was still there, and new to the target."""
    async with source.pipeline(transaction=True) as asked:
        kind, expires_ms = await asked.type(name).pexpiretime(name).execute()
    if kind == "none":
        return False
    async with target.pipeline(transaction=True) as written:
        written.delete(name)
        await _KINDS[kind](source, name, written)
        if expires_ms >= 0:
            written.pexpireat(name, expires_ms)
        replaced, *_ = await written.execute()
    return not replaced


async def _string(source: _Texts, name: str, written: Pipeline) -> None:
    value = await source.get(name)
    if value is not None:
        written.set(name, value)


async def _hash(source: _Texts, name: str, written: Pipeline) -> None:
    cursor = 0
    while True:
        cursor, fields = await source.hscan(name, cursor, count=AT_ONCE)
        if fields:
            written.hset(name, mapping=fields)
        if cursor == 0:
            return


async def _set(source: _Texts, name: str, written: Pipeline) -> None:
    cursor = 0
    while True:
        cursor, members = await source.sscan(name, cursor, count=AT_ONCE)
        if members:
            written.sadd(name, *members)
        if cursor == 0:
            return


async def _sorted_set(source: _Texts, name: str, written: Pipeline) -> None:
    cursor = 0
    while True:
        cursor, scored = await source.zscan(name, cursor, count=AT_ONCE)
        if scored:
            written.zadd(name, dict(scored))
        if cursor == 0:
            return


async def _stream(source: _Texts, name: str, written: Pipeline) -> None:
    """Entries keep their ids, and the stream the last id that it gave, also where that entry is gone."""
    facts = await source.xinfo_stream(name)
    after = "-"
    while entries := await source.xrange(name, after, count=AT_ONCE):
        for entry, fields in entries:
            written.xadd(name, fields, id=entry)
        after = f"({entries[-1][0]}"
    if not facts["length"]:
        written.xgroup_create(name, "copied", mkstream=True)
        written.xgroup_destroy(name, "copied")
    written.execute_command(
        "XSETID", name, facts["last-generated-id"],
        "ENTRIESADDED", facts["entries-added"], "MAXDELETEDID", facts["max-deleted-entry-id"],
    )  # fmt: skip


_KINDS: dict[str, Callable[[_Texts, str, Pipeline], Awaitable[None]]] = {
    "string": _string,
    "hash": _hash,
    "set": _set,
    "zset": _sorted_set,
    "stream": _stream,
}
