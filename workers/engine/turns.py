"""Whose turn it is between lanes: work of a lane goes before all behind it, which yet never starves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from workers.engine.plan import LANES, Lane, Task

PATIENCE = 2
"""Slices of lanes behind its own that a task may see while it is here."""
STREAK = 4
"""Slices of a lane in a row before those behind it may have one."""


class _Precedence:
    """One lane and all behind it.

    What is behind gets a slice whenever no task of the lane would see a third, after a few of the lane's own, and in
    any case after `share_s` without one.
    """

    def __init__(self, share_s: float) -> None:
        self._share_s = share_s
        self._streak = 0
        self._starved_since: float | None = None

    def waits(self, now: float) -> None:
        """There is work behind, and work of the lane goes first."""
        if self._starved_since is None:
            self._starved_since = now

    def yields(self, tasks: Iterable[Task], now: float) -> bool:
        """Whether what is behind may have the next slice; `tasks` are those of the lane."""
        if self._starved_since is not None and now - self._starved_since >= self._share_s:
            return True
        return self._streak >= STREAK and all(task.seen_behind < PATIENCE for task in tasks)

    def went_first(self) -> None:
        """The lane has had a slice."""
        self._streak += 1

    def let_pass(self, still_here: bool, now: float) -> None:
        """What is behind has had a slice; `still_here`: the lane has work that may go first again."""
        self._streak = 0
        self._starved_since = now if still_here else None


class LaneTurns:
    """The precedence of all lanes.

    Args:
        share_s: longest time that work of a lane is kept waiting by those before it, seconds.
    """

    def __init__(self, share_s: float) -> None:
        self._precedences = {lane: _Precedence(share_s) for lane in LANES[:-1]}
        self._last: Lane | None = None

    def arrives(self, task: Task) -> None:
        """A task begins to see slices: the last one may still have been on its way when it came."""
        task.seen_behind = int(self._last is not None and LANES.index(self._last) > LANES.index(task.lane))

    def choose(
        self, ready: Collection[Lane], expecting: Collection[Lane], tasks: Mapping[Lane, Collection[Task]], now: float
    ) -> Lane | None:
        """The lane of the next slice; None where the engine should wait for a moment, or has nothing to do.

        Args:
            ready: lanes with work.
            expecting: lanes with work that waits a moment for mates.
            tasks: all tasks of each lane.
            now: seconds.
        """
        for place, lane in enumerate(LANES):
            behind = any(other in ready for other in LANES[place + 1 :])
            if lane not in ready and lane not in expecting:
                continue
            if behind:
                self._precedences[lane].waits(now)
                if self._precedences[lane].yields(tasks[lane], now):
                    continue
            return lane if lane in ready else None
        return None

    def had(self, lane: Lane, tasks: Mapping[Lane, Collection[Task]], busy: Collection[Lane], now: float) -> None:
        """A slice of that lane has been computed; `busy` are the lanes with admitted work."""
        self._last = lane
        if lane in self._precedences:
            self._precedences[lane].went_first()
        for before in LANES[: LANES.index(lane)]:
            for task in tasks[before]:
                task.seen_behind += 1
            self._precedences[before].let_pass(before in busy, now)
