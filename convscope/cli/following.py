"""A job that a command waits for: a live bar, and an end for one that is interrupted."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from convscope.queue.jobs import JobState
from convscope_client import ConvscopeError, Job


def follow(job: Job[Any], screen: Console) -> None:
    """Show a live bar until the job is finished."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=screen, transient=True) as bars:
        bar = bars.add_task(job.operation, total=None)
        bars.update(bar, description=job.progress.message or job.state)
        for event in () if job.finished else job.events():
            now = event.progress
            total = now.total if now.total > 0 and now.state != JobState.QUEUED else None
            bars.update(bar, description=now.message or now.state, completed=now.done, total=total)


def cancel(job: Job[Any] | None, screen: Console) -> None:
    """Cancel the job that an interrupted command has submitted, so that nobody computes it for no one."""
    if job is None or job.finished:
        return
    try:
        job.cancel()
        screen.print(f"cancelled job {job.id}", highlight=False)
    except ConvscopeError as error:
        screen.print(f"job {job.id} was not cancelled: {error}", markup=False, highlight=False)
