"""Large answers in pieces: byte ranges of artifacts, bounded in memory and in patience."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from convscope.protocol.problems import ProblemError
from convscope.store.artifacts import Artifacts
from service.http.negotiation import etag_matches
from service.http.problems import problem_response

CHUNK_BYTES = 256 * 1024
SEND_TIMEOUT_S = 60.0
"""A reader that takes no piece for this long is given up."""
IMMUTABLE = "private, max-age=3600, immutable"

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


class ReaderGoneError(Exception):
    """A reader left, or stopped reading, before it had all."""


class PieceResponse(Response):
    """An answer whose body comes in pieces, one in memory at a time; it ends with its reader, who may not stall."""

    def __init__(
        self, pieces: AsyncIterator[bytes], *, status_code: int, media_type: str, headers: Mapping[str, str]
    ) -> None:
        self._pieces = pieces
        self.status_code = status_code
        self.media_type = media_type
        self.background = None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and pieces.

        Raises:
            ReaderGoneError: the connection ends before the announced length.
        """
        gone = asyncio.create_task(disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in self._pieces:
                if gone.done():  # sending to nobody is no error, so it has to be asked
                    raise ReaderGoneError("it left")
                try:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                except TimeoutError as error:
                    raise ReaderGoneError("it takes nothing") from error
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


def not_modified(request: Request, headers: Mapping[str, str]) -> Response | None:
    """304 where If-None-Match names the entity tag of `headers`."""
    if etag_matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=dict(headers))
    return None


async def artifact_response(
    request: Request,
    artifacts: Artifacts,
    *,
    head: bytes,
    key: str | None,
    start: int,
    length: int,
    media_type: str,
    headers: Mapping[str, str],
) -> Response:
    """`head` and then a part of an artifact, whole or the one byte range that the request asks for.

    Several ranges at once are answered with the whole, as HTTP allows.

    Raises:
        ProblemError: `gone`, `store-unavailable`.
    """
    unchanged = not_modified(request, headers)
    if unchanged is not None:
        return unchanged
    if key is not None:
        await artifacts.size(key)  # what is missing must be said before the first byte
    total = len(head) + length
    sent = {**headers, "Accept-Ranges": "bytes"}
    first, last, status = 0, total - 1, 200
    asked = _asked_range(request, headers["ETag"], total)
    if asked is not None:
        first, last = asked
        if first > last:
            error = ProblemError("range-not-satisfiable", f"There are {total} bytes.", length=total)
            return problem_response(request, error, {"Content-Range": f"bytes */{total}"})
        status = 206
        sent["Content-Range"] = f"bytes {first}-{last}/{total}"
    sent["Content-Length"] = str(last - first + 1)
    pieces = _pieces(artifacts, head, key, start, first, last + 1)
    return PieceResponse(pieces, status_code=status, media_type=media_type, headers=sent)


def _asked_range(request: Request, etag: str, total: int) -> tuple[int, int] | None:
    """First and last byte asked for, first > last where there is no such byte; None for the whole."""
    header = request.headers.get("range")
    if header is None:
        return None
    unless = request.headers.get("if-range")
    if unless is not None and not etag_matches(unless, etag, weak=False):
        return None
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if found[1] == "":
        count = int(found[2])
        return (max(0, total - count), total - 1) if count else (0, -1)
    first = int(found[1])
    if found[2] and int(found[2]) < first:
        return None  # not a valid range, to be ignored
    last = min(int(found[2]), total - 1) if found[2] else total - 1
    return (first, last) if first < total else (0, -1)


async def _pieces(
    artifacts: Artifacts, head: bytes, key: str | None, start: int, first: int, end: int
) -> AsyncIterator[bytes]:
    """Bytes first … end - 1 of the head followed by the artifact from `start`."""
    if first < len(head):
        yield head[first:end]
    skip = max(0, first - len(head))
    count = end - max(first, len(head))
    if key is not None and count > 0:
        async for piece in artifacts.stream(key, start + skip, count, CHUNK_BYTES):
            yield piece


async def disconnected(receive: Receive) -> None:
    """Wait until the client is gone; of a request whose body has been read."""
    while (await receive())["type"] != "http.disconnect":
        continue
