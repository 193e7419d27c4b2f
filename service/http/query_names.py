"""Query parameters that are not there: what was meant instead."""

from __future__ import annotations

from difflib import get_close_matches

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params

from convscope.protocol.operations import operations


def unknown_parameter(request: Request, name: str) -> str:
    """A sentence about a query parameter that the address does not take, with what would have been right."""
    said = "there is no such query parameter"
    operation = operations().get(request.url.path.rpartition("/")[2])
    if operation is not None and name in operation.request.model_fields:
        return f"{said}; it is a property of the request and goes into its body"
    names = _names(request)
    near = get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"{said}; near: {', '.join(near)}"
    return f"{said}; possible: {', '.join(names)}" if names else f"{said}; this address takes none"


def _names(request: Request) -> list[str]:
    """The query parameters that the request's route takes."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if dependant is None:
        return []
    return sorted({field.alias for field in get_flat_params(dependant)} - set(request.path_params))
