"""The process that engines are forked from: `python -m workers.engine --socket FD --parent PID`.

Importing torch takes seconds; a process that has done so forks an engine that works in a tenth of one. It computes
nothing itself, touches no device and has one thread, so that a fork of it is whole. See docs/decisions/0006.

Lines of JSON over the socket. From the supervisor: the configuration, then `{"fork": true}` with two descriptors (the
engine's socket, its standard error) and `{"kill": PID}`. To it: `{"loaded": seconds}`, `{"forked": PID}` or
`{"refused": why}`, and `{"ended": PID, "status": N}`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any, NoReturn

from convscope.parent import die_with
from workers.engine.environment import compile_kernels, prepare_process
from workers.engine_config import EngineConfig

_NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"

LINE_BYTES = 1 << 16
"""Longest line that the supervisor sends."""


def main() -> None:
    """Load what engines need, then fork them until the supervisor is gone."""
    parser = argparse.ArgumentParser(prog="workers.engine", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="inherited file descriptor of the socket")
    parser.add_argument("--parent", type=int, required=True, help="process id of the supervisor")
    arguments = parser.parse_args()
    if not die_with(arguments.parent, signal.SIGKILL):
        return
    # Stopping is the supervisor's decision: Ctrl-C reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A library that asks on import whether there is a GPU must not start the driver, which no fork survives.
    os.environ[_NVML_CHECK] = "1"
    ForkServer(socket.socket(fileno=arguments.socket)).serve()


class ForkServer:
    """Forks engines and tells how they ended.

    Args:
        control: connected to the supervisor.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._unread = b""
        self._descriptors: list[int] = []
        self._living: set[int] = set()
        self._config: EngineConfig | None = None
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> NoReturn:
        """Do as the supervisor says until its end of the socket is closed, which ends every engine, too."""
        while True:
            ready, _, _ = select.select([self._control, self._wake], [], [])
            if self._wake in ready:
                self._wake.recv(LINE_BYTES)
                self._reap()
            if self._control in ready and not self._receive():
                sys.exit()

    def _receive(self) -> bool:
        """Read what has come and do it; false at the end."""
        data, descriptors, _, _ = socket.recv_fds(self._control, LINE_BYTES, 2)
        self._descriptors += descriptors
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return bool(data)

    def _obey(self, order: dict[str, Any]) -> None:
        match order:
            case {"config": config}:
                self._load(EngineConfig(**config))
            case {"fork": _}:
                self._fork()
            case {"kill": pid} if pid in self._living:  # else it has ended, and the number may be another process's
                os.kill(pid, signal.SIGKILL)

    def _load(self, config: EngineConfig) -> None:
        """Import what nearly every engine of this configuration needs."""
        began = time.monotonic()
        prepare_process(config.state_folder)
        try:
            from workers.engine.process import log_as_json
            from workers.engine.registry import find_methods

            importlib.import_module(config.networks.partition(":")[0])
            find_methods(config.methods)
            compile_kernels()
        except Exception as error:
            self._say(refused=f"{type(error).__name__}: {error}")
            raise
        log_as_json()
        # What is there now stays; a collection in an engine that looked at it would copy every page.
        gc.collect()
        gc.freeze()
        self._config = config
        self._say(loaded=round(time.monotonic() - began, 2))

    def _fork(self) -> None:
        """Fork an engine; this process keeps nothing of it but its number."""
        assert self._config is not None
        sock, standard_error = self._descriptors
        self._descriptors = []
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._say(refused=str(error))
        else:
            if pid == 0:
                self._become_engine(parent, sock, standard_error)
            self._living.add(pid)
            self._say(forked=pid)
        os.close(sock)
        os.close(standard_error)

    def _become_engine(self, parent: int, sock: int, standard_error: int) -> NoReturn:
        """Be the child: let go of everything of the fork server, then run the engine."""
        assert self._config is not None
        try:
            if not die_with(parent, signal.SIGKILL):
                os._exit(0)
            os.environ.pop(_NVML_CHECK, None)  # an engine needs to know whether CUDA itself works
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self._control, self._wake, self._woken):
                end.close()
            os.dup2(standard_error, sys.stderr.fileno())
            os.close(standard_error)
            from workers.engine.process import run_engine

            run_engine(self._config, socket.socket(fileno=sock))
        except BaseException:  # noqa: BLE001  (said, and the end of this process)
            traceback.print_exc()
        finally:
            os._exit(5)  # whatever happened, there is one fork server

    def _reap(self) -> None:
        for pid in sorted(self._living):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._living.discard(pid)
                self._say(ended=pid, status=os.waitstatus_to_exitcode(status))

    def _say(self, **words: Any) -> None:
        try:
            self._control.sendall(json.dumps(words).encode() + b"\n")
        except OSError:
            sys.exit()  # the supervisor is gone


if __name__ == "__main__":
    main()
