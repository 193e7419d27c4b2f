"""Whether the service lives and can work, its figures for Prometheus, and its pages for people."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel, Field

from convscope.protocol.problems import ProblemError
from service.answers.views import workers_online
from service.context import Context
from service.dependencies import ContextDependency
from service.http.problems import documented

router = APIRouter(tags=["health"])

PROBE_S = 2.0


class Alive(BaseModel):
    """The process answers."""

    status: str = "ok"


class Ready(BaseModel):
    """The service can take work."""

    status: str = "ok"
    redis: str = "ok"
    store: str = "ok"
    workers: int = Field(
        description="Live workers. Without one, work waits; the service is ready all the same once one was there."
    )


@router.get("/livez", operation_id="live")
async def live() -> Alive:
    """Whether the process answers; asks nobody else."""
    return Alive()


@router.get("/readyz", operation_id="ready", responses=documented("queue-unavailable", "store-unavailable"))
async def ready(context: ContextDependency) -> Ready:
    """Whether the queue and the artifact store can be written and the catalogue be listed; how many workers live."""
    online, _ = await asyncio.gather(_probe_queue(context), context.artifacts.check_writable())
    if not await context.cards.summaries():
        raise ProblemError("queue-unavailable", "No worker has published the catalogue yet.", retry_after_s=2)
    return Ready(workers=online)


async def _probe_queue(context: Context) -> int:
    try:
        async with asyncio.timeout(PROBE_S):
            await context.jobs.check_writable()
            return await workers_online(context)
    except TimeoutError as error:
        raise ProblemError(
            "queue-unavailable", f"The queue did not answer within {PROBE_S:g} s.", retry_after_s=2
        ) from error
