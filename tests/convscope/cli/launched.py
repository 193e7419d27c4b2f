"""A launcher run by a test as a real process, on a data folder of its own, with everything that it starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self, TypeVar

import httpx2
import psutil

STANDINS = Path(__file__).with_name("standins")
WITH_STANDINS = f"{STANDINS}{os.pathsep}{Path(__file__).parents[3]}"
"""Search path on which the stand-ins come before the real parts."""
DEADLINE_S = 60.0
T = TypeVar("T")


def wait_until(look: Callable[[], T], deadline_s: float = DEADLINE_S, what: str = "") -> T:
    """Poll until `look` gives something true, and return it."""
    give_up = monotonic() + deadline_s
    while not (seen := look()):
        assert monotonic() < give_up, f"waited {deadline_s} s in vain: {what or look}"
        sleep(0.05)
    return seen


class Launched:
    """`convscope serve` on `data`; whatever it leaves behind is killed at the end and fails nothing by itself."""

    def __init__(
        self, data: Path, *flags: str, standins: bool = True, folder: Path | None = None, **variables: str
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVSCOPE_")}
        if standins:
            environment["PYTHONPATH"] = WITH_STANDINS
        command = [sys.executable, "-P", "-m", "convscope.cli", "serve", "--data", str(data), "--port", "0", *flags]
        self.process = subprocess.Popen(
            command,
            env={**environment, **variables},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._seen: dict[int, psutil.Process] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = self.family()
        self.process.kill()
        self.process.wait()
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._reader.join(5)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def address(self) -> str:
        """Where it listens; waits until it says so."""

        def said() -> str | None:
            assert self.process.poll() is None or self._line("Convscope listens on"), self.output
            return self._line("Convscope listens on")

        return wait_until(said, what="the launcher's word that it listens").split()[-1]

    def _line(self, start: str) -> str | None:
        return next((line for line in self.lines if line.startswith(start)), None)

    def family(self) -> list[psutil.Process]:
        """Every process below the launcher, remembered even when it has lost its parent since."""
        try:
            for one in psutil.Process(self.process.pid).children(recursive=True):
                self._seen[one.pid] = one
        except psutil.NoSuchProcess:
            pass
        return list(self._seen.values())

    def member(self, word: str) -> psutil.Process:
        """The child whose command line has that word."""

        def found() -> psutil.Process | None:
            for one in self.family():
                try:
                    command = " ".join(one.cmdline())
                except psutil.Error:
                    continue
                if word in command and "convscope/parent.py" not in command:
                    return one
            return None

        return wait_until(found, what=f"a process {word}")

    def living(self) -> list[psutil.Process]:
        """Those of the family that still run."""
        return [one for one in self.family() if alive(one)]

    def readiness(self) -> dict[str, Any]:
        body: dict[str, Any] = httpx2.get(f"{self.address}/readyz", trust_env=False).json()
        return body

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Its exit status, once it has ended and its output is read."""
        status = self.process.wait(deadline_s)
        self._reader.join(5)
        return status


def alive(process: psutil.Process) -> bool:
    """Whether a process runs and is no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
