"""Names that stand for each other: a property in the singular or the plural, whichever its operation does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from convscope.protocol.problems import FieldError, invalid_request
from service.http.problems import pointer

PAIRS = (("target", "targets"), ("method", "methods"), ("layer", "layers"))
_SINGULAR = frozenset(singular for singular, _ in PAIRS)
_OTHERS = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}


def canonical_name(request: type[BaseModel], name: str) -> str:
    """The property that a name means: itself, or the one that it stands for."""
    other = _OTHERS.get(name)
    return other if other in request.model_fields and name not in request.model_fields else name


def canonical(request: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The properties under their operation's own names.

    One value becomes a list of one where the operation takes a list, and a list of one its value where it takes one.

    Raises:
        ProblemError: `invalid-request`, where both names are given, or several values for a property that takes one.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        own = canonical_name(request, name)
        if own == name:
            found[name] = value
            continue
        if own in given:
            raise invalid_request([FieldError(pointer([name]), f"another name of `{own}`, which is given as well")])
        if own not in _SINGULAR:
            found[own] = value if isinstance(value, list) else [value]
        elif not isinstance(value, list):
            found[own] = value
        elif len(value) == 1:
            found[own] = value[0]
        else:
            raise invalid_request([FieldError(pointer([name]), f"takes one value here, not {len(value)}")])
    return found
