"""Networks of somebody's own code are tried in a process apart before they are built where others compute.

A factory may end its process, hang, or eat memory. The builder is forked from the engine while that has one thread and
no device; for each network it forks a keeper, and the keeper forks a process that imports, builds and runs the network
once. Whatever that does, the engine hears how it went.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import tomllib
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from workers.contract import MethodError

TRIES = 3
LIMIT_S = 25.0
"""For one try of a network. A request waits 30 s for a network to be described."""

_LINE_BYTES = 1 << 16
_LOOK_S = 0.02
_ANSWER_BYTES = 4096


@dataclass(frozen=True)
class TrialOrder:
    """What is to be tried: a network of the operator's catalogue, or the import of a module, within so much memory.

    Attributes:
        model, catalogue, weights_folder: the network, and where it is described.
        uploaded: instead, the description of a network that a caller brought.
        module, folder: instead, a module, and the folder beside which it may lie.
    """

    memory_bytes: int
    model: str = ""
    catalogue: str = ""
    weights_folder: str = ""
    uploaded: str = ""
    module: str = ""
    folder: str | None = None
    limit_s: float = LIMIT_S


class Builder:
    """The process that tries networks, as the engine sees it. May be asked from several threads at once."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self.pid = pid

    @classmethod
    def fork(cls) -> Builder:
        """A new one; to be called while this process has one thread and has not touched a device."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _end_after(lambda: _serve(parent, ours, theirs))
        theirs.close()
        return cls(ours, pid)

    def died(self, order: TrialOrder) -> str | None:
        """Try a network; why it died each time, or None where it lived, be it that it was refused in the ordinary way.

        Raises:
            OSError: the builder has ended.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock:
                socket.send_fds(self._sock, [json.dumps(vars(order)).encode()], [theirs.fileno()])
            answer = b""
            while part := ours.recv(_ANSWER_BYTES):
                answer += part
        if not answer:
            raise OSError("the process that tries networks gave no answer")
        reason: str | None = json.loads(answer)["died"]
        return reason


def _end_after(work: Callable[[], None]) -> NoReturn:
    """Do the work of a forked process and end it, whatever happens: nothing of its parent's may go on in it."""
    try:
        work()
    except BaseException:  # noqa: BLE001  (said, and the end of this process)
        traceback.print_exc()
        os._exit(1)
    finally:
        os._exit(0)


def _die_with(parent: int) -> bool:
    """Have the kernel end this process when its parent ends; false where it has."""
    from convscope.parent import die_with  # here, since the networks alone need nothing of convscope

    return die_with(parent, signal.SIGKILL)


def _serve(parent: int, engine: socket.socket, control: socket.socket) -> None:
    """Fork a keeper for each order until the engine is gone."""
    if not _die_with(parent):
        return
    engine.close()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    _prepare()
    own = os.getpid()
    while True:
        line, descriptors, _, _ = socket.recv_fds(control, _LINE_BYTES, 1)
        if not line:
            return
        answer = socket.socket(fileno=descriptors[0])
        if os.fork() == 0:
            control.close()
            _end_after(partial(_keep, own, TrialOrder(**json.loads(line)), answer))
        answer.close()


def _prepare() -> None:
    """What every try needs and takes seconds, once: the libraries' lists, and what torch imports at a first run."""
    from workers.networks.catalogue.builtin import builtin_entries
    from workers.networks.layers import describe, meta_copy
    from workers.networks.trials import try_out

    torch.set_num_threads(1)
    builtin_entries()

    def small() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 6 * 6, 2))

    describe(meta_copy(small), (8, 8))
    try_out("a small network", small().eval().requires_grad_(False), (8, 8), 3)


def _keep(parent: int, order: TrialOrder, answer: socket.socket) -> None:
    """Try the network up to three times; say how it went."""
    if not _die_with(parent):
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    began = time.monotonic()
    reason: str | None = None
    for _ in range(TRIES):
        reason = _once(order, time.monotonic() + order.limit_s)
        # Whoever asked waits: what took long to die is not tried again.
        if reason is None or time.monotonic() - began >= order.limit_s / 2:
            break
    answer.sendall(json.dumps({"died": reason}).encode())


