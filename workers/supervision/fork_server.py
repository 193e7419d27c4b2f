"""The fork server as its supervisor sees it: started, told to fork, heard of its engines' ends, ended."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import structlog

from workers.supervision.engine_log import LINE_LIMIT_BYTES, pass_on_log
from workers.supervision.tasks import end_tasks

log = structlog.get_logger(__name__)

LOAD_LIMIT_S = 300.0
FORK_LIMIT_S = 30.0
LAST_STEPS_S = 1.0
KILLED = -9
"""The status of an engine whose fork server ended: the kernel kills it then."""


class ForkServerError(Exception):
    """No engine can be forked; the text says why."""


@dataclass(frozen=True)
class Forked:
    """A new engine's process.

    Attributes:
        pid: its process id.
        status: is set to its exit status, negative for a signal, when it has ended.
        sock: our end of its socket.
        standard_error: our end of its standard error.
    """

    pid: int
    status: asyncio.Future[int]
    sock: socket.socket
    standard_error: socket.socket


class ForkServerProcess:
    """One fork server, from its start to its end; a new one is a new object.

    Args:
        config: of its engines, as JSON.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._loaded = False
        self._orders, self._theirs = socket.socketpair()
        self._orders.setblocking(False)
        self._answering: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._living: dict[int, asyncio.Future[int]] = {}

    @property
    def ready(self) -> bool:
        """Whether it has loaded what engines need, and still runs."""
        return self._loaded and self._process is not None and self._process.returncode is None

    @property
    def process_id(self) -> int | None:
        """Its process id, once it has been started."""
        return self._process.pid if self._process is not None else None

    async def load(self) -> None:
        """Start the process and wait until it has imported what engines need.

        Raises:
            ForkServerError: it cannot be started, cannot import, ended, or was killed because it took too long.
        """
        with self._theirs:
            command = ["-m", "workers.engine", "--socket", str(self._theirs.fileno()), "--parent", str(os.getpid())]
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *command,
                    pass_fds=[self._theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    limit=LINE_LIMIT_BYTES,
                    env=without_credentials(os.environ),
                )
            except OSError as error:
                raise ForkServerError(f"the system gives it no process: {error}") from error
        assert self._process.stderr is not None
        reader, self._answering = await asyncio.open_unix_connection(sock=self._orders.dup())
        self._tasks = [
            asyncio.create_task(self._hear(reader, self._process), name="fork server"),
            asyncio.create_task(pass_on_log(self._process.stderr, self._process.pid), name="fork server log"),
        ]
        loaded = await self._ask({"config": dict(self._config)}, [], LOAD_LIMIT_S)
        self._loaded = True
        log.info("fork_server_ready", pid=self._process.pid, seconds=loaded["loaded"])

    async def fork(self) -> Forked:
        """A new engine.

        Raises:
            ForkServerError: the server has ended, does not answer, or the system gives it no process.
        """
        with ExitStack() as ours_if_it_fails, ExitStack() as theirs:
            try:
                pairs = socket.socketpair(), socket.socketpair()
            except OSError as error:
                raise ForkServerError(f"the system gives it no socket: {error}") from error
            for our_end, their_end in pairs:
                ours_if_it_fails.enter_context(our_end)
                theirs.enter_context(their_end)
            answer = await self._ask({"fork": True}, [end.fileno() for _, end in pairs], FORK_LIMIT_S)
            ours_if_it_fails.pop_all()
            return Forked(answer["forked"], answer["status"], pairs[0][0], pairs[1][0])

    def kill(self, pid: int) -> None:
        """Have an engine killed; nothing happens if it has ended."""
        if pid in self._living and self.ready:
            self._order({"kill": pid}, [])

    def end(self) -> None:
        """Kill the process, and with it every engine."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def close(self) -> None:
        """End it and let go of its pipes."""
        self.end()
        if self._process is not None:
            await self._process.wait()
        # What it wrote to its standard error must be read to the end, or the pipe's transport outlives the loop.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_STEPS_S)
        await end_tasks(self._tasks)
        if self._answering is not None:
            self._answering.close()
        self._orders.close()

    async def _ask(self, order: Mapping[str, Any], descriptors: list[int], limit_s: float) -> dict[str, Any]:
        """Send an order and wait for its answer."""
        self._order(order, descriptors)
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._answers.get()
        except TimeoutError:
            self.end()
            raise ForkServerError(f"no answer within {limit_s:g} s") from None
        if answer is None:
            self._answers.put_nowait(None)
            assert self._process is not None
            raise ForkServerError(f"it ended: {describe_status(await self._process.wait())}")
        if "refused" in answer:
            raise ForkServerError(str(answer["refused"]))
        return answer

    def _order(self, order: Mapping[str, Any], descriptors: list[int]) -> None:
        try:
            socket.send_fds(self._orders, [json.dumps(order).encode() + b"\n"], descriptors)
        except OSError as error:
            log.info("fork_server_does_not_listen", error=str(error))

    async def _hear(self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        """Pass on what it says until it ends; then its engines have ended, too."""
        try:
            while line := await reader.readline():
                said = json.loads(line)
                if "ended" in said:
                    self._living.pop(said["ended"]).set_result(said["status"])
                    continue
                if "forked" in said:
                    # Goes with the answer: the engine may have ended before that is read.
                    said["status"] = self._living[said["forked"]] = asyncio.get_running_loop().create_future()
                self._answers.put_nowait(said)
        except ConnectionError:
            pass  # it ended with an order unread
        except (ValueError, KeyError) as error:
            log.error("fork_server_speaks_nonsense", error=repr(error))
            self.end()
        with suppress(TimeoutError):  # it has closed its socket because it ends
            await asyncio.wait_for(process.wait(), LAST_STEPS_S)
        self.end()
        await process.wait()
        self._answers.put_nowait(None)
        for status in self._living.values():
            status.set_result(KILLED)
        self._living.clear()


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that has no business with the queue or the store."""
    secret = ("CONVSCOPE_REDIS_URL", "CONVSCOPE_ARTIFACTS_URL", "AWS_", "AZURE_", "GOOGLE_")
    return {name: value for name, value in environment.items() if not name.startswith(secret)}


def describe_status(status: int) -> str:
    """How a process ended: `signal 9`, `exit 139`."""
    return f"signal {-status}" if status < 0 else f"exit {status}"
