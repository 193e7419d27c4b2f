"""How loops over pixels and channels are compiled, and how they read bfloat16, which numba has no type for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.extending import overload

Compiled = TypeVar("Compiled", bound=Callable[..., Any])


def compiled(function: Compiled) -> Compiled:
    """Machine code that runs without the interpreter's lock; products and sums may be fused, never reordered.

    It is kept beside its source, or where NUMBA_CACHE_DIR says.
    """
    flags: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz"}}
    try:
        return cast(Compiled, numba.njit(cache=True, **flags)(function))
    except RuntimeError:  # no folder to keep it in can be written to
        return cast(Compiled, numba.njit(**flags)(function))


def inlined(function: Compiled) -> Compiled:
    """A part of compiled code, put where it is called so that what is constant there makes it quick."""
    return cast(Compiled, numba.njit(inline="always")(function))


def as_float(number: Any) -> Any:
    """A float32, or the bits of a bfloat16, as a float32."""
    raise TypeError("compiled code only")


def as_stored(number: Any, like: Any) -> Any:
    """A float32 as what `like` is; bfloat16 are rounded to the nearest, ties to even."""
    raise TypeError("compiled code only")


@overload(as_float, inline="always")
def _as_float(number: Any) -> Callable[..., Any]:
    def of_bits(number: Any) -> Any:
        return np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)

    def of_float(number: Any) -> Any:
        return number

    return of_bits if number is types.uint16 else of_float


@overload(as_stored, inline="always")
def _as_stored(number: Any, like: Any) -> Callable[..., Any]:
    def as_bits(number: Any, like: Any) -> Any:
        bits = np.float32(number).view(np.uint32)
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    def as_it_is(number: Any, like: Any) -> Any:
        return number

    return as_bits if like is types.uint16 else as_it_is
