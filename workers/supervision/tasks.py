"""Ends tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import structlog

log = structlog.get_logger(__name__)

AGAIN_S = 0.2


async def end_tasks(tasks: Collection[asyncio.Task[None]], *, patience_s: float = 5.0) -> None:
    """Cancel tasks and wait until they have ended, cancelling again those that a library woke from the first time.

    Their outcomes are not looked at. What has not ended after `patience_s` is named in the log and left.
    """
    until = asyncio.get_running_loop().time() + patience_s
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
        if left:
            log.warning("task_lingers", tasks=sorted(task.get_name() for task in left), where=[_where(t) for t in left])
        if asyncio.get_running_loop().time() > until:
            return


def _where(task: asyncio.Task[None]) -> str:
    frames = task.get_stack(limit=1)
    return f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "?"
