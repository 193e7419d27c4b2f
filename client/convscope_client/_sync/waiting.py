"""How the blocking client waits and computes: it just does. Imports nothing of ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def sleep(seconds: float) -> None:
    """Wait so many seconds."""
    time.sleep(seconds)


def aside(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a function."""
    return function(*arguments, **named)
