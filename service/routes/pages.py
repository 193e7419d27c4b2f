"""Pages for people to read: the interface and its problems; no scripts, nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from convscope.protocol.problems import PROBLEMS, ProblemError, ProblemType
from service import openapi
from service.documentation import ADDRESS, docs_page, markdown, page
from service.http.negotiation import JSON, accepted
from service.http.problems import documented

router = APIRouter(tags=["health"])


_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGE: dict[int | str, dict[str, Any]] = {200: openapi.answer("A page.", {"text/html": {"schema": {"type": "string"}}})}


@router.get("/docs", operation_id="docs", response_class=HTMLResponse, responses=_PAGE)
async def docs(request: Request) -> HTMLResponse:
    """What there is, for people; made of the OpenAPI document, without anything from elsewhere."""
    if not hasattr(request.app.state, "docs_page"):
        problems = [(each.status, each.path, each.name, each.title) for each in PROBLEMS.values()]
        request.app.state.docs_page = docs_page(request.app.openapi(), problems)
    made: str = request.app.state.docs_page
    address = escape(str(request.base_url).rstrip("/"))
    return HTMLResponse(made.replace(ADDRESS, address), headers={"Vary": "Host", **_HEADERS})


@router.get(
    "/problems/{name}",
    operation_id="read-problem",
    response_class=HTMLResponse,
    responses={
        200: openapi.answer(
            "What the problem means and what to do.",
            {"text/html": {"schema": {"type": "string"}}, **openapi.json_content({"type": "object"})},
        ),
        **documented("not-found", "not-acceptable"),
    },
)
async def problem(request: Request, name: str) -> Response:
    """The page of a type of problem."""
    found = PROBLEMS.get(name)
    if found is None:
        raise ProblemError("not-found", f"There is no problem {escape(name[:100])!r}.", possible=sorted(PROBLEMS))
    if accepted(request.headers.get("accept"), ["text/html", JSON]) == JSON:
        return openapi_json(found)
    return HTMLResponse(problem_page(found), headers=_HEADERS)


def openapi_json(found: Any) -> Response:
    """A type of problem as JSON."""
    from service.results.arrays import json_bytes

    body = {"type": found.path, "title": found.title, "status": found.status, "advice": found.advice}
    body["passing"] = found.passing
    return Response(json_bytes(body), media_type=JSON)


_PASSING = "It may pass: the same request, sent again under its <code>Idempotency-Key</code>, is a new try."
_LASTING = "It lasts: the same request under the same <code>Idempotency-Key</code> is answered with the same failure."


def problem_page(problem: ProblemType) -> str:
    """What a type of problem means and what to do about it."""
    return page(
        problem.title,
        f"<h1>{escape(problem.title)}</h1><p><code>{escape(problem.name)}</code>, HTTP status {problem.status}.</p>"
        f"{markdown(problem.advice)}"
        f"<p>{_PASSING if problem.passing else _LASTING}</p>"
        "<p>The problem document's <code>detail</code> says what was wrong this time; <code>errors</code> where.</p>",
    )
