"""Drawing that stops when nobody wants the picture any more: a thread cannot be ended from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class StoppedError(Exception):
    """Nobody wants the picture any more."""


def _never() -> bool:
    return False


_unwanted: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=_never)


@contextmanager
def stops_when(unwanted: Callable[[], bool]) -> Iterator[None]:
    """Let what is drawn within the block stop once `unwanted` says so."""
    token = _unwanted.set(unwanted)
    try:
        yield
    finally:
        _unwanted.reset(token)


def go_on() -> None:
    """Called between the pieces of a picture.

    Raises:
        StoppedError: it is not wanted any more.
    """
    if _unwanted.get()():
        raise StoppedError
