"""What the tests of faults look at: checkpoints, ends, counters, bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from convscope.queue.keys import key
from tests.workers.harness import Client, until

CHECKPOINTS = {"checkpoint_s": 0.2}
"""An engine that keeps a checkpoint every fifth of a second."""


async def checkpointed(client: Client, job_id: str, beyond: int = 0) -> None:
    """Wait for a checkpoint beyond a step."""

    async def look() -> bool:
        return await client.checkpoint_step(job_id) > beyond

    await until(look)


async def moving(client: Client, job_id: str) -> None:
    """Wait until a job has told of progress."""

    async def look() -> bool:
        return (await client.get(job_id)).progress.done > 0

    await until(look)


async def ends(client: Client, job_id: str) -> int:
    """How many terminal transitions a job has told of."""
    return [name for name, _ in await client.events(job_id)].count("done")


async def counter(client: Client, name: str) -> int:
    """One of the queue's totals."""
    return int(await client.redis.hget(key("counters"), name) or 0)


async def told_by_workers(client: Client, name: str) -> float:
    """A total that the workers tell of with their heartbeats, all together."""
    return sum(info.metrics.get(name, 0) for info in await client.jobs.workers())


async def undisturbed(client: Client, **how: Any) -> Any:
    """The values of the same `climb` without any fault, and quickly."""
    manifest = await client.manifest(await client.submit("climb", **{**how, "step_s": 0.0}))
    return await client.array(manifest, "values")


async def equals_undisturbed(client: Client, job_id: str, **how: Any) -> bool:
    """Whether a `climb` came to the same bits as one without any fault."""
    values = await client.array(await client.manifest(job_id), "values")
    return bool(np.array_equal(values, await undisturbed(client, **how)))
