"""Every error leaves the service as application/problem+json (RFC 9457), whoever raised it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.exceptions import OutOfMemoryError, RedisError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from convscope.protocol.problems import PROBLEMS, FieldError, ProblemError, invalid_request
from service.http.query_names import RENDERING, near_addresses, near_rendering, unknown_parameter

MEDIA_TYPE = "application/problem+json"
CLIENT_GONE = 499
"""Status in our own log for a client that left; nobody receives it."""
RETRY_AFTER_S = 2
MOST_FIELD_ERRORS = 32
_MOST_READ = 1024
"""So many of a validation's errors are looked at; several may be about one place."""
_LONGEST_NAME = 200
_OBJECTS = {
    "ImageRef": "an id `img-…`, or an object with `id` or `base64`",
    "UnitTarget": "an object with `layer` and `channel`",
}
"""What takes the place of our classes' names where a request should have an object."""

log = structlog.get_logger(__name__)


class FieldProblem(BaseModel):
    """One wrong place in a request."""

    pointer: str = Field(description="JSON pointer into the body; /query/… and /path/… for the address.")
    detail: str


class ProblemDocument(BaseModel):
    """RFC 9457 problem details. Further members depend on the type (`possible`, `near`, `limit`, …)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable address of a page that says what to do, /problems/{name}.")
    title: str
    status: int
    detail: str
    instance: str | None = Field(None, description="Path of the request, or of the job.")
    request_id: str | None = None
    job_id: str | None = None
    errors: list[FieldProblem] | None = None
    retry_after_s: float | None = None


def problem_document(error: ProblemError, *, instance: str, request_id: str = "", job_id: str = "") -> dict[str, Any]:
    """The members of a problem document, without those that are empty."""
    document: dict[str, Any] = {
        "type": error.type.path,
        "title": error.type.title,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
    }
    if request_id:
        document["request_id"] = request_id
    if job_id:
        document["job_id"] = job_id
    if error.errors:
        document["errors"] = [{"pointer": field.pointer, "detail": field.detail} for field in error.errors]
    if error.retry_after_s is not None:
        document["retry_after_s"] = error.retry_after_s
    return {**{name: value for name, value in error.extra.items() if name not in document}, **document}


def problem_response(request: Request, error: ProblemError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that failed."""
    extra = dict(error.extra)
    job_id = extra.pop("job_id", "")
    document = problem_document(
        error,
        instance=request.url.path,
        request_id=getattr(request.state, "request_id", ""),
        job_id=str(job_id) if job_id else "",
    )
    if request.url.path.startswith("/v2/"):
        document["error"] = error.detail  # where clients of the Open Inference Protocol look
    sent = dict(headers or {})
    if error.retry_after_s is not None:
        sent["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.name == "unauthenticated":
        sent["WWW-Authenticate"] = "Bearer"
    sent.setdefault("Cache-Control", "no-store")
    return JSONResponse(document, error.status, sent, media_type=MEDIA_TYPE)


def job_problem(error: Mapping[str, Any], job_id: str) -> ProblemError:
    """A failed job's stored error as the problem it stands for."""
    name = error.get("name")
    extra = {key: value for key, value in (error.get("extra") or {}).items() if key != "job_id"}
    if name not in PROBLEMS:
        name = "internal-error"
    errors = [FieldError(str(field["pointer"]), str(field["detail"])) for field in extra.pop("errors", [])]
    extra.pop("retry_after_s", None)
    return ProblemError(name, str(error.get("detail", "")), errors=errors, job_id=job_id, **extra)


def pointer(parts: Iterable[object]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def _location(parts: Sequence[Any], kind: str, data: Any) -> tuple[Any, ...]:
    """Where an error lies in the body: pydantic's location without the names of the union members it tried.

    A member may be called like a property of the value: of the ways to read the location, the one that comes to its end
    is right, and of those the one that leaves the fewest parts out.
    """
    if not parts:
        return ()
    return max(_readings(parts, kind == "missing", data), key=lambda found: (found[0], len(found[1])))[1]


def _readings(parts: Sequence[Any], missing: bool, node: Any) -> Iterator[tuple[bool, tuple[Any, ...]]]:
    """Each way to follow a location through a value: whether its last part was followed, and the parts that were."""
    part, rest = parts[0], parts[1:]
    is_there = (isinstance(node, dict) and part in node) or (
        isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)
    )
    if not rest:
        yield (True, (part,)) if is_there or (missing and isinstance(node, dict)) else (False, ())
        return
    if is_there:
        yield from ((ended, (part, *more)) for ended, more in _readings(rest, missing, node[part]))
    if not is_there or isinstance(part, str):
        yield from _readings(rest, missing, node)


def _of_fitting_members(
    errors: Iterable[Mapping[str, Any]], data: Any
) -> list[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """Each error with its place; where a member of a union fits the kind of value that was given, only its errors."""
    placed = [(_location(error["loc"], error["type"], data), error) for error in errors]
    # Places where a member got further: it says something about a part of the value, or other than of its kind.
    further = {place[:depth] for place, _ in placed for depth in range(len(place))}
    further |= {place for place, error in placed if not _of_kind(error)}
    kept = []
    for place, error in placed:
        in_union = len(place) < len(error["loc"])
        if not (in_union and _of_kind(error) and place in further):
            kept.append((place, error))
    return kept


def _of_kind(error: Mapping[str, Any]) -> bool:
    """Whether an error says that a value is of another kind than asked for: no list, no number, …"""
    return str(error["type"]).endswith(("_type", "_parsing"))


def field_errors(
    errors: Iterable[Mapping[str, Any]], data: Any, known: Sequence[str] = (), within: Sequence[str] = ()
) -> list[FieldError]:
    """Validation errors as (pointer, sentence) pairs, of the first places; what union members say about one is joined.

    Args:
        errors: of pydantic.
        data: what was validated.
        known: names of properties, for near names of one that is unknown; `within` of those of objects in it.
    """
    found: dict[str, list[str]] = {}
    for place, error in _of_fitting_members(islice(errors, _MOST_READ), data):
        where = pointer(_shortened(part) for part in place)
        if where not in found and len(found) == MOST_FIELD_ERRORS:
            continue
        message = _sentence(error, known if len(place) <= 1 else within)
        sentences = found.setdefault(where, [])
        if message not in sentences:
            sentences.append(message)
    return [FieldError(place, "; or ".join(said)) for place, said in found.items()]


def _sentence(error: Mapping[str, Any], known: Sequence[str]) -> str:
    """What a validation error says, in the words of a request and not of our classes."""
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"Input should be {_OBJECTS.get(error.get('ctx', {}).get('class_name', ''), 'an object')}"
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])[:80]
        near = [other for other in get_close_matches(name, known, n=4, cutoff=0.5) if other != name][:3]
        said = f"there is no property {name!r} here" + (f"; near: {', '.join(near)}" if near else "")
        drawing = None if near and name not in RENDERING else near_rendering(name)
        return said + (f"; how a picture is drawn is said in the query: ?{drawing}=…" if drawing else "")
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message.replace("a valid tuple", "a valid list")


