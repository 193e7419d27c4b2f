"""The client that users make: a service's address, a key, and everything that the service does."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

import httpx2

from convscope_client._async.operations import AsyncOperations
from convscope_client._async.sender import AsyncSender
from convscope_client.version import __version__

URL = "http://127.0.0.1:8000"


class AsyncClient(AsyncOperations):
    """A running Convscope.

    Args:
        url: its address; without it what CONVSCOPE_URL names, else http://127.0.0.1:8000.
        key: the caller's key, where the service wants one; without it what CONVSCOPE_API_KEY holds.
        patience_s: how many seconds one call goes on trying when the service is away, restarts or has no room; 0 tries
            once. A service that has never answered this client is not waited for, see `wait_until_ready`.
        transport: httpx2's transport, for what its ordinary one does not do.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        patience_s: float = 60.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._sender = AsyncSender(
            url or os.environ.get("CONVSCOPE_URL") or URL,
            key or os.environ.get("CONVSCOPE_API_KEY"),
            agent=f"convscope-client/{__version__}",
            patience_s=patience_s,
            transport=transport,
        )

    @property
    def url(self) -> str:
        """The service's address."""
        return self._sender.url

    async def aclose(self) -> None:
        """Close the connections."""
        await self._sender.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
