"""Logs of every process: one structured line an event, JSON or, on a terminal, for people."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from functools import cache
from typing import Any

import structlog

from convscope.lines import STANDARD_ERROR, LineWriter


def configure(level: str, log_format: str) -> None:
    """Send our lines and those of libraries to standard error, without ever waiting for whoever reads it.

    Args:
        level: least severe line that is written.
        log_format: json, console, or auto: for people on a terminal, else JSON.
    """
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        last: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    else:
        # Plain tracebacks: drawing boxes with every local in them would hold up the event loop for seconds.
        last = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    handler = logging.StreamHandler(standard_error(as_json))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_colour, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@cache
def standard_error(as_json: bool) -> LineWriter:
    """Standard error, for lines; one a process."""
    return LineWriter(STANDARD_ERROR, _dropped_as_json if as_json else _dropped_as_text)


def dropped() -> int:
    """Lines of this process that nobody read in time."""
    return sum(standard_error(as_json).dropped for as_json in (True, False))


def _dropped_as_json(lines: int) -> str:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    told = {"event": "log_lines_dropped", "lines": lines, "logger": __name__, "level": "warning", "timestamp": at}
    return json.dumps(told)


def _dropped_as_text(lines: int) -> str:
    return f"{lines} log lines were dropped, because nobody read them in time"


def _without_colour(_logger: Any, _method: str, event: Any) -> Any:
    event.pop("color_message", None)  # uvicorn's second copy of its message
    return event
