"""How the asynchronous client waits and computes aside, under asyncio and trio alike. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

P = ParamSpec("P")
T = TypeVar("T")


async def sleep(seconds: float) -> None:
    """Wait so many seconds."""
    await anyio.sleep(seconds)


async def aside(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call a function that reads files or packs pixels, without holding up the event loop."""
    return await anyio.to_thread.run_sync(partial(function, *arguments, **named))
