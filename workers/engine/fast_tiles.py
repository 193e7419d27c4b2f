"""How many states a `fast` group steps together: so many that a row costs least, learned from the steps themselves.

More rows to a step are quicker on a device that is not full, and slower on one whose caches they leave: a network of
depthwise convolutions on a CPU takes half as long again for each of eight rows as for a single one.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from convscope.recent import Recent

MOST_ROWS = 64
GROUPS_KEPT = 1024
FORGET_AFTER = 500
"""After so many steps other sizes are tried again: what they cost depended on what else the machine did."""

OUTLIER = 2.0
"""A step counts at most for so many times what such steps took: one that stood still, or in which a graph was made
(`workers.passes.replay`), says little about the next."""


@dataclass
class _Group:
    tile: int
    most: int = MOST_ROWS
    steps: int = 0
    costs: dict[int, float | None] = field(default_factory=dict)
    """Seconds a row by rows of a step; None after the first such step, which only warmed up."""


class FastTiles:
    """What has been learned of each group.

    Args:
        slice_s: how long one step should take at most, seconds.
        first: rows of a group of which nothing is known.
    """

    def __init__(self, slice_s: float, first: int) -> None:
        self._slice_s = slice_s
        self._first = first
        self._groups: Recent[Hashable, _Group] = Recent(GROUPS_KEPT)

    def rows(self, key: Hashable) -> int:
        """Rows of the next step."""
        return self._group(key).tile

    def limit(self, key: Hashable, rows: int) -> None:
        """Memory allows no more rows."""
        group = self._group(key)
        group.most = max(1, rows)
        group.tile = min(group.tile, group.most)

    def learn(self, key: Hashable, rows: int, seconds: float) -> int:
        """A step of so many rows took so long; the rows of the next one.

        Twice the rows are tried as long as a row has cost least in the largest step so far.
        """
        group = self._group(key)
        group.steps += 1
        if group.steps % FORGET_AFTER == 0:
            group.costs = {rows: group.costs.get(rows)}
        if rows not in group.costs:
            group.costs[rows] = None
            return group.tile
        before = group.costs[rows]
        cost = seconds / rows
        group.costs[rows] = 0.8 * before + 0.2 * min(cost, OUTLIER * before) if before else cost
        known = {size: cost for size, cost in group.costs.items() if cost is not None}
        best = min(known, key=lambda size: (known[size], size))
        wanted = 2 * best if best == max(known) else best
        fitting = int(self._slice_s / known[best]) if known[best] > 0 else MOST_ROWS
        group.tile = max(1, min(wanted, fitting, group.most))
        return group.tile

    def _group(self, key: Hashable) -> _Group:
        group = self._groups.get(key)
        if group is None:
            group = _Group(self._first)
            self._groups.put(key, group)
        return group
