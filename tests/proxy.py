"""A small TCP proxy before a server, to lose its answers, delay them, cut everything off, or lead to another server."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class FaultyProxy:
    """Forwards connections from a port of 127.0.0.1 to a unix socket, or to a port of 127.0.0.1.

    Attributes:
        target: where to; connections that are made from now on go there.
        lose_answers: so many of the next answers are thrown away, each with its connection.
        delay_s: every answer is held back for so long.
        lost: answers thrown away so far.
    """

    def __init__(self, target: str | int) -> None:
        self.target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.lose_answers = 0
        self.delay_s = 0.0
        self.lost = 0
        self._open = asyncio.Event()
        self._open.set()

    def black_hole(self, on: bool) -> None:
        """Forward nothing, though connections are accepted; or go on, with what was held back."""
        if on:
            self._open.clear()
        else:
            self._open.set()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    @property
    def url(self) -> str:
        """Where a client of the queue connects to."""
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await self._connect()
        except ConnectionError:
            writer.close()
            self._tasks.discard(task)
            return
        both = [
            asyncio.create_task(self._forward(reader, server_writer, answers=False)),
            asyncio.create_task(self._forward(server_reader, writer, answers=True)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            writer.close()
            server_writer.close()
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, int):
            return await asyncio.open_connection("127.0.0.1", self.target)
        return await asyncio.open_unix_connection(self.target)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(1 << 16):
            await self._open.wait()
            if answers and self.lose_answers > 0:
                self.lose_answers -= 1
                self.lost += 1
                return
            if answers and self.delay_s:
                await asyncio.sleep(self.delay_s)
            sink.write(data)
            await sink.drain()
