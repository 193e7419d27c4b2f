"""What was used last, kept in memory within a bound."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A bounded store of what was used last; bounded by the sum of sizes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The item, which becomes the last used."""
        found = self._items.get(key)
        if found is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def pop(self, key: K) -> V | None:
        """Take the item out."""
        found = self._items.pop(key, None)
        if found is None:
            return None
        self._held -= found[1]
        return found[0]

    def put(self, key: K, item: V, size: int = 1) -> None:
        """Keep an item, if it is not larger than the whole store; the least recently used make room."""
        self.pop(key)
        if size > self._limit:
            return
        self._items[key] = (item, size)
        self._held += size
        while self._held > self._limit:
            self._held -= self._items.popitem(last=False)[1][1]
