"""The error of weights that cannot be had."""

from __future__ import annotations

from workers.contract import MethodError


def refuse(reason: str, advice: str = "") -> MethodError:
    """The error of weights that cannot be had."""
    return MethodError("weights-unavailable", f"{reason}.{' ' + advice if advice else ''}")
