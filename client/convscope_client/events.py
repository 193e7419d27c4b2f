"""What the service tells of a job while it runs. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FINISHED = frozenset({"succeeded", "failed", "cancelled", "expired"})
"""States that a job does not leave."""


@dataclass(frozen=True)
class Standing:
    """Where a job stands: its state, how much of how much is done, and a word about what it does now."""

    state: str
    done: float = 0.0
    total: float = 0.0
    message: str = ""

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> Standing:
        """Where a job stands by its JSON."""
        told = job.get("progress") or {}
        state, message = str(job.get("state") or "queued"), str(told.get("message") or "")
        if state == "queued" and job.get("workers_online") == 0:
            message = "queued; no worker is running"
        return cls(state, float(told.get("done") or 0), float(told.get("total") or 0), message)


@dataclass(frozen=True)
class Event:
    """One event of a job.

    Args:
        name: `state`, `progress`, `preview` (whose data has the `href` of a PNG), `reset` (events were lost; the data
            is the job as it is now) or `done`, the last one.
        id: what to give `follow_job` as `after` to go on behind this event; empty where the event has none.
        data: what the service says.
        progress: where the job stands after this event.
    """

    name: str
    id: str
    data: Mapping[str, Any]
    progress: Standing


def event_of(name: str, event_id: str, data: object, before: Standing) -> Event:
    """An event from its parts.

    Args:
        before: where the job stood before it.
    """
    told: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    state = str(told.get("state") or before.state)
    if name == "reset":
        after = Standing.of(told)
    elif name == "progress":
        moved = told.get("progress", told)
        after = Standing.of({"state": state, "progress": moved if isinstance(moved, Mapping) else {}})
    elif state != before.state or told.get("cancelling"):
        after = Standing(state, before.done, before.total, "cancelling" if told.get("cancelling") else "")
    else:
        after = before
    return Event(name, event_id, told, after)
