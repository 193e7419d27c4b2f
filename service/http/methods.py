"""HEAD and OPTIONS for every address, in one place: HEAD is GET without its body, OPTIONS names what is possible.

FastAPI's routes answer only what they name. Pure ASGI, like logs.RequestLog.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import allowed


class _HeadSentError(Exception):
    """The head of an answer is sent; whoever makes its body may stop."""


class HeadAndOptions:
    """Answers HEAD with the head that GET would have, and OPTIONS with 204 and `Allow`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] != "http" or scope["method"] not in ("HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        possible = allowed(scope["app"], scope["path"])
        if scope["method"] == "OPTIONS" and possible:
            headers = [(b"allow", ", ".join(possible).encode())]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        elif scope["method"] == "HEAD" and "GET" in possible:
            await self._head(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the head of GET, and end what would make the body: a stream goes on for as long as its job.

        Of the whole: ranges are GET's alone (RFC 9110, 14.2).
        """
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        asked = {**scope, "method": "GET", "headers": headers}

        async def send_head(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                await send({"type": "http.response.body", "body": b""})
                raise _HeadSentError

        try:
            await self._app(asked, receive, send_head)
        except* _HeadSentError:  # alone, or in the group of a stream's tasks
            pass
        finally:
            scope["route"] = asked.get("route")  # for the log and the figures
