"""What the engine does next: pure decisions about tasks, batches, groups, turns and memory.

The loop asks `next(now)`, does what it is told and reports with `ran(...)`. Times are seconds of one monotonic clock.

Quick work goes first, then interactive work (see `turns`): a task sees at most two slices of lanes behind its own
while it is here. Within a lane, callers share the device's time evenly; of one caller, units (a one-shot batch, an
iterative group) take turns by the device time that each of their tasks has had; within a group, tasks take turns
whatever their number of states.

Memory is one pool a lane, so that a minutes-long batch job never keeps an interactive request from being admitted.
A task larger than its pool runs when nothing else is in the pool.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from convscope.recent import Recent
from workers.engine.plan import (
    LANES,
    Decision,
    FinishTask,
    Idle,
    Lane,
    RunBatch,
    SliceLimits,
    StartTask,
    StepTile,
    Task,
    Work,
)
from workers.engine.turns import LaneTurns

COMPANY_S = 1.0
"""So long after two one-shot tasks of a lane were here at once, a task waits for mates before it starts."""
KEYS_KEPT = 4096


@dataclass
class _Member:
    """A task inside an iterative group. `steps` holds the steps taken by each unfinished state."""

    task: Task
    service: float
    stage: Literal["new", "stepping", "finishing"] = "new"
    steps: dict[int, int] = field(default_factory=dict)


@dataclass
class _Unit:
    number: int
    lane: Lane
    key: Hashable
    had_s: float
    tasks: dict[str, Task] = field(default_factory=dict)
    begun: bool = False
    members: dict[str, _Member] | None = None

    @property
    def bytes(self) -> int:
        return sum(task.bytes for task in self.tasks.values())


class Scheduler:
    """Decides what the engine does next. Not thread-safe; one loop owns it."""

    def __init__(self, limits: SliceLimits) -> None:
        self._limits = limits
        self._waiting: dict[Lane, list[Task]] = {lane: [] for lane in LANES}
        self._passed: dict[Lane, set[str]] = {lane: set() for lane in LANES}
        self._units: dict[int, _Unit] = {}
        self._unit_of: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._row_seconds: Recent[Hashable, float] = Recent(KEYS_KEPT)
        self._rows_cap: Recent[Hashable, int] = Recent(KEYS_KEPT)
        self._tiles: Recent[Hashable, int] = Recent(KEYS_KEPT)
        self._turns = LaneTurns(limits.share_s)
        self._lane_before: Lane = "batch"
        self._company_until = -math.inf

    # What comes and goes.

    def add(self, task: Task, now: float) -> None:
        """A new task, ready to be computed."""
        if task.id in self:
            raise ValueError(f"{task.id} is here already")
        task.arrived = now
        if any(other.lane == task.lane and not other.iterative for other in self._tasks()):
            self._company_until = now + COMPANY_S
        self._turns.arrives(task)
        self._waiting[task.lane].append(task)

    def remove(self, task_id: str) -> int | None:
        """Forget a task: cancelled, expired, failed or finished. Unknown ids are nothing.

        Returns:
            The number of the one-shot batch that has nobody left and should be closed, if that is so.
        """
        for waiting in self._waiting.values():
            waiting[:] = [task for task in waiting if task.id != task_id]
        number = self._unit_of.pop(task_id, None)
        if number is None:
            return None
        unit = self._units[number]
        del unit.tasks[task_id]
        if unit.members is not None:
            del unit.members[task_id]
        if unit.tasks:
            return None
        del self._units[number]
        return number if unit.members is None and unit.begun else None

    def expired(self, now: float) -> list[str]:
        """The tasks whose deadline has passed; they stay until removed."""
        return [task.id for task in self._tasks() if task.deadline is not None and task.deadline <= now]

    def requeue(self, unit: int, rows: int, *, out_of_memory: bool) -> None:
        """Give up a batch and do its tasks again, at most `rows` rows together; with rows=1 each alone.

        After `out_of_memory` the pool admits no more than `rows` rows of this kind at a time.
        """
        gone = self._units.pop(unit)
        for task in reversed(gone.tasks.values()):
            del self._unit_of[task.id]
            task.alone = task.alone or rows <= 1
            if out_of_memory:
                share = self._limits.memory[gone.lane] * task.rows // max(rows, 1)
                task.bytes = max(task.bytes, min(share, self._limits.memory[gone.lane]))
            self._waiting[gone.lane].insert(0, task)
        if out_of_memory:
            self._rows_cap.put(gone.key, max(rows, 1))

    def started(self, task_id: str, states: int) -> None:
        """An iterative task has its states, numbered from 0."""
        member = self._member(task_id)
        member.steps = dict.fromkeys(range(states), 0)
        member.stage = "stepping" if states else "finishing"

    def state_done(self, task_id: str, index: int) -> None:
        """That state needs no further step; after the last one the task is finished with FinishTask."""
        member = self._member(task_id)
        member.steps.pop(index, None)
        if not member.steps:
            member.stage = "finishing"

    def set_tile(self, key: Hashable, rows: int) -> None:
        """How many states of a group are stepped together."""
        self._tiles.put(key, max(rows, 1))

    def tile(self, key: Hashable) -> int:
        """How many states of a group are stepped together; 1 until set."""
        return self._tiles.get(key) or 1

    # What to do.

    def next(self, now: float) -> Decision:
        """The next slice. Report it with `ran` before asking again."""
        windows = self._admit(now)
        lane = self._turns.choose({unit.lane for unit in self._units.values()}, windows, self._by_lane(), now)
        if lane is None:
            return Idle(min(windows.values(), default=None))
        turn = [unit for unit in self._units.values() if unit.lane == lane]
        return self._slice_of(min(turn, key=lambda unit: (unit.had_s, unit.number)))

    def ran(self, work: Work, seconds: float, now: float) -> None:
        """The slice has been computed and took so long. Said before anything else about its tasks."""
        unit = self._units.get(work.unit)
        if unit is not None:
            unit.had_s += seconds / sum(1 / self._beside(task, unit.lane) for task in unit.tasks.values())
            if isinstance(work, RunBatch):
                unit.begun = True
                rows = max(1, sum(task.rows for task in unit.tasks.values()))
                before = self._row_seconds.get(unit.key) or 0.0
                self._row_seconds.put(unit.key, max(seconds / rows, 0.7 * before))
        busy = {unit.lane for unit in self._units.values()}
        self._turns.had(self._lane_before, self._by_lane(), busy, now)

    def finished(self, unit: int) -> None:
        """A one-shot batch has given its results; its tasks are gone."""
        gone = self._units.pop(unit, None)
        for task_id in gone.tasks if gone else ():
            del self._unit_of[task_id]

    # What one may ask.

    def __contains__(self, task_id: object) -> bool:
        return any(task.id == task_id for task in self._tasks())

    def __len__(self) -> int:
        return sum(1 for _ in self._tasks())

    def used(self, lane: Lane) -> int:
        """Bytes admitted in a lane's pool."""
        return sum(unit.bytes for unit in self._units.values() if unit.lane == lane)

    def tasks_of(self, unit: int) -> tuple[str, ...]:
        """Ids of the tasks in a unit, in order; empty when it is gone."""
        found = self._units.get(unit)
        return tuple(found.tasks) if found else ()

    # Admission.

    def _admit(self, now: float) -> dict[Lane, float]:
        """Move waiting tasks into units while memory allows; lane → seconds until an open window for mates closes."""
        windows: dict[Lane, float] = {}
        for lane in LANES:
            while self._waiting[lane]:
                head = self._waiting[lane][0]
                if not self._fits(head):
                    self._let_pass(lane)
                    break
                if head.iterative:
                    self._waiting[lane].pop(0)
                    self._join(head)
                    continue
                mates = self._mates(head)
                left = head.arrived + self._limits.window_s - now
                # Who comes alone again and again would wait for nobody.
                waits = left > 0 and now < self._company_until and not head.alone
                if waits and sum(task.rows for task in mates) < self._rows_limit(head.key):
                    if lane != "batch" or not self._units:
                        windows[lane] = left
                    break
                self._start_batch(mates)
        return windows

    def _let_pass(self, lane: Lane) -> None:
        """Admit what waits behind a head without room and will not keep it waiting: what has passed leaves it room.

        The head may wait for hours, behind another job that is as large as itself.
        """
        head, *others = self._waiting[lane]
        if head.alone:
            return
        units = [unit for unit in self._units.values() if unit.lane == lane]
        here = {task.id: task.bytes for unit in units for task in unit.tasks.values()}
        self._passed[lane] &= here.keys()
        room = self._limits.memory[lane] - head.bytes - sum(here[passed] for passed in self._passed[lane])
        for task in others:
            if task.alone or task.bytes > room or not self._fits(task):
                continue
            room -= task.bytes
            self._passed[lane].add(task.id)
            if task.iterative:
                self._waiting[lane].remove(task)
                self._join(task)
            else:
                self._start_batch([task])

    def _fits(self, task: Task) -> bool:
        empty = all(unit.lane != task.lane for unit in self._units.values())
        return empty or self.used(task.lane) + task.bytes <= self._limits.memory[task.lane]

    def _mates(self, head: Task) -> list[Task]:
        """The head of the lane and those behind it that may share its batch, oldest first."""
        mates, rows, left = [head], head.rows, self._limits.memory[head.lane] - self.used(head.lane) - head.bytes
        if head.alone:
            return mates
        limit = self._rows_limit(head.key)
        for task in self._waiting[head.lane][1:]:
            if task.key != head.key or task.iterative or task.alone:
                continue
            if rows + task.rows > limit or task.bytes > left:
                break
            mates.append(task)
            rows += task.rows
            left -= task.bytes
        return mates

    def _rows_limit(self, key: Hashable) -> int:
        """Rows of one batch: by setting, by what memory has shown, and so that a slice takes about `slice_s`."""
        by_time = self._limits.batch_rows
        seconds = self._row_seconds.get(key) or 0.0
        if seconds > 0:
            by_time = max(1, int(self._limits.slice_s / seconds))
        return min(self._limits.batch_rows, by_time, self._rows_cap.get(key) or self._limits.batch_rows)

    def _start_batch(self, tasks: list[Task]) -> None:
        unit = self._new_unit(tasks[0])
        chosen = {task.id for task in tasks}
        waiting = self._waiting[unit.lane]
        waiting[:] = [task for task in waiting if task.id not in chosen]
        for task in tasks:
            self._put(task, unit)

    def _join(self, task: Task) -> None:
        groups = (unit for unit in self._units.values() if unit.members is not None and unit.lane == task.lane)
        for unit in () if task.alone else groups:
            if unit.key == task.key and not any(other.alone for other in unit.tasks.values()):
                break
        else:
            unit = self._new_unit(task)
            unit.members = {}
        assert unit.members is not None
        service = min((member.service for member in unit.members.values()), default=0.0)
        unit.members[task.id] = _Member(task, service)
        self._put(task, unit)

    def _new_unit(self, task: Task) -> _Unit:
        """A unit that starts level with the one that has had least, so that it neither waits nor catches up."""
        had = min((unit.had_s for unit in self._units.values() if unit.lane == task.lane), default=0.0)
        unit = _Unit(next(self._numbers), task.lane, task.key, had)
        self._units[unit.number] = unit
        return unit

    def _put(self, task: Task, unit: _Unit) -> None:
        unit.tasks[task.id] = task
        self._unit_of[task.id] = unit.number

    # LaneTurns.

    def _beside(self, task: Task, lane: Lane) -> int:
        """How many admitted tasks of a lane share its caller's part of the device's time with this one, itself too."""
        units = (unit for unit in self._units.values() if unit.lane == lane)
        return max(1, sum(other.caller == task.caller for unit in units for other in unit.tasks.values()))

    def _slice_of(self, unit: _Unit) -> Work:
        self._lane_before = unit.lane
        if unit.members is None:
            return RunBatch(unit.number, tuple(unit.tasks), first=not unit.begun)
        least = min(unit.members.values(), key=lambda member: member.service)
        if least.stage != "stepping":
            least.service += self._beside(least.task, unit.lane)
            kind = StartTask if least.stage == "new" else FinishTask
            return kind(unit.number, least.task.id)
        return StepTile(unit.number, tuple(self._fill_tile(unit)), self.tile(unit.key))

    def _fill_tile(self, unit: _Unit) -> Iterable[tuple[str, int]]:
        """States for one tile: from the task that has had least, its state with the fewest steps, and again."""
        assert unit.members is not None
        chosen: list[tuple[str, int]] = []
        stepping = [member for member in unit.members.values() if member.stage == "stepping"]
        beside = {member.task.id: self._beside(member.task, unit.lane) for member in stepping}
        left = {member.task.id: sorted(member.steps, key=member.steps.__getitem__) for member in stepping}
        for _ in range(self.tile(unit.key)):
            able = [member for member in stepping if left[member.task.id]]
            if not able:
                break
            member = min(able, key=lambda member: member.service)
            index = left[member.task.id].pop(0)
            member.service += beside[member.task.id]
            member.steps[index] += 1
            chosen.append((member.task.id, index))
        return chosen

    # Small things.

    def _member(self, task_id: str) -> _Member:
        members = self._units[self._unit_of[task_id]].members
        assert members is not None
        return members[task_id]

    def _tasks(self) -> Iterable[Task]:
        for waiting in self._waiting.values():
            yield from waiting
        for unit in self._units.values():
            yield from unit.tasks.values()

    def _by_lane(self) -> dict[Lane, list[Task]]:
        found: dict[Lane, list[Task]] = {lane: [] for lane in LANES}
        for task in self._tasks():
            found[task.lane].append(task)
        return found
