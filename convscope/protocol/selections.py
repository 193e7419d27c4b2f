"""How many a selection means: a list, `all`, `first:K`, `top:K`, or a word for the one that is strongest."""

from __future__ import annotations

from collections.abc import Sequence


def count_of(selection: Sequence[int] | str, there: int) -> int:
    """How many of `there` things a selection gives; `first:K` and `top:K` may ask for more and give all of them."""
    if not isinstance(selection, str):
        return len(selection)
    if selection == "all":
        return there
    _, colon, number = selection.partition(":")
    return min(int(number), there) if colon else 1