def _once(order: TrialOrder, until: float) -> str | None:
    """One try in a process of its own; why it died, if it did."""
    said, saying = os.pipe()
    own = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(said)
        _end_after(lambda: _try(own, order, saying))
    os.close(saying)
    words = b""
    try:
        while True:
            if select.select([said], [], [], _LOOK_S)[0]:
                words += os.read(said, _ANSWER_BYTES)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                while part := os.read(said, _ANSWER_BYTES):
                    words += part
                return _verdict(words, os.waitstatus_to_exitcode(status))
            if _resident_bytes(pid) > order.memory_bytes:
                return _kill(pid, f"it took more than the {order.memory_bytes / 2**20:,.0f} MiB that it may")
            if time.monotonic() > until:
                return _kill(pid, f"it took longer than {order.limit_s:g} s")
    finally:
        os.close(said)


def _kill(pid: int, reason: str) -> str:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return reason


def _verdict(words: bytes, status: int) -> str | None:
    if words:
        reason: str | None = json.loads(words)["died"]
        return reason
    return f"it ended its process with signal {-status}" if status < 0 else f"it ended its process with exit {status}"


def _resident_bytes(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def _try(parent: int, order: TrialOrder, saying: int) -> None:
    """Import, build and run the network, and say so."""
    if not _die_with(parent):
        return
    # Memory that was asked for and not touched counts too: the engine would be refused it, or touch it.
    most = _data_bytes() + order.memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    torch.set_num_threads(1)
    died: str | None = None
    try:
        _build(order)
    except MethodError:
        pass  # refused in the ordinary way, as the engine will find for itself
    except MemoryError:
        died = _TOO_MUCH.format(order.memory_bytes / 2**20)
    except SystemExit as error:
        died = f"it ended its process with exit {error.code}"
    except Exception as error:  # noqa: BLE001  (the engine contains exceptions)
        if "allocate memory" in str(error) or "not enough memory" in str(error):
            died = _TOO_MUCH.format(order.memory_bytes / 2**20)
    sys.stdout.flush()
    os.write(saying, json.dumps({"died": died}).encode())


def _build(order: TrialOrder) -> None:
    from workers.networks.build import load_entry
    from workers.networks.card import make_card
    from workers.networks.catalogue.reading import make_entry
    from workers.networks.catalogue.uploaded import read_uploaded
    from workers.networks.sources.factories import import_module

    if order.module:
        import_module(order.module, None if order.folder is None else Path(order.folder))
        return
    if order.uploaded:
        entry = read_uploaded(Path(order.uploaded))
        load_entry(entry, Path(order.uploaded).parent, fetch=False)
        make_card(entry, "")  # runs it at other sizes as well
        return
    # This entry alone: what others name may die when it is imported.
    values = tomllib.loads(Path(order.catalogue).read_text(encoding="utf-8"))["networks"][order.model]
    weights_folder = Path(order.weights_folder)
    load_entry(
        make_entry(order.model, values, Path(order.catalogue).parent, weights_folder), weights_folder, fetch=False
    )


_TOO_MUCH = "it wants more than the {:,.0f} MiB that it may have"


def _data_bytes() -> int:
    """Of private memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def memory_allowed(budget: int) -> int:
    """Bytes that building a network may take: its weights, twice over, and no more than half of what is free."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return max(256 * 2**20, min(2 * budget + 2**30, free // 2))


class Deaths:
    """What died when it was tried, by the digest of its entry, kept on disk beside the cards.

    Args:
        folder: None keeps it in memory only.
        code: digest of our code and libraries; what died under another one is tried again.
    """

    def __init__(self, folder: Path | None, code: str) -> None:
        self._folder = folder
        self._code = code
        self._known: dict[str, str | None] = {}

    def of(self, digest: str) -> str | None:
        """Why it died; None where it did not, or was never tried."""
        if digest not in self._known and self._folder is not None:
            with suppress(OSError, ValueError, KeyError):
                self._known[digest] = str(json.loads(self._path(self._folder, digest).read_text())["died"])
        return self._known.get(digest)

    def tried(self, digest: str) -> bool:
        """Whether it was tried, by this process, or died before."""
        return self.of(digest) is not None or digest in self._known

    def note(self, digest: str, reason: str | None) -> None:
        """Write down how it went."""
        self._known[digest] = reason
        if reason is not None and self._folder is not None:
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._path(self._folder, digest).write_text(json.dumps({"died": reason}))

    def _path(self, folder: Path, digest: str) -> Path:
        return folder / f"died-{digest[:32]}-{self._code[:16]}.json"
