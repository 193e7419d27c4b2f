"""Holding a request until its job changes, its client leaves, or the service stops.

The race is run on the ASGI `receive` itself: `request.is_disconnected()` cannot be awaited, and polling it loses time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from convscope.queue.jobs import Job
from service.call import Call
from service.http.streaming import disconnected

T = TypeVar("T")

LOOK_AGAIN_S = 5.0
"""A change that the feed lost is seen at the latest after so long."""


async def wait_for_end(call: Call, job: Job, timeout_s: float) -> Job:
    """As `wait_until`, for a job that is finished; what happens to it before wakes nobody."""
    return await wait_until(call, job, lambda each: each.finished, timeout_s, end_only=True)


async def wait_until(
    call: Call,
    job: Job,
    done: Callable[[Job], bool],
    timeout_s: float,
    *,
    end_only: bool = False,
) -> Job:
    """The job once it is `done`, or as it is when the time is over or the service stops.

    The request's body must have been read. With `end_only` nothing but the job's end makes it `done`.

    Raises:
        ClientDisconnect: nobody waits any more.
        ProblemError: `not-found`, where the job's lifetime ended meanwhile.
    """
    if done(job) or timeout_s <= 0:
        return job
    context = call.context
    deadline = time.monotonic() + timeout_s
    gone = asyncio.create_task(disconnected(call.request.receive))
    stopping = asyncio.create_task(context.stopping.wait())
    try:
        with context.changes.watch(job.id, end_only=end_only) as watch, context.metrics.waiting.track_inprogress():
            # Read after watching began: a change in between would otherwise be nobody's.
            job = await context.jobs.get(job.id, call.caller)
            while not done(job) and not context.stopping.is_set() and (left := deadline - time.monotonic()) > 0:
                changed = asyncio.create_task(watch.changed(min(left, LOOK_AGAIN_S)))
                try:
                    await asyncio.wait({changed, gone, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await _end(changed)
                if gone.done():
                    raise ClientDisconnect
                job = await context.jobs.get(job.id, call.caller)
            return job
    finally:
        await _end(gone)
        await _end(stopping)


async def while_connected(call: Call, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, which is cancelled when the client leaves. The request's body must have been read, or be none.

    Raises:
        ClientDisconnect: nobody waits any more.
    """
    working = asyncio.create_task(work)
    gone = asyncio.create_task(disconnected(call.request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await _end(gone)
        working.cancel()
        await asyncio.wait({working})


async def _end(task: asyncio.Task[object]) -> None:
    """Cancel a task that may still run and see it finished; an error of its own is raised."""
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        if (current := asyncio.current_task()) is not None and current.cancelling():
            raise
