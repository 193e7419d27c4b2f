"""What was used last, kept in memory within a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A store of what was used last; bounded by the sum of sizes.

    Args:
        limit: of the sum.
        size_of: of an item, where it may change while the item is kept; else `put` tells it once.
    """

    def __init__(self, limit: int, size_of: Callable[[V], int] | None = None) -> None:
        self._limit = limit
        self._size_of = size_of
        self._told = 0
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The item, which becomes the last used."""
        found = self._items.get(key)
        if found is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def keys(self) -> list[K]:
        """Of all items, the least recently used first."""
        return list(self._items)

    def values(self) -> list[V]:
        """All items, the least recently used first."""
        return [item for item, _ in list(self._items.values())]

    def pop(self, key: K) -> V | None:
        """Take the item out."""
        found = self._items.pop(key, None)
        if found is None:
            return None
        self._told -= found[1]
        return found[0]

    def put(self, key: K, item: V, size: int = 1) -> bool:
        """Keep an item, if it is told to be no larger than the whole store; the least recently used make room.

        An item whose size may change is kept whatever it is, and be it alone.

        Returns:
            Whether others had to leave.
        """
        self.pop(key)
        if self._size_of is None and size > self._limit:
            return False
        self._items[key] = (item, size)
        self._told += size
        return self.make_room(keep=key)

    def make_room(self, needed: int = 0, keep: K | None = None) -> bool:
        """Let the least recently used go until so much more fits, all but one; whether any had to leave."""
        left = False
        while self._items and self._held() + needed > self._limit:
            oldest = next(iter(self._items))
            if oldest == keep:
                break
            self.pop(oldest)
            left = True
        return left

    def _held(self) -> int:
        return self._told if self._size_of is None else sum(map(self._size_of, self.values()))
