"""The explorer: the page for people at `/`, and the files of service/explorer that it is made of, from the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from starlette.responses import Response

from convscope.protocol.problems import ProblemError
from service.http.negotiation import etag_matches

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page and of the worker that it starts: our files, and pictures that scripts hold."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _ShippedFile:
    data: bytes
    media_type: str
    etag: str


@cache
def shipped() -> dict[str, _ShippedFile]:
    """Every file that the page may ask for, by its path below /explorer/."""
    found: dict[str, _ShippedFile] = {}

    def collect(folder: Traversable, path: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                collect(entry, f"{path}{entry.name}/")
                continue
            media_type = _TYPES.get("." + entry.name.rpartition(".")[2])
            if media_type is not None:
                data = entry.read_bytes()
                found[path + entry.name] = _ShippedFile(data, media_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"')

    collect(files("service") / "explorer", "")
    return found


def _answer(request: Request, path: str) -> Response:
    file = shipped().get(path)
    if file is None:
        raise ProblemError("not-found", f"The explorer has no file {path[:100]!r}.")
    headers = {**_HEADERS, "ETag": file.etag}
    if etag_matches(request.headers.get("if-none-match"), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.data, headers=headers, media_type=file.media_type)


@router.get("/")
async def front(request: Request) -> Response:
    """The page."""
    return _answer(request, "index.html")


@router.get("/explorer/{path:path}")
async def file(request: Request, path: str) -> Response:
    """One of the files that the page is made of."""
    return _answer(request, path)
