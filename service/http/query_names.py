"""Names in an address that are not there, and options of drawing in a body: what was meant instead."""

from __future__ import annotations

from dataclasses import fields
from difflib import SequenceMatcher, get_close_matches

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import iter_route_contexts

from convscope.protocol.operations import operations
from convscope.render import RenderOptions

RENDERING = (*(field.name for field in fields(RenderOptions)), "pick", "format")
"""Options of drawing, which stand in the query."""
_NEAR_PART = 0.7
_LONGEST_ADDRESS = 200


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


def near_rendering(name: str) -> str | None:
    """The rendering option that a property which no request has may stand for."""
    return next(iter(get_close_matches(name, RENDERING, n=1, cutoff=0.7)), None)


def near_addresses(request: Request) -> list[str]:
    """Addresses that resemble the one which was asked for, with or without /v1; values are left as they were given."""
    asked = request.url.path[:_LONGEST_ADDRESS].rstrip("/").split("/")[1:]
    found: dict[str, float] = {}
    for route in iter_route_contexts(request.app.routes):
        path = getattr(route, "path", "")
        if ":path}" in path or not getattr(route, "include_in_schema", False):
            continue
        parts = path.split("/")[1:]
        for given in (asked, ["v1", *asked]):
            if len(parts) != len(given):
                continue
            pairs = [(part, value) for part, value in zip(parts, given, strict=True) if not part.startswith("{")]
            likeness = [SequenceMatcher(None, part, value).ratio() for part, value in pairs]
            if min(likeness) >= _NEAR_PART:
                literal = dict(pairs)
                address = "/" + "/".join(
                    part if part in literal else value for part, value in zip(parts, given, strict=True)
                )
                found[address] = sum(likeness) / len(likeness)
    return sorted(found, key=lambda address: -found[address])[:3]
