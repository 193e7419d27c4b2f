"""Pauses that double up to a longest one."""

from __future__ import annotations

from convscope.backoff import Backoff


def test_pauses_double_up_to_the_longest_and_begin_again() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert [backoff.next_s() for _ in range(2)] == [0.5, 1.0]


def test_jitter_spreads_each_pause_without_changing_the_next() -> None:
    drawn = []
    for _ in range(200):
        backoff = Backoff(1.0, 4.0, jitter=(0.5, 1.5))
        drawn.append([backoff.next_s() for _ in range(4)])
    for column, whole in zip(zip(*drawn, strict=True), (1.0, 2.0, 4.0, 4.0), strict=True):
        assert 0.5 * whole <= min(column) < 0.75 * whole and 1.25 * whole < max(column) <= 1.5 * whole