def _shortened(part: object) -> str:
    """A part of a pointer; of a name that the client made very long, its beginning."""
    text = str(part)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def from_validation(
    error: ValidationError, data: Any, known: Sequence[str] = (), within: Sequence[str] = ()
) -> ProblemError:
    """A pydantic validation error as a problem."""
    return invalid_request(field_errors(error.errors(include_url=False, include_input=False), data, known, within))


def from_redis(error: RedisError) -> ProblemError:
    """A Redis error as a problem: full, or not to be reached."""
    if isinstance(error, OutOfMemoryError):
        return ProblemError("queue-full", "The queue's server is out of memory.", retry_after_s=30)
    return ProblemError("queue-unavailable", "The queue's server cannot be reached.", retry_after_s=RETRY_AFTER_S)


def allowed(app: Starlette, path: str) -> list[str]:
    """Every method that some route has for this path, and those that methods.HeadAndOptions adds."""
    methods: set[str] = set()
    for route in iter_route_contexts(app.routes):
        regex = getattr(route, "path_regex", None)
        if regex is not None and regex.match(path):
            methods.update(getattr(route, "methods", None) or ())
    added = {"OPTIONS", "HEAD"} if "GET" in methods else {"OPTIONS"} if methods else set()
    return sorted(methods | added)


def _from_http(request: Request, error: HTTPException) -> tuple[ProblemError, dict[str, str]]:
    path = request.url.path
    if error.status_code == 404:
        near = near_addresses(request)
        hint = f" Near: {', '.join(near)}." if near else ""
        problem = ProblemError("not-found", f"There is nothing at {path}.{hint}")
        problem.extra |= {"near": near} if near else {}
        return problem, {}
    if error.status_code == 405:
        possible = allowed(request.app, path)
        detail = f"{request.method} is not possible at {path}; {', '.join(possible)} is."
        return ProblemError("method-not-allowed", detail, possible=possible), {"Allow": ", ".join(possible)}
    by_status = {408: "request-timeout", 413: "body-too-large", 415: "unsupported-media-type"}
    name = by_status.get(error.status_code, "malformed-body" if error.status_code < 500 else "internal-error")
    return ProblemError(name, str(error.detail)), dict(error.headers or {})


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem_response(request, error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem, headers = _from_http(request, error)
    return problem_response(request, problem, headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # The location starts with `query`, `path` or `header`; there is no data to walk, and no unions in addresses.
    errors = []
    for entry in error.errors()[:MOST_FIELD_ERRORS]:
        message = str(entry["msg"]).removeprefix("Value error, ")
        if entry["type"] == "extra_forbidden":
            message = unknown_parameter(request, str(entry["loc"][-1])[:_LONGEST_NAME])
        errors.append(FieldError(pointer(map(_shortened, entry["loc"])), message))
    return problem_response(request, invalid_request(errors))


async def _on_redis(request: Request, error: Exception) -> Response:
    assert isinstance(error, RedisError)
    log.warning("queue_unavailable", error=repr(error))
    return problem_response(request, from_redis(error))


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


def install(app: FastAPI) -> None:
    """Turn every exception of routes and framework into a problem document; the rest is logs.RequestLog's."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(RedisError, _on_redis)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


def documented(*names: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these problems, for the OpenAPI document."""
    by_status: dict[int, list[str]] = {}
    for name in names:
        by_status.setdefault(PROBLEMS[name].status, []).append(name)
    return {
        status: {
            "description": "; ".join(f"`{name}`: {PROBLEMS[name].title}" for name in same),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status, same in sorted(by_status.items())
    }
