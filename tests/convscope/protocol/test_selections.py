"""How many a selection means."""

from __future__ import annotations

import pytest

from convscope.protocol.selections import count_of


@pytest.mark.parametrize(
    ("selection", "count"),
    [([3, 1, 1], 3), ([], 0), ("all", 10), ("first:4", 4), ("first:40", 10), ("top:10", 10), ("top:11", 10),
     ("strongest", 1), ("predicted", 1), ("max", 1), ("channel", 1), ("281", 1)],
)  # fmt: skip
def test_a_selection_of_ten_gives(selection: list[int] | str, count: int) -> None:
    assert count_of(selection, 10) == count
