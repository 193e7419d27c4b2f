"""The engine's process as its supervisor sees it: spawned, spoken to, heard, watched, killed.

Import rule: the standard library, structlog and `workers.engine.wire`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from workers.engine.wire import Frame, WireError, read_frame, write_frame
from workers.supervision.tasks import end_tasks

log = structlog.get_logger(__name__)

LINE_LIMIT_BYTES = 1 << 20


def describe_status(status: int) -> str:
    """How a process ended: `signal 9`, `exit 139`."""
    return f"signal {-status}" if status < 0 else f"exit {status}"


class EngineChild:
    """One engine process, from its start to its end; a new one is a new object.

    Args:
        process: the running child.
        reader, writer: our end of the socket.
        heard: called with every frame, in the order of their coming; must not block.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        heard: Callable[[Frame], None],
    ) -> None:
        self.card: dict[str, Any] | None = None
        self.killed_for = ""
        self.last_beat = time.monotonic()
        self.beat: dict[str, Any] = {}
        self._process = process
        self._reader = reader
        self._writer = writer
        self._heard = heard
        self._write_lock = asyncio.Lock()
        self._hearing = asyncio.create_task(self._hear(), name="engine frames")
        self._logging = asyncio.create_task(self._pass_on_log(), name="engine log")

    @classmethod
    async def spawn(cls, heard: Callable[[Frame], None], *, preload: bool = False) -> EngineChild:
        """Start an engine's process, which waits for its configuration.

        Args:
            heard: see the class.
            preload: whether it imports all that it may need before it waits.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = ["-m", "workers.engine", "--socket", str(theirs.fileno()), "--parent", str(os.getpid())]
            if preload:
                command.append("--preload")
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                limit=LINE_LIMIT_BYTES,
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer, heard)

    async def configure(self, config: Mapping[str, Any]) -> None:
        """Send it its configuration, upon which it becomes ready; from now on it must be heard."""
        self.last_beat = time.monotonic()
        await self.send(Frame({"type": "config", "config": dict(config)}))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.returncode is None

    @property
    def ready(self) -> bool:
        """Whether it has said that it can work, and still runs."""
        return self.card is not None and self._process.returncode is None

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
        if self._process.returncode is None:
            self.killed_for = self.killed_for or reason
            self._process.send_signal(signal.SIGKILL)

    async def ended(self) -> str:
        """Wait for its end, after which no frame comes any more; how it ended, and why if it was our doing."""
        status = await self._process.wait()
        await self._hearing
        self._writer.close()
        await asyncio.wait({self._logging}, timeout=1.0)
        self._logging.cancel()
        said = describe_status(status)
        return f"{said}: {self.killed_for}" if self.killed_for else said

    async def close(self) -> None:
        """Kill it and let go of its pipes, without listening to what it still has to say."""
        self.kill("the supervisor ends")
        await self._process.wait()
        # Its standard error must be read to the end, or the pipe's transport outlives the loop.
        await asyncio.wait({self._logging}, timeout=1.0)
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

    async def _pass_on_log(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readuntil(b"\n")
            except asyncio.IncompleteReadError as last:
                line = last.partial
            except asyncio.LimitOverrunError as long:
                line = await self._process.stderr.readexactly(long.consumed)
            if not line:
                return
            _log_line(line.decode(errors="replace").rstrip(), self._process.pid)


def _log_line(line: str, pid: int) -> None:
    """A line of the engine's log in ours: JSON with its fields, anything else (a dying library) as it is."""
    try:
        fields = json.loads(line)
        level, event = fields.pop("level"), fields.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        log.warning("engine_output", engine=pid, line=line)
        return
    log.log(logging.getLevelNamesMapping().get(str(level).upper(), logging.INFO), event, engine=pid, **fields)
