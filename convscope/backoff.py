"""Pauses between attempts that double up to a longest one."""

from __future__ import annotations

import random


class Backoff:
    """The pauses of one thing that is tried again and again.

    Args:
        first_s: the first pause, seconds.
        longest_s: no pause is longer, seconds.
        jitter: each pause is drawn evenly from this many times its length, so that many who wait do not come at once.
    """

    def __init__(self, first_s: float, longest_s: float, jitter: tuple[float, float] = (1.0, 1.0)) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._jitter = jitter
        self._pause_s = first_s

    def next_s(self) -> float:
        """The pause before the next attempt, seconds; the one after it is twice as long."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._longest_s)
        return pause_s * random.uniform(*self._jitter)

    def reset(self) -> None:
        """It worked: the next pause is the first again."""
        self._pause_s = self._first_s
