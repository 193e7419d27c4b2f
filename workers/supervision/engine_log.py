"""What an engine's process writes to its standard error, passed on to our log."""

from __future__ import annotations

import asyncio
import json
import logging

import structlog

log = structlog.get_logger(__name__)

LINE_LIMIT_BYTES = 1 << 20


async def pass_on_log(reader: asyncio.StreamReader, pid: int) -> None:
    """Log every line until the process has closed the stream."""
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as last:
            line = last.partial
        except asyncio.LimitOverrunError as long:
            line = await reader.readexactly(long.consumed)
        except ConnectionError:
            return
        if not line:
            return
        _log_line(line.decode(errors="replace").rstrip(), pid)


def _log_line(line: str, pid: int) -> None:
    """A line of the engine's log in ours: JSON with its fields, anything else (a dying library) as it is."""
    try:
        fields = json.loads(line)
        level, event = fields.pop("level"), fields.pop("event")
    except (ValueError, KeyError, AttributeError, TypeError):
        log.warning("engine_output", engine=pid, line=line)
        return
    log.log(logging.getLevelNamesMapping().get(str(level).upper(), logging.INFO), event, engine=pid, **fields)
