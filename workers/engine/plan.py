"""The words of the scheduler: tasks, limits, and the decisions it may take."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

Lane = Literal["quick", "interactive", "batch"]
LANES: tuple[Lane, ...] = ("quick", "interactive", "batch")
"""In the order of their precedence."""


@dataclass(frozen=True)
class SliceLimits:
    """Settings of the scheduler: bytes of each lane's pool, seconds, and rows of one batch."""

    memory: dict[Lane, int]
    slice_s: float = 0.25
    window_s: float = 0.002
    share_s: float = 5.0
    batch_rows: int = 32


@dataclass
class Task:
    """One job as the scheduler sees it.

    Args:
        key: tasks with equal keys may be computed together.
        rows: images or pictures in it.
        bytes: working memory it needs.
        deadline: when it expires; None never.
        alone: shares a batch with nobody.
        caller: whose share of the device it takes.
        seen_behind: slices of lanes behind its own that it has seen.
    """

    id: str
    lane: Lane
    key: Hashable
    iterative: bool = False
    rows: int = 1
    bytes: int = 0
    deadline: float | None = None
    alone: bool = False
    caller: str = ""
    arrived: float = 0.0
    seen_behind: int = field(default=0, compare=False)


@dataclass(frozen=True)
class RunBatch:
    """A slice of a one-shot batch; `first` starts it."""

    unit: int
    tasks: tuple[str, ...]
    first: bool


@dataclass(frozen=True)
class StartTask:
    """Make (or load) the states of an iterative task; one slice."""

    unit: int
    task: str


@dataclass(frozen=True)
class StepTile:
    """Advance these states, (task, index of the state), by one step; `tile` is the row count the group steps in."""

    unit: int
    states: tuple[tuple[str, int], ...]
    tile: int


@dataclass(frozen=True)
class FinishTask:
    """Make the result of an iterative task whose states are done; one slice."""

    unit: int
    task: str


@dataclass(frozen=True)
class Idle:
    """Nothing to compute for `seconds`, or until something arrives (None)."""

    seconds: float | None


Work = RunBatch | StartTask | StepTile | FinishTask
Decision = Work | Idle
