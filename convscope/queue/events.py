"""What happened to jobs, as it happens: a job's own events, the feed of changes, the workers' doorbell.

Each process has one background reader for a stream, however many wait on it.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import structlog
from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis
from redis.exceptions import RedisError

from convscope.backoff import Backoff
from convscope.queue.connection import BLOCK_MS, connect, guarded, heed_cancellation
from convscope.queue.keys import key
from convscope.queue.records import ACTIVE

log = structlog.get_logger(__name__)

_READ_AT_ONCE = 500
_GATHER_S = 0.001
"""Pause after entries came: those whom they woke go first, and entries that follow closely are read together."""


class Event(BaseModel):
    """One event of a job. `id` is its number, from 1; `name` is state, progress, preview or done."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    data: dict[str, Any]


class EventPage(BaseModel):
    """Events in order. `trimmed`: some between `after` and the first were lost; a reader needs a snapshot first."""

    model_config = ConfigDict(frozen=True)

    events: list[Event]
    trimmed: bool = False


class Events:
    """Reads the events of jobs."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, job_id: str, after: str = "") -> EventPage:
        """What came after the event with that id; "" reads from the first one. Does not wait.

        An id that this job never gave (garbage, or the data was lost) reads everything and counts as trimmed.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        number = _number(after)
        stream = key("events", job_id)
        async with guarded():
            entries: Any = await self._redis.xrange(stream, min=f"({number or 0}-0", max="+", count=_READ_AT_ONCE)
            if not entries and number != 0:
                # Nothing newer: either the reader is up to date, or it knows events that this job does not have.
                last: Any = await self._redis.xrevrange(stream, count=1)
                newest = _stream_number(last[0][0]) if last else 0
                if number is None or number > newest:
                    entries = await self._redis.xrange(stream, count=_READ_AT_ONCE)
                    return EventPage(events=[_event(*entry) for entry in entries], trimmed=True)
        events = [_event(*entry) for entry in entries]
        gap = number is None or (bool(events) and int(events[0].id) != number + 1)
        return EventPage(events=events, trimmed=gap)


def _number(after: str) -> int | None:
    """The number of an event id; None where it is none."""
    if not after:
        return 0
    return int(after) if after.isascii() and after.isdecimal() and len(after) < 16 else None


def _stream_number(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def _event(entry_id: str, fields: Mapping[str, str]) -> Event:
    return Event(id=str(_stream_number(entry_id)), name=fields["name"], data=json.loads(fields["data"]))


class _Tail(ABC):
    """Follows the end of one stream in a background task, on a connection of its own, through every interruption."""

    _stream: str

    def __init__(self, url: str) -> None:
        self._redis = connect(url, blocking=True)
        self._task: asyncio.Task[None] | None = None
        self.connected = False

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def start(self) -> None:
        """Begin to follow; needs a running event loop. A second call does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name=type(self).__name__)

    async def aclose(self) -> None:
        """Stop following, wake everybody who waits, close the connection."""
        task, self._task = self._task, None
        if task is not None:
            while not task.done():  # a cancellation may be forgotten on its way, see heed_cancellation
                task.cancel()
                await asyncio.wait({task}, timeout=0.1)
        self.connected = False
        self._wake_all()
        await self._redis.aclose()

    async def _follow(self) -> None:
        backoff = Backoff(0.05, 1.0, jitter=(0.5, 1.0))
        while True:
            try:
                # Where the stream ends now; whatever came before is covered by waking everybody.
                newest: Any = await self._redis.xrevrange(self._stream, count=1)
                heed_cancellation()
                last = str(newest[0][0]) if newest else "0-0"
                self.connected = True
                backoff.reset()
                self._wake_all()
                while True:
                    reply = await self._redis.xread({self._stream: last}, count=_READ_AT_ONCE, block=BLOCK_MS)
                    heed_cancellation()
                    for entry_id, fields in _entries(reply):
                        last = entry_id
                        self._arrived(fields)
                    if reply:
                        await asyncio.sleep(_GATHER_S)
            except (RedisError, OSError) as error:
                if self.connected:
                    log.warning("stream_lost", stream=self._stream, error=str(error) or type(error).__name__)
                self.connected = False
                self._wake_all()
                await asyncio.sleep(backoff.next_s())

    @abstractmethod
    def _arrived(self, fields: Mapping[str, str]) -> None:
        """An entry came."""

    @abstractmethod
    def _wake_all(self) -> None:
        """Entries may have been missed: everybody must look for itself."""


def _entries(reply: Any) -> list[tuple[str, Mapping[str, str]]]:
    """The entries of the one stream that was read; replies are a list or, in the newer protocol, a dict of pages."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (pages,) = reply.values()
        return [entry for page in pages for entry in page]
    return list(reply[0][1])


class Watch:
    """Waits for changes of one job. One watch belongs to one waiter; a job may have many.

    Args:
        end_only: sleeps through changes that are not the job's end.
    """

    def __init__(self, end_only: bool = False) -> None:
        self._flag = asyncio.Event()
        self._end_only = end_only

    async def changed(self, timeout_s: float) -> bool:
        """Wait until the job may have changed since the last call (or since the watch began); False after the time.

        True is a reason to look, not a promise: a reconnect wakes everybody.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._flag.wait()
        except TimeoutError:
            return False
        self._flag.clear()
        return True

    def wake(self, state: str | None = None) -> None:
        """Let `changed` return; `state` is the job's where it is known."""
        if not (self._end_only and state in ACTIVE):
            self._flag.set()


class ChangeFeed(_Tail):
    """One for each API process: tells those who wait for a job that it has changed.

    Begin to watch first, then read the job, then wait; so nothing is missed between.
    """

    _stream = key("changes")

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._watches: dict[str, set[Watch]] = {}

    @contextmanager
    def watch(self, job_id: str, *, end_only: bool = False) -> Iterator[Watch]:
        """Watch a job, or only for its end, while the block runs."""
        watch = Watch(end_only)
        self._watches.setdefault(job_id, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[job_id]
            watches.discard(watch)
            if not watches:
                del self._watches[job_id]

    @property
    def watching(self) -> int:
        """How many watches are open."""
        return sum(len(watches) for watches in self._watches.values())

    def _arrived(self, fields: Mapping[str, str]) -> None:
        for watch in self._watches.get(fields["id"], ()):
            watch.wake(fields.get("state"))

    def _wake_all(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()


class Doorbell(_Tail):
    """One for each supervisor: rings when there is something to do.

    Reasons: `work` (a run waits), `cancel` (a run is to be stopped: renew now and see which), `card` (a request waits
    for a model card), `lost` (the connection was interrupted: look at everything).
    """

    _stream = key("doorbell")

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._reasons: set[str] = set()
        self._rung = asyncio.Event()

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """Wait for a ring, also one that came since the last call; its reasons, or none after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return frozenset()
        reasons = frozenset(self._reasons)
        self._reasons.clear()
        self._rung.clear()
        return reasons

    def _arrived(self, fields: Mapping[str, str]) -> None:
        self._reasons.add(fields["reason"])
        self._rung.set()

    def _wake_all(self) -> None:
        self._reasons.add("lost")
        self._rung.set()
