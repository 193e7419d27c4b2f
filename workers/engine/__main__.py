"""The engine process: `python -m workers.engine --socket FD`. Its supervisor speaks first, with the configuration.

It dies with its supervisor: by the kernel's signal, and when the socket closes.

Import rule: as the package.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

PR_SET_PDEATHSIG = 1

log = logging.getLogger("workers.engine")


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line, with whatever was given as `extra`; the supervisor passes them on."""

    _plain = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in self._plain},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the supervisor ends; end now if it has already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """Run one engine until its supervisor is gone."""
    parser = argparse.ArgumentParser(prog="workers.engine", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="inherited file descriptor of the socket")
    parser.add_argument("--parent", type=int, required=True, help="process id of the supervisor")
    parser.add_argument("--preload", action="store_true", help="import everything before waiting for the configuration")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    # Stopping is the supervisor's decision: Ctrl-C reaches the whole process group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # cuBLAS gives the same bits only with a workspace of its own; read when the library starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    from workers.engine.config import EngineConfig
    from workers.engine.outbox import Outbox
    from workers.engine.wire import Channel

    if arguments.preload:
        preload()
    channel = Channel(socket.socket(fileno=arguments.socket))
    first = channel.receive()
    if first is None or first.type != "config":
        sys.exit("the supervisor did not send a configuration")
    config = EngineConfig(**first.header["config"])
    outbox = Outbox(channel)
    try:
        engine, card = start(config, outbox)
    except Exception as error:
        log.exception("the engine cannot start")
        outbox.say("unready", reason=f"{type(error).__name__}: {error}")
        outbox.flush(5.0)
        os._exit(3)
    threading.Thread(target=_read, args=(channel, engine), name="reader", daemon=True).start()
    outbox.say("ready", **card)
    try:
        engine.forever()
    except BaseException:
        log.exception("the engine's loop ended")
        os._exit(4)


def preload() -> None:
    """Import what nearly every engine needs, which takes seconds, and touch no device."""
    import timm
    import torchvision

    import workers.networks
    from workers.engine.loop import Engine
    from workers.engine.registry import find_methods

    find_methods()
    del timm, torchvision, workers.networks, Engine


def start(config: Any, outbox: Any) -> tuple[Any, dict[str, Any]]:
    """The engine, ready to work, and what it says of itself."""
    import torch

    from workers.engine.loader import open_networks
    from workers.engine.loop import Engine
    from workers.engine.registry import find_methods
    from workers.engine.reports import device_name

    began = time.monotonic()
    device = choose_device(config.device)
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    # `exact` is float32 through and through; `fast` switches what it wants for itself.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    source = open_networks(config, str(device))
    methods = find_methods(config.methods)
    engine = Engine(config, device, source, methods, outbox)
    card = {
        "pid": os.getpid(),
        "device": device_name(device),
        "torch": str(torch.__version__),
        "code": source.code,
        "environment": source.networks.environment(),
        "operations": sorted(methods),
    }
    log.info("the engine is ready", extra={"seconds": round(time.monotonic() - began, 2), "device": card["device"]})
    return engine, card


def choose_device(name: str) -> Any:
    """The torch device of a setting.

    Raises:
        RuntimeError: the setting names a device that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"the device {name} was asked for, and no CUDA device can be used here")
    return device


def _read(channel: Any, engine: Any) -> None:
    """Move frames to the inbox. The end of the stream is the end of the supervisor, and of this process."""
    try:
        while (frame := channel.receive()) is not None:
            engine.inbox.put(frame)
    except Exception:
        log.exception("the supervisor's stream cannot be read")
    os._exit(0)


if __name__ == "__main__":
    main()
