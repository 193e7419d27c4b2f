"""The engine's process as its supervisor sees it: forked, spoken to, heard, watched, killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from workers.supervision.engine_log import LINE_LIMIT_BYTES, pass_on_log
from workers.supervision.fork_server import Forked, ForkServerProcess, describe_status
from workers.supervision.tasks import end_tasks
from workers.wire import Frame, WireError, read_frame, write_frame

log = structlog.get_logger(__name__)

LAST_WORDS_S = 1.0


class EngineProcess:
    """One engine process, from its start to its end; a new one is a new object.

    Args:
        server: the fork server that it is a child of.
        forked: its process.
        reader, writer: our end of the socket.
        heard: called with every frame, in the order of their coming; must not block.
    """

    def __init__(
        self,
        server: ForkServerProcess,
        forked: Forked,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        heard: Callable[[Frame], None],
    ) -> None:
        self.card: dict[str, Any] | None = None
        self.killed_for = ""
        self.last_beat = time.monotonic()
        self.beat: dict[str, Any] = {}
        self._server = server
        self._forked = forked
        self._reader = reader
        self._writer = writer
        self._heard = heard
        self._write_lock = asyncio.Lock()
        self._hearing = asyncio.create_task(self._hear(), name="engine frames")
        self._logging = asyncio.create_task(self._log(), name="engine log")

    @classmethod
    async def fork(cls, server: ForkServerProcess, heard: Callable[[Frame], None]) -> EngineProcess:
        """A new engine of the server, which becomes ready by itself.

        Raises:
            ForkServerError: the server gives none.
        """
        forked = await server.fork()
        reader, writer = await asyncio.open_unix_connection(sock=forked.sock)
        return cls(server, forked, reader, writer, heard)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._forked.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return not self._forked.status.done()

    @property
    def ready(self) -> bool:
        """Whether it has said that it can work, and still runs."""
        return self.card is not None and self.running

    def silent_s(self) -> float:
        """Seconds since its loop was last heard to turn."""
        return time.monotonic() - self.last_beat

    async def send(self, frame: Frame) -> None:
        """Write a frame. A child that has died takes it without complaint: its end is told by `ended`.

        Raises:
            WireError: the frame is too large.
        """
        # Whoever waits here may be cancelled; half a frame would spoil the stream.
        await asyncio.shield(asyncio.create_task(self._write(frame)))

    async def _write(self, frame: Frame) -> None:
        async with self._write_lock:
            try:
                await write_frame(self._writer, frame)
            except (ConnectionError, RuntimeError):
                log.info("engine_does_not_listen", kind=frame.type)

    def kill(self, reason: str) -> None:
        """End it at once."""
        if self.running:
            self.killed_for = self.killed_for or reason
            self._server.kill(self.pid)

    async def ended(self) -> str:
        """Wait for its end, after which no frame comes any more; how it ended, and why if it was our doing."""
        status = await asyncio.shield(self._forked.status)
        await self._hearing
        self._writer.close()
        await asyncio.wait({self._logging}, timeout=LAST_WORDS_S)
        self._logging.cancel()
        said = describe_status(status)
        return f"{said}: {self.killed_for}" if self.killed_for else said

    async def close(self) -> None:
        """Kill it and let go of its pipes, without listening to what it still has to say."""
        self.kill("the supervisor ends")
        await asyncio.wait({self._forked.status}, timeout=LAST_WORDS_S)
        await end_tasks([self._hearing, self._logging])
        self._writer.close()

    async def _hear(self) -> None:
        try:
            while (frame := await read_frame(self._reader)) is not None:
                if frame.type == "beat":
                    self.last_beat, self.beat = time.monotonic(), frame.header
                else:
                    self._heard(frame)
        except WireError as error:
            log.error("engine_speaks_nonsense", error=str(error))
            self.kill("it sent something that is no frame")

    async def _log(self) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=self._forked.standard_error, limit=LINE_LIMIT_BYTES)
        try:
            await pass_on_log(reader, self.pid)
        finally:
            writer.close()
