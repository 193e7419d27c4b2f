"""One engine's process, from the moment it is forked: its log, its configuration, its loop. It never returns."""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import threading
import time
from typing import Any

import torch

from workers.engine.loader import open_networks
from workers.engine.loop import Engine
from workers.engine.outbox import Outbox
from workers.engine.registry import find_methods
from workers.engine.reports import device_name
from workers.engine_config import EngineConfig
from workers.wire import Channel

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


def log_as_json() -> None:
    """Have this process and those forked from it log to standard error as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def run_engine(config: EngineConfig, sock: socket.socket) -> None:
    """Work until the supervisor is gone, then end the process.

    Args:
        config: of the engine.
        sock: this engine's own stream to its supervisor.
    """
    builder = _fork_builder(config)  # while there is one thread
    channel = Channel(sock)
    outbox = Outbox(channel)
    try:
        engine, card = _start(config, outbox, builder)
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


def _fork_builder(config: EngineConfig) -> Any:
    """What tries networks of the operator's own code apart, where the networks are of a kind that has any."""
    if config.catalogue is None:
        return None
    kind = getattr(importlib.import_module(config.networks.partition(":")[0]), "Builder", None)
    return None if kind is None else kind.fork()


def _start(config: EngineConfig, outbox: Outbox, builder: Any) -> tuple[Engine, dict[str, Any]]:
    """The engine, ready to work, and what it says of itself."""
    began = time.monotonic()
    device = choose_device(config.device)
    torch.set_num_threads(config.threads or len(os.sched_getaffinity(0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams and graphs are made on the current one
    choose_arithmetic()
    source = open_networks(config, str(device))
    if builder is not None:
        source.networks.use_builder(builder)
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


def choose_arithmetic() -> None:
    """Float32 through and through, the same each time; `fast` switches what it wants for itself."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def choose_device(name: str) -> torch.device:
    """The torch device of a setting.

    Raises:
        RuntimeError: the setting names a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"the device {name} was asked for, and no CUDA device can be used here")
    return device


def _read(channel: Channel, engine: Engine) -> None:
    """Move frames to the inbox. The end of the stream is the end of the supervisor, and of this process."""
    try:
        while (frame := channel.receive()) is not None:
            engine.inbox.put(frame)
    except Exception:
        log.exception("the supervisor's stream cannot be read")
    os._exit(0)
