"""Plain pages for people: no scripts, no fonts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from convscope.protocol.problems import PROBLEMS, ProblemError, ProblemType
from service import openapi
from service.http.negotiation import JSON, accepted
from service.http.problems import documented

router = APIRouter(tags=["health"])


_PAGE: dict[int | str, dict[str, Any]] = {200: openapi.answer("A page.", {"text/html": {"schema": {"type": "string"}}})}


@router.get("/docs", operation_id="docs", response_class=HTMLResponse, responses=_PAGE)
async def docs(request: Request) -> HTMLResponse:
    """What there is, for people; made of the OpenAPI document, without anything from elsewhere."""
    if not hasattr(request.app.state, "docs_page"):
        request.app.state.docs_page = docs_page(request.app.openapi())
    page: str = request.app.state.docs_page
    return HTMLResponse(page.replace(ADDRESS, escape(str(request.base_url).rstrip("/"))), headers={"Vary": "Host"})


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
    return HTMLResponse(problem_page(found))


def openapi_json(found: Any) -> Response:
    """A type of problem as JSON."""
    from service.results.arrays import json_bytes

    body = {"type": found.path, "title": found.title, "status": found.status, "advice": found.advice}
    return Response(json_bytes(body), media_type=JSON)


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "code,pre{font:14px/1.4 ui-monospace,monospace;background:#f3f3f3;padding:.1em .3em}pre{padding:.7em;overflow:auto}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.25em .6em .25em 0;"
    "border-bottom:1px solid #ddd}summary{cursor:pointer;padding:.3em 0}.method{display:inline-block;min-width:4.5em}"
)


ADDRESS = "http://service.invalid"
"""Stands in the made page for the address that it was asked at, which each answer puts in."""


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )


def problem_page(problem: ProblemType) -> str:
    """What a type of problem means and what to do about it."""
    return _page(
        problem.title,
        f"<p><code>{escape(problem.name)}</code>, HTTP status {problem.status}.</p>"
        f"<p>{escape(problem.advice)}</p>"
        "<p>The problem document's <code>detail</code> says what was wrong this time; <code>errors</code> where.</p>",
    )


def docs_page(document: Mapping[str, Any]) -> str:
    """Every address, with its parameters, fields and answers."""
    definitions = document["components"]["schemas"]
    parts = [
        f"<p>{escape(document['info'].get('description', ''))}</p>",
        '<p>The same as a machine reads it: <a href="/openapi.json">openapi.json</a>.</p>',
        f"<pre>curl -F image=@YOUR.jpg -H 'Accept: image/png' {ADDRESS}/v1/feature-maps -o maps.png</pre>",
    ]
    tags: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            tags.setdefault(tag, []).append(_operation(path, method, operation, definitions))
    for tag, entries in tags.items():
        parts.append(f"<h2>{escape(tag)}</h2>{''.join(entries)}")
    rows = "".join(
        f'<tr><td>{each.status}</td><td><a href="{escape(each.path)}">{escape(each.name)}</a></td>'
        f"<td>{escape(each.title)}</td></tr>"
        for each in PROBLEMS.values()
    )
    parts.append(f"<h2>Problems</h2><table>{rows}</table>")
    return _page(document["info"]["title"], "".join(parts))


def _operation(path: str, method: str, operation: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    said = operation.get("summary") or ""
    described = operation.get("description") or ""
    fields = [(entry["name"], entry["in"], entry.get("description", "")) for entry in operation.get("parameters", ())]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    name = body.get("$ref", "").rpartition("/")[2]
    for field, schema in definitions.get(name, {}).get("properties", {}).items():
        fields.append((field, "body", schema.get("description", "")))
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{escape(place)}</td><td>{escape(text)}</td></tr>"
        for field, place, text in fields
    )
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(answer.get('description', ''))}</td></tr>"
        for status, answer in operation.get("responses", {}).items()
    )
    return (
        f'<details><summary><code class="method">{escape(method.upper())}</code> <code>{escape(path)}</code> '
        f"{escape(said)}</summary><p>{escape(described)}</p><table>{rows}</table><table>{answers}</table></details>"
    )
