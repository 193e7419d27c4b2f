"""Connections whose requests must begin in bounded time and size, and whose answers must be read. Knows uvicorn.

Uvicorn waits without end for the rest of a request's head, and keeps as much of it as comes; and for a reader to take
what was written, also of an answer that was broken off. What follows the head is the business of `bodies` and of the
routes.
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

READ_TIMEOUT_S = 60.0
READ_BYTES = 64 * 1024
"""Of an answer that waits to be read so much has to be taken in that time."""


class Connection(HttpToolsProtocol):
    """A connection that ends when the head of a request does not come to its end, or when answers are not read.

    The clock runs from the connection's beginning, and then from the first bytes that come while no request is being
    answered, or from the beginning of another request while one is, until a head is complete. Such bytes may also be
    the rest of a body that was refused early.
    """

    _clock: asyncio.TimerHandle | None = None
    _idle_bytes = 0
    """What came since a head, a piece of a body or a request was last complete: a head, or what follows the last piece
    of a body in chunks, which the parser keeps like a head."""
    _got_on = False
    _in_head = False
    _in_body = False
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_clock()
        self._stop_patience()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head or a body."""
        self._got_on = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._clock is None and (self._in_head or not self._answering()):
            self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)
        # Where something was completed, how much of this read came after it is not known, and one read is not much.
        self._idle_bytes = 0 if self._got_on else self._idle_bytes + len(data)
        if self._idle_bytes > HEAD_BYTES:
            self.send_400_response(f"The head of the request has more than {HEAD_BYTES // 1024} KiB.")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head, self._in_body, self._got_on = False, True, True
        self._stop_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._got_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._in_body, self._got_on = False, True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and hang up."""
        self._refuse("malformed-body", msg)

    def pause_writing(self) -> None:
        """The reader is slower than the answer."""
        super().pause_writing()
        self._be_patient()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stop_patience()

    def _be_patient(self) -> None:
        waits = self.transport.get_write_buffer_size()
        self._patience = self.loop.call_later(READ_TIMEOUT_S, self._look_at_reader, waits)

    def _look_at_reader(self, waited: int) -> None:
        """Give up a reader that takes next to nothing; to close would be to wait for it to take the rest."""
        if waited - self.transport.get_write_buffer_size() < READ_BYTES:
            self.transport.abort()
        else:
            self._be_patient()

    def _answering(self) -> bool:
        """Whether the answer to an earlier request is still to come, or to go on."""
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_late(self) -> None:
        if self.transport.is_closing():
            return
        if self.flow.read_paused:  # the rest is not late: nobody took it
            self._clock = self.loop.call_later(HEAD_TIMEOUT_S, self._too_late)
        elif self._in_head or self._idle_bytes:
            self._refuse("request-timeout", f"The head of the request did not come within {HEAD_TIMEOUT_S:g} seconds.")
        else:
            self.transport.close()

    def _refuse(self, name: str, detail: str) -> None:
        """Answer in the application's place where it has said nothing, and hang up."""
        if self._may_answer():
            self._answer(name, detail)
            self.transport.close()
        elif self._answering():
            self.transport.abort()  # nobody may be reading the answer that this cuts off
        else:
            self.transport.close()

    def _may_answer(self) -> bool:
        """Whether an answer now would be the one to what comes now, and the only one."""
        if self._in_body:
            return not self.cycle.response_started and not self.pipeline
        return not self._answering()

    def _answer(self, name: str, detail: str) -> None:
        problem = PROBLEMS[name]
        document: dict[str, Any] = {"type": f"/problems/{name}", "title": problem.title, "status": problem.status}
        body = json.dumps({**document, "detail": detail}).encode()
        head = b"content-type: application/problem+json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[problem.status] + head + body)
