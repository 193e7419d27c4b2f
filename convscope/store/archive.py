"""The records of finished jobs in the artifact store: the queue's memory is for what is under way.

A record is archived some time after its job's end, with many others in one artifact. What stays in the queue says whose
the job is, how it ended, and which artifact has the rest.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Mapping

from redis.asyncio import Redis

from convscope.protocol.problems import ProblemError
from convscope.queue.connection import guarded
from convscope.queue.jobs import Jobs
from convscope.queue.keys import key, long_key, short_key
from convscope.recent import Recent
from convscope.store.artifacts import Artifacts

AFTER_S = 60.0
"""Records stay whole for so long after the end: most are asked for at once, or never."""
AFTER_PRESSED_S = 1.0
"""The same while the queue's memory is used by more than PRESSED."""
PRESSED = 0.25
AT_ONCE = 256
RECENT_BYTES = 16 * 1024**2
"""Of the archive's artifacts read last, kept in memory: listings ask for many records of each."""


class Archive:
    """Moves records into the artifact store and finds them there.

    Args:
        artifacts: the store.
    """

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._recent: Recent[str, Mapping[str, Mapping[str, str]]] = Recent(RECENT_BYTES)
        self._reading = asyncio.Lock()

    async def read(self, ref: str, job_id: str) -> Mapping[str, str]:
        """The record of an archived job.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        records = self._recent.get(ref)
        if records is None:
            async with self._reading:  # many of one listing ask for the same
                records = self._recent.get(ref)
                if records is None:
                    data = await self._artifacts.get(long_key("records", ref))
                    text = await asyncio.to_thread(zlib.decompress, data)
                    records = json.loads(text)
                    assert records is not None
                    self._recent.put(ref, records, len(text))
        if job_id not in records:
            raise ProblemError("gone", "The record of this job is not in the archive.")
        return records[job_id]

    async def move(self, redis: Redis, jobs: Jobs) -> int:
        """Archive records that are due, some hundreds at most; how many.

        Several workers may do so at once: a record archived twice is one.

        Raises:
            ProblemError: `store-unavailable`, `queue-unavailable`.
        """
        due = await self._due(redis)
        if not due:
            return 0
        async with guarded():
            pipe = redis.pipeline(transaction=False)
            for job_id in due:
                pipe.hgetall(key("job", job_id))
            found = await pipe.execute()
        whole = {job_id: held for job_id, held in zip(due, found, strict=True) if held}
        ref = ""
        if whole:
            packed = await asyncio.to_thread(_packed, whole)
            ref = short_key(await self._artifacts.put("records", packed))
        await jobs.archived(due, ref)
        return len(whole)

    async def _due(self, redis: Redis) -> list[str]:
        async with guarded():
            pipe = redis.pipeline(transaction=False)
            pipe.time()
            pipe.info("memory")
            pipe.zrange(key("finished"), 0, 0)
            clock, memory, first = await pipe.execute()
            if not first:
                return []
            limit = int(memory.get("maxmemory", 0))
            pressed = limit > 0 and int(memory["used_memory"]) > PRESSED * limit
            until = 1000 * (int(clock[0]) - (AFTER_PRESSED_S if pressed else AFTER_S))
            return [str(one) for one in await redis.zrangebyscore(key("finished"), "-inf", until, start=0, num=AT_ONCE)]


def _packed(records: Mapping[str, Mapping[str, str]]) -> bytes:
    return zlib.compress(json.dumps(records, separators=(",", ":")).encode())
