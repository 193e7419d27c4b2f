"""Connections whose requests must begin in bounded time and size. Knows uvicorn and the problems' documents.

Uvicorn waits without end for the rest of a request's head, and keeps as much of it as comes. What follows the head is
the business of `bodies` and of the routes.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from convscope.protocol.problems import PROBLEMS

HEAD_TIMEOUT_S = 30.0
HEAD_BYTES = 64 * 1024
"""A little more may come before it is noticed: what one read brings."""


class Connection(HttpToolsProtocol):
    """A connection that is closed when the head of a request does not come to its end.

    The clock runs from the connection's beginning, and then from the first bytes that come while no request is being
    answered, until a head is complete. Such bytes may also be the rest of a body that was refused early.
    """

    _clock: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._head_complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head or a body."""
        super().data_received(data)
        if self.transport.is_closing() or not (self.cycle is None or self.cycle.response_complete):
            return
        if self._clock is None:
            self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)
        if self._in_body:
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self.send_400_response(f"The head of the request has more than {HEAD_BYTES // 1024} KiB.")

    def on_headers_complete(self) -> None:
        """A request begins."""
        self._head_complete()
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and hang up."""
        self._refuse("malformed-body", msg)

    def _head_complete(self) -> None:
        self._head_bytes = 0
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_late(self) -> None:
        if self.transport.is_closing():
            return
        if self._head_bytes:
            self._refuse("request-timeout", f"The head of the request did not come within {HEAD_TIMEOUT_S:g} seconds.")
        else:
            self.transport.close()

    def _refuse(self, name: str, detail: str) -> None:
        """Answer where no application was asked, and hang up."""
        problem = PROBLEMS[name]
        document: dict[str, Any] = {"type": f"/problems/{name}", "title": problem.title, "status": problem.status}
        body = json.dumps({**document, "detail": detail}).encode()
        head = b"content-type: application/problem+json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[problem.status] + head + body)
        self.transport.close()
