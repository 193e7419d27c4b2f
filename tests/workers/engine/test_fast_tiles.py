"""Rows of `fast` steps, learned from made-up times."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.fast_tiles import FORGET_AFTER, MOST_ROWS, FastTiles


def steps(tiles: FastTiles, seconds: Callable[[int], float], count: int = 60, there: int = 10**6) -> list[int]:
    """The rows of some steps of one group."""
    taken = []
    for _ in range(count):
        rows = min(tiles.rows("key"), there)
        taken.append(rows)
        tiles.learn("key", rows, seconds(rows))
    return taken


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda rows: 0.01 * rows * (1 + rows / 10), 1),  # each row costs more in company
        (lambda rows: 0.01, MOST_ROWS),
        (lambda rows: 0.02 * -(-rows // 8), 8),  # as much for up to eight, then for every eight again
        (lambda rows: 0.05 + 0.02 * rows, 9),  # cheaper and cheaper, up to what a slice of a quarter second holds
        (lambda rows: 0.4 * rows, 1),  # one row takes longer than a slice
    ],
)
def test_the_rows_that_cost_least_within_a_slice_are_found(seconds: Callable[[int], float], expected: int) -> None:
    taken = steps(FastTiles(0.25, 1), seconds)
    assert taken[-1] == expected
    assert taken[0] == 1


def test_the_first_step_of_a_size_only_warms_up() -> None:
    seen: set[int] = set()

    def seconds(rows: int) -> float:
        fresh = rows not in seen
        seen.add(rows)
        return 0.01 + 5.0 * fresh

    assert steps(FastTiles(10.0, 1), seconds)[-1] == MOST_ROWS


def test_one_step_that_stood_still_changes_nothing() -> None:
    tiles = FastTiles(10.0, 1)
    cost = lambda rows: 0.02 * (-(-rows // 8)) ** 1.5  # noqa: E731  (as much for up to eight rows, then more a row)
    assert steps(tiles, cost)[-1] == 8
    tiles.learn("key", 8, 3.0)
    assert set(steps(tiles, cost)) == {8}


def test_no_more_than_the_memory_takes() -> None:
    tiles = FastTiles(0.25, 8)
    tiles.limit("key", 4)
    assert max(steps(tiles, lambda rows: 0.001)) == 4
    assert tiles.rows("another") == 8


def test_sizes_are_tried_again_after_a_while() -> None:
    tiles = FastTiles(0.25, 1)
    steps(tiles, lambda rows: 0.01 * rows * (1 + rows / 10))
    assert tiles.rows("key") == 1
    assert max(steps(tiles, lambda rows: 0.01, FORGET_AFTER)) > 1


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=80), st.integers(1, 20), st.integers(1, 16))
def test_whatever_steps_take_there_is_a_next_one(times: list[float], there: int, first: int) -> None:
    tiles = FastTiles(0.25, first)
    moments = iter(times)
    for rows in steps(tiles, lambda _: next(moments), len(times), there):
        assert 1 <= rows <= MOST_ROWS
