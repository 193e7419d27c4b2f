"""The largest of 2×2 numbers and its place, as torch's max-pooling finds them, for compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.compiled.jit import inlined


@inlined
def _larger(first: Any, second: Any) -> Any:
    """The second only where it is larger, or no number."""
    return second if second > first or second != second else first


@inlined
def largest_of(a: Any, b: Any, c: Any, d: Any) -> Any:
    """The largest, or what is no number."""
    return _larger(_larger(a, b), _larger(c, d))


@inlined
def place_of(a: Any, b: Any, c: Any, largest: Any) -> Any:
    """0 to 3: the first of four that is the largest, or no number (torch: the last of these)."""
    if a == largest or a != a:
        place = 0
    elif b == largest or b != b:
        place = 1
    elif c == largest or c != c:
        place = 2
    else:
        place = 3
    return np.uint8(place)
