"""The outermost layer around every request: its id, its line in the log, its time.

Pure ASGI: a layer that reads responses through a queue (Starlette's BaseHTTPMiddleware) hides disconnects.
"""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convscope.protocol.problems import ProblemError
from service.http.metrics import Metrics
from service.http.problems import CLIENT_GONE, problem_response

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_QUIET_PATHS = frozenset({"/livez", "/readyz", "/metrics"})

log = structlog.get_logger(__name__)


class RequestLog:
    """Gives a request its id, logs and measures it, and answers 500 where something of ours went wrong.

    The id is the client's X-Request-ID where that is short and plain, else a new one; the answer carries it, and what
    stands in the request's state as `answer_headers`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, from the first byte to the last of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                for name, value in scope["state"].get("answer_headers", {}).items():
                    headers[name] = value
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if _client_left(error):
                status = CLIENT_GONE
            else:
                log.exception("request_failed", method=scope["method"], path=scope["path"])
                if status:  # the answer is on its way and cannot be taken back: the connection ends, visibly cut short
                    raise
                problem = ProblemError("internal-error", "An error of ours; the log has it under this request id.")
                await problem_response(Request(scope), problem)(scope, receive, send_with_id)
        finally:
            self._finished(scope, status, time.perf_counter() - started)

    def _finished(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "") or "unmatched"
        self._metrics.request(scope["method"], route, status or CLIENT_GONE, seconds)
        write = log.debug if scope["path"] in _QUIET_PATHS else log.info
        client = scope.get("client")
        write(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status or CLIENT_GONE,
            ms=round(seconds * 1000, 1),
            client=client[0] if client else None,
        )


def _client_left(error: Exception) -> bool:
    """Whether a stream ended because its reader left or stopped reading."""
    from sse_starlette.sse import SendTimeoutError
    from starlette.requests import ClientDisconnect

    from service.http.streaming import ReaderGoneError

    return isinstance(error, SendTimeoutError | ClientDisconnect | ReaderGoneError)


def _request_id(given: str | None) -> str:
    return given if given is not None and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
