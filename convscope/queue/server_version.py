"""Which server the queue speaks to, and whether it is recent enough for the scripts."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from convscope.protocol.problems import ProblemError
from convscope.queue.connection import OLD_SERVER, guarded

LEAST = (7, 0)
"""Of Redis: its first version that reads the flags of a script. Every Valkey began later."""


@dataclass(frozen=True)
class ServerVersion:
    """A server's name and version, as it tells them."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def enough(self) -> bool:
        """Whether the scripts run on it; assumed of a version that is not made of numbers."""
        if self.name != "Redis":
            return True
        major, _, rest = self.version.partition(".")
        numbers = (major, rest.partition(".")[0] or "0")
        return not all(number.isdecimal() for number in numbers) or tuple(map(int, numbers)) >= LEAST

    @property
    def trouble(self) -> str:
        """What is wrong with a server that is too old, and what would be right."""
        return f"The queue's server is {self}. {OLD_SERVER}"


async def read_version(redis: Redis) -> ServerVersion | None:
    """The server's version; nothing, where it does not tell.

    Raises:
        ProblemError: `queue-unavailable`.
    """
    try:
        async with guarded():
            told = await redis.info("server")
    except ResponseError:  # INFO is not for everyone on some managed servers
        return None
    if "valkey_version" in told:
        return ServerVersion("Valkey", str(told["valkey_version"]))
    return ServerVersion("Redis", str(told["redis_version"])) if "redis_version" in told else None


async def refuse_old_server(redis: Redis) -> ServerVersion | None:
    """As `read_version`, for those who cannot work with an old server.

    Raises:
        ProblemError: `queue-unavailable`, also where the server is too old: with its version and the least that is
            needed.
    """
    found = await read_version(redis)
    if found is not None and not found.enough:
        raise ProblemError("queue-unavailable", found.trouble, retry_after_s=60.0)
    return found
