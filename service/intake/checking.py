"""Where bodies are read and validated: small ones on the event loop, large ones one after the other in a thread.

One thread, since such work holds the interpreter: with several, the event loop would have to wait for all of them in
turn each time it wants to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

INLINE_BYTES = 32 * 1024
"""Text of less is read more quickly than handed to a thread."""

_thread = ThreadPoolExecutor(1, thread_name_prefix="check")


async def checked(size: int, work: Callable[[], T]) -> T:
    """What `work` returns or raises, which reads so many bytes of text."""
    if size <= INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_thread, work)
