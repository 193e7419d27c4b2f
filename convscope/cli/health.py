"""`convscope health`: whether a part that runs on this machine is well, as an exit status; what containers ask."""

from __future__ import annotations

import asyncio
import socket

import httpx2

from convscope.cli.flags import Chosen
from convscope.cli.serve import address_of
from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.stats import read_workers

TIMEOUT_S = 5.0


def api_health(chosen: Chosen) -> str | None:
    """What is wrong with the service of this machine; nothing, when it lives.

    It is not asked whether it is ready: to start it again would not bring back a queue or a store that is away.
    """
    address = address_of(chosen.settings.host, chosen.settings.port)
    try:
        answer = httpx2.get(f"{address}/livez", timeout=TIMEOUT_S, trust_env=False)
    except httpx2.TransportError as error:
        return f"{address} does not answer: {error}"
    return None if answer.status_code == 200 else f"{address}/livez answers {answer.status_code}"


def worker_health(chosen: Chosen) -> str | None:
    """What is wrong with the worker of this machine; nothing, when its heart has beaten lately."""
    url = chosen.settings.redis_url
    if not url:
        return "the queue is not named: --redis-url or CONVSCOPE_REDIS_URL"
    try:
        hosts = asyncio.run(_hosts_of_workers(url))
    except (ProblemError, TimeoutError) as error:
        return f"the queue cannot be asked: {error}"
    here = socket.gethostname()
    return None if here in hosts else f"no worker of {here} has said lately that it lives"


async def _hosts_of_workers(url: str) -> set[str]:
    async with asyncio.timeout(TIMEOUT_S), connect(url) as redis:
        return {worker.host for worker in await read_workers(redis)}
