"""Child processes of the launcher: they die with it, are restarted when they die, and stop when they are told to.

It runs in the launcher's main thread, because the kernel sends the death signal when the thread that started a child
ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from convscope import parent
from convscope.backoff import Backoff

SHIM = Path(parent.__file__)
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
STEADY_S = 60.0
"""A child that lived this long starts again at the first backoff."""
LINE_LIMIT_BYTES = 1 << 20
REFUSED = 2
"""Exit status of a part that cannot start as it is told to (settings.SETTINGS_REFUSED): it is not started again."""

Output = Callable[[str, str], None]
"""Called with a child's name and one line of its output, or of what the launcher has to say about it."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules."""
    return [sys.executable, "-m", module, *arguments]


class Child:
    """One program that is kept running.

    Args:
        name: how messages call it.
        command: program and arguments.
        environment: its whole environment.
        output: receives its lines.
        at_launcher_death: the signal the kernel sends it when the launcher dies.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: Output,
        at_launcher_death: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.deaths = 0
        self.refused = False
        self.last_line = ""
        self.last_status: int | None = None
        self._command = list(command)
        self._environment = dict(environment)
        self._output = output
        self._at_launcher_death = at_launcher_death
        self._process: asyncio.subprocess.Process | None = None
        self._lines: BinaryIO | None = None
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()

    @property
    def running(self) -> bool:
        """Whether the program runs now."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    async def start(self) -> None:
        """Start the program, unless it runs already or has been told to stop."""
        shim = [sys.executable, "-I", "-S", str(SHIM), str(os.getpid()), str(int(self._at_launcher_death))]
        async with self._starting:
            if self.running or self._stopping.is_set():
                return
            # A pipe of our own: asyncio's would make wait() wait for whoever holds it, also for a grandchild.
            reading_end, writing_end = os.pipe()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *shim,
                    *self._command,
                    env=self._environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=writing_end,
                    stderr=asyncio.subprocess.STDOUT,
                    # Its own session: Ctrl-C reaches the launcher alone, which stops everything in order.
                    start_new_session=True,
                )
            finally:
                os.close(writing_end)
            self._lines = os.fdopen(reading_end, "rb", buffering=0)

    async def keep_running(self) -> None:
        """Pass on the program's output, and start it again, after a pause that grows, whenever it ends.

        Returns only when it was told to stop, or where the program at its first start refuses what it was told.
        """
        backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S)
        while True:
            started = monotonic()
            await self.start()
            if self._process is None:
                return
            await self._until_it_ends()
            if self._stopping.is_set():
                return
            self.deaths += 1
            if self.deaths == 1 and self.last_status == REFUSED:
                self.refused = True
                return
            if monotonic() - started > STEADY_S:
                backoff.reset()
            backoff_s = backoff.next_s()
            self._output(self.name, f"ended ({describe_status(self.last_status)}); starts again in {backoff_s:g} s")
            await asyncio.sleep(backoff_s)
            if self._stopping.is_set():
                return

    async def stop(self, patience_s: float) -> bool:
        """Ask the program to end with SIGTERM, and kill its whole session after `patience_s`.

        Returns:
            Whether it ended by itself.
        """
        self._stopping.set()
        async with self._starting:
            process = self._process
        if process is None or process.returncode is not None:
            return True
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), patience_s)
        except TimeoutError:
            self.kill()
            await process.wait()
            return False
        _kill_session(process.pid)
        return True

    def kill(self) -> None:
        """Kill the program and whatever it started in its session."""
        self._stopping.set()
        if self._process is not None:
            _kill_session(self._process.pid)

    async def _until_it_ends(self) -> None:
        process, lines = self._process, self._lines
        if process is None or lines is None:
            raise RuntimeError(f"{self.name} was never started")
        reading = asyncio.create_task(self._pass_on(lines))
        try:
            self.last_status = await process.wait()
            _kill_session(process.pid)
            # What it wrote last may still be in the pipe.
            await asyncio.wait({reading}, timeout=1.0)
        finally:
            reading.cancel()

    async def _pass_on(self, lines: BinaryIO) -> None:
        stream = asyncio.StreamReader(limit=LINE_LIMIT_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), lines)
        try:
            while line := await _read_line(stream):
                self.last_line = line.decode(errors="replace").rstrip("\r\n")
                self._output(self.name, self.last_line)
        finally:
            transport.close()


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    """The next line; a part of one that is longer than the limit; nothing at the end."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as last:
        return last.partial
    except asyncio.LimitOverrunError as long:
        return await stream.readexactly(long.consumed)


def _kill_session(leader: int) -> None:
    """Kill what is left of a child's session: what it started would fight with what its successor starts."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def describe_status(status: int | None) -> str:
    """An exit status in words: `exit 1`, `SIGKILL`."""
    if status is None:
        return "never started"
    if status < 0:
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"
    return f"exit {status}"
