"""`python -m service`: the HTTP service as a process of its own, by the settings in the environment."""

from __future__ import annotations

import os
import signal
import socket
import sys

import structlog
import uvicorn
from pydantic import ValidationError

from convscope import logs
from convscope.parent import die_with_parent_if_asked
from convscope.settings import SETTINGS_REFUSED, Settings, said
from service.app import create_app
from service.http.connections import Connection
from service.memory import return_freed_memory

DRAIN_S = 8
"""How long requests may take to come to their end when the service stops; the process is gone within 10 s."""
BACKLOG = 2048

log = structlog.get_logger("service")


class Server(uvicorn.Server):
    """Uvicorn that tells waiting requests and event streams to come to their end before it waits for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, wake what waits, wait for it."""
        log.info("stopping")
        context = getattr(self.config.app.state, "context", None)  # type: ignore[union-attr]
        if context is not None:
            context.stopping.set()
        await super().shutdown(sockets)


def server(settings: Settings) -> Server:
    """A server of the application, not yet started; one of its own sockets has to be given to it."""
    config = uvicorn.Config(
        create_app(settings),
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
        timeout_keep_alive=30,
        backlog=BACKLOG,
        lifespan="on",
        ws="none",
    )
    return Server(config)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: the address cannot be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    if not die_with_parent_if_asked():
        return 1
    os.umask(0o077)  # what it stores is for its user
    return_freed_memory()
    try:
        settings = Settings()
        if (trouble := settings.identity_trouble or settings.exposure_trouble) is not None:
            raise ValueError(trouble)
        serving = server(settings)
    except ValidationError as error:
        print(f"convscope api: {said(error)}", file=sys.stderr)
        return SETTINGS_REFUSED
    except (ValueError, OSError) as error:
        print(f"convscope api: {error}", file=sys.stderr)
        return SETTINGS_REFUSED
    logs.configure(settings.log_level, settings.log_format)

    def stop(*_: object) -> None:
        serving.should_exit = True

    # Uvicorn has handlers of its own while it serves. These are for a signal that comes before, and for the one that it
    # sends itself again when it has stopped, which must not turn the exit status into an accident.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        log.error("cannot_listen", host=settings.host, port=settings.port, reason=error.strerror)
        return 1
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log.info(f"listening on {address}", address=address, pid=os.getpid())
    serving.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
