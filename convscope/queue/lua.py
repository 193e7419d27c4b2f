"""Loads the Lua scripts beside this file and runs them, by SHA, on a server.

A script is its own file after `common.lua`, under the flags of its first line (`allow-oom`: may run when the server's
memory is used up).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from convscope.queue import keys
from convscope.queue.connection import guarded

_FOLDER = Path(__file__).with_name("scripts")
_CONSTANTS = (
    "EVENTS_KEPT",
    "CHANGES_KEPT",
    "DOORBELL_KEPT",
    "RUN_KEPT_MS",
    "CLAIM_KEPT_MS",
    "DRAINING_MS",
    "SAVED_WITHIN_MS",
    "WORKER_KEPT_MS",
    "CANCELLED_COUNTS_MS",
    "LEAST_CANCELLED",
    "AGED_COST",
    "AGED_SLOWEST",
    "PASSED_OVER",
    "TIME_BUCKETS_MS",
)
NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.lua") if path.stem != "common"))


def _lua(constant: int | tuple[int, ...]) -> str:
    return f"{{{', '.join(map(str, constant))}}}" if isinstance(constant, tuple) else str(constant)


@cache
def source(name: str) -> str:
    """The whole text of a script as the server gets it."""
    flags, _, body = (_FOLDER / f"{name}.lua").read_text("utf-8").partition("\n")
    constants = "\n".join(f"local {constant} = {_lua(getattr(keys, constant))}" for constant in _CONSTANTS)
    return "\n".join((flags, constants, (_FOLDER / "common.lua").read_text("utf-8"), body))


class Scripts:
    """The scripts on one server; a server that does not know a script (restarted, failed over) is sent its text."""

    def __init__(self, redis: Redis) -> None:
        self._scripts = {name: redis.register_script(source(name)) for name in NAMES}

    async def run(self, name: str, **args: str | int | float) -> Any:
        """Run a script with named arguments and return its reply.

        Raises:
            ProblemError: `queue-unavailable`, `queue-full`.
        """
        flat: list[str | int | float] = []
        for argument, value in args.items():
            flat += (argument, value)
        async with guarded():
            return await self._scripts[name](keys=[keys.PREFIX], args=flat)
