"""The one place where a connection to Redis or Valkey is made, and where its failures become problems."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)

from convscope.protocol.problems import ProblemError

BLOCK_MS = 2_000
"""Longest blocking read. Far below the socket timeout, else a quiet server would look like a dead one."""

SOCKET_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.0
RETRIES = 3
COMMAND_LIMIT_S = 8.0
"""Longest that one command may take with all its retries before its caller hears `queue-unavailable`."""
CONNECTIONS = 64

UNAVAILABLE = (ConnectionError, TimeoutError, ReadOnlyError, ClusterDownError)
"""What redis-py raises when the server cannot be reached, is loading its data, or is no longer the primary."""

OLD_SERVER = "Convscope needs Redis 7.0 or later, or any Valkey."
"""What is said of a server that does not know what a script's first line means."""

REFUSING = ("MISCONF", "NOREPLICAS", "BUSY", "TRYAGAIN", "MASTERDOWN")
"""First words of replies of a server that is there but takes no writes now: a full disk, too few replicas."""


def connect(url: str, *, blocking: bool = False) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://` URLs (password and database in the URL); connects at first use.

    Replies are decoded to str. An ordinary client repeats a command up to RETRIES times when its connection fails, so
    whatever is sent must be safe to send twice. A `blocking` client has one connection and repeats nothing: it is for
    blocking reads, whose reader starts again by itself.
    """
    retry = Retry(NoBackoff(), 0) if blocking else Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), RETRIES)
    pool = BlockingConnectionPool.from_url(
        url.replace("valkey+unix://", "unix://", 1),
        max_connections=1 if blocking else CONNECTIONS,
        timeout=SOCKET_TIMEOUT_S,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=retry,
        decode_responses=True,
        health_check_interval=0,
        driver_info=None,  # two answers fewer to wait for: on a slow line no new connection would ever be ready in time
    )
    return Redis.from_pool(pool)


def heed_cancellation(before: int = 0) -> None:
    """End the current task where it has been cancelled more than `before` times and nobody has noticed.

    redis-py sends through `asyncio.wait_for`, which on Python 3.11 forgets a cancellation that comes together with the
    end of what it waits for. A task that reads for ever would then never stop.

    Raises:
        asyncio.CancelledError: it has been.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


@asynccontextmanager
async def guarded(limit_s: float = COMMAND_LIMIT_S) -> AsyncIterator[None]:
    """Turns the failures of a server into problems, and ends what takes longer than `limit_s` seconds.

    Raises:
        ProblemError: `queue-unavailable` when the server cannot be reached or does not answer; `queue-full` when its
            memory is used up.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        async with asyncio.timeout(limit_s):
            yield
            heed_cancellation(before)
    except OutOfMemoryError as error:
        raise ProblemError("queue-full", "The queue's memory is used up.", retry_after_s=10.0) from error
    except (*UNAVAILABLE, OSError) as error:
        # asyncio's timeout is an OSError since Python 3.11.
        raise ProblemError(
            "queue-unavailable", f"The queue cannot be reached: {type(error).__name__}.", retry_after_s=2.0
        ) from error
    except ResponseError as error:
        if str(error).startswith("Error compiling script"):  # "unexpected symbol near '#'", says Redis 6.2 of the flags
            raise ProblemError(
                "queue-unavailable", f"The queue's server cannot read its scripts. {OLD_SERVER}", retry_after_s=60.0
            ) from error
        if not str(error).startswith(REFUSING) and getattr(error, "status_code", None) not in REFUSING:
            raise
        raise ProblemError("queue-unavailable", "The queue takes no writes now.", retry_after_s=5.0) from error
