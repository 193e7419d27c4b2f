"""The artifact store: decoded uploads, results, checkpoints and previews as content-addressed bytes.

The only file that knows obstore. An artifact's key is `kind/ab/<sha256 of its bytes>`: the same bytes are stored once,
a key never changes its meaning, and writing twice is harmless. An object appears whole or not at all: a folder gets
that from a rename, S3 from its own promise. Nothing is counted or owned; what is no longer needed is swept by age, and
every use that puts the same bytes again makes them young.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from convscope.backoff import Backoff
from convscope.protocol.problems import ProblemError
from convscope.store.kinds import KINDS, Kind
from convscope.store.room import Room, store_full
from convscope.store.troubles import NO_ROOM, error_number, unavailable

Blob = bytes | bytearray | memoryview
CHUNK_BYTES = 4 * 1024 * 1024

# Bytes put again within this time of their last writing are not written again; the sweep spares them as much longer.
FRESH_S = 600.0
# Hashing less than this is quicker than handing it to a thread.
INLINE_BYTES = 1024 * 1024
# Writing less than this is quicker than asking first whether it is there.
SMALL_BYTES = 1024 * 1024
# A transfer may take this much longer for each byte: 1 MiB a second, a slow but living store.
SECONDS_PER_BYTE = 1 / 2**20
PROBE_TIMEOUT_S = 3.0
LONGEST_BACKOFF_S = 2.0
# A writer that died leaves its unfinished file beside the whole ones; obstore names them `<name>#<number>`.
ORPHAN_S = 3600.0

_KEY = re.compile(rf"({'|'.join(KINDS)})/([0-9a-f]{{2}})/(\2[0-9a-f]{{62}})")
_STORE_TROUBLE = (BaseError, OSError, TimeoutError)

T = TypeVar("T")


class Artifacts:
    """Reads and writes artifacts in one store, with retries.

    Args:
        store: where they lie.
        folder: the same place as a path, when it is a local folder.
        room: how much may be put there, where that is bounded.
        patience_s: how long one call tries before it gives up, seconds, beside what its bytes take.
        backoff_s: pause before the second attempt, seconds; it doubles with each, with jitter.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        folder: Path | None = None,
        room: Room | None = None,
        patience_s: float = 15.0,
        backoff_s: float = 0.1,
    ) -> None:
        self._store = store
        self._room = room
        self._folder = folder
        self._patience_s = patience_s
        self._backoff_s = backoff_s

    @classmethod
    def open(
        cls,
        url: str,
        *,
        reserve_bytes: int = 0,
        bound_bytes: int = 0,
        patience_s: float = 15.0,
        backoff_s: float = 0.1,
    ) -> Artifacts:
        """The store at a folder's path, `file://…`, `s3://bucket/prefix`, `gs://…` or `az://…`; a folder is created.

        Reserve and bound are those of `Room`, for a folder.
        S3 takes its credentials, region and endpoint from the usual AWS_* variables; an endpoint that says http:// is
        spoken to in the clear.

        Raises:
            ValueError: not an address of a store.
        """
        parts = urlsplit(url)
        if parts.scheme in ("", "file"):
            path = Path(url2pathname(parts.path) if parts.scheme == "file" else url).expanduser().absolute()
            local = LocalStore(path, mkdir=True)
            room = Room(path, reserve_bytes, bound_bytes)
            return cls(local, folder=path, room=room, patience_s=patience_s, backoff_s=backoff_s)
        if parts.scheme not in ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss"):
            raise ValueError(f"{url!r} is no artifact store: give a folder, file://…, s3://…, gs://… or az://…")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT", "")
        in_the_clear = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
        store = from_url(
            url,
            client_options={
                "allow_http": in_the_clear or endpoint.startswith("http://"),
                "connect_timeout": "5s",
                "timeout": "10m",  # a call's own time limit is shorter and knows its size
            },
            retry_config={"max_retries": 0},  # the retries here hold for every kind of store, and have one time limit
        )
        return cls(store, patience_s=patience_s, backoff_s=backoff_s)

    async def key_of(self, kind: Kind, data: Blob) -> str:
        """The key that bytes have, or will have, in the store."""
        digest = await _sha256(memoryview(data).cast("B"))
        return f"{kind}/{digest[:2]}/{digest}"

    async def put(self, kind: Kind, data: Blob, key: str | None = None) -> str:
        """Store bytes and return their key; bytes that are there already become young again.

        Args:
            kind: of artifact.
            data: the bytes.
            key: what `key_of` said of them, where it was asked before.

        Raises:
            ProblemError: `store-unavailable`; `store-full`, for uploads at once.
        """
        view = memoryview(data).cast("B")
        key = key or await self.key_of(kind, view)
        if not key.startswith(f"{kind}/"):
            raise ValueError(f"{key} is no key of {kind}")

        async def write(_limit: asyncio.Timeout) -> None:
            if view.nbytes < SMALL_BYTES or not await self._is_fresh(key, view.nbytes):
                if self._room is not None:
                    await self._room.check(view.nbytes, upload=kind == "images")
                    self._room.took(view.nbytes)
                # An empty memoryview has no address that Rust would take.
                await obstore.put_async(
                    self._store, key, view if view.nbytes else b"", use_multipart=self._multipart(view)
                )

        await self._persist(write, f"writing {view.nbytes} bytes", view.nbytes, upload=kind == "images")
        return key

    async def put_file(self, key: str, size: int, pieces: Callable[[], AsyncIterator[bytes]]) -> None:
        """Store a large file by `pieces`, read anew for each try; one that is there becomes young again.

        Raises:
            ProblemError: `store-unavailable`, `store-full`.
        """
        _check(key)

        async def write(_limit: asyncio.Timeout) -> None:
            if await self._is_fresh(key, size):
                return
            if self._room is not None:
                await self._room.check(size, upload=True)
                self._room.took(size)
            await obstore.put_async(self._store, key, pieces(), use_multipart=True)

        await self._persist(write, f"writing {size} bytes", size, upload=True)

    async def get(self, key: str) -> bytes:
        """All bytes of an artifact, checked against its key.

        Raises:
            ProblemError: `gone` when it is not there or was damaged in the store, `store-unavailable`.
        """
        _check(key)

        async def read(limit: asyncio.Timeout) -> bytes:
            found = await obstore.get_async(self._store, key)
            limit.reschedule((limit.when() or 0.0) + found.meta["size"] * SECONDS_PER_BYTE)
            return (await found.bytes_async()).to_bytes()

        data = await self._persist(read, "reading", 0)
        if await _sha256(memoryview(data)) != key.rpartition("/")[2]:
            await self.delete(key)
            raise ProblemError("gone", "The stored bytes were damaged and have been removed.")
        return data

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, which must lie within the artifact.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        _check(key)
        if length == 0:
            return b""

        async def read(_limit: asyncio.Timeout) -> bytes:
            return (await obstore.get_range_async(self._store, key, start=start, length=length)).to_bytes()

        return await self._persist(read, "reading", length)

    async def stream(
        self, key: str, start: int = 0, length: int | None = None, chunk: int = CHUNK_BYTES
    ) -> AsyncIterator[bytes]:
        """The bytes from `start` in pieces of at most `chunk`; a piece that fails is read again, not the whole.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        end = await self.size(key) if length is None else start + length
        while start < end:
            piece = await self.get_range(key, start, min(chunk, end - start))
            start += len(piece)
            yield piece

    async def size(self, key: str) -> int:
        """Number of bytes of an artifact.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        _check(key)
        meta = await self._persist(lambda _limit: obstore.head_async(self._store, key), "looking", 0)
        return int(meta["size"])

    async def exists(self, key: str) -> bool:
        """Whether the artifact is there.

        Raises:
            ProblemError: `store-unavailable`.
        """
        try:
            await self.size(key)
        except ProblemError as error:
            if error.name == "gone":
                return False
            raise
        return True

    async def is_fresh(self, key: str) -> bool:
        """Whether the artifact is there and so young that it need not be put again, which would make it young.

        Raises:
            ProblemError: `store-unavailable`.
        """
        _check(key)
        return await self._persist(lambda _limit: self._is_fresh(key), "looking", 0)

    async def delete(self, key: str) -> None:
        """Remove an artifact; one that is not there is no error.

        Raises:
            ProblemError: `store-unavailable`.
        """
        _check(key)
        await self._remove(key)

    async def _remove(self, path: str) -> None:
        async def remove(_limit: asyncio.Timeout) -> None:
            try:
                await obstore.delete_async(self._store, path)
            except FileNotFoundError:
                return

        await self._persist(remove, "deleting", 0)

    async def sweep(self, kind: Kind, older_than_s: float, kept: Collection[str] = ()) -> int:
        """Remove the artifacts of a kind that were last put longer ago than that, but those kept, and say how many.

        Raises:
            ProblemError: `store-unavailable`; what was removed so far stays removed.
        """
        removed = 0
        before = time.time() - older_than_s - FRESH_S
        batches = aiter(obstore.list(self._store, f"{kind}/", chunk_size=500))
        while True:
            try:
                async with asyncio.timeout(self._patience_s):
                    batch = await anext(batches, None)
            except _STORE_TROUBLE as error:
                raise unavailable("listing", error) from error
            if batch is None:
                break
            for meta in batch:
                # Looked at once more, since it may have been put again while the list was read.
                if meta["path"] in kept:
                    continue
                if meta["last_modified"].timestamp() < before and await self._age_check(meta["path"], before):
                    await self._remove(meta["path"])  # whatever it is called: versions before this one had other names
                    removed += 1
        if self._folder is not None:
            await asyncio.to_thread(_remove_orphans, self._folder / kind, time.time() - ORPHAN_S)
        return removed

    async def check_writable(self) -> None:
        """Write and remove a few bytes, once, within three seconds.

        Raises:
            ProblemError: `store-unavailable`, with the reason.
        """
        digest = secrets.token_hex(32)
        probe = f"probes/{digest[:2]}/{digest}"
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await obstore.put_async(self._store, probe, b"writable?", use_multipart=False)
                await obstore.delete_async(self._store, probe)
        except _STORE_TROUBLE as error:
            raise unavailable("a probe", error) from error

    async def _is_fresh(self, key: str, size: int | None = None) -> bool:
        try:
            meta = await obstore.head_async(self._store, key)
        except FileNotFoundError:
            return False
        whole = size is None or meta["size"] == size
        return whole and time.time() - meta["last_modified"].timestamp() < FRESH_S

    async def _age_check(self, path: str, before: float) -> bool:
        try:
            meta = await self._persist(lambda _limit: obstore.head_async(self._store, path), "looking", 0)
        except ProblemError as error:
            if error.name == "gone":  # another sweeper was quicker
                return False
            raise
        return bool(meta["last_modified"].timestamp() < before)

    def _multipart(self, view: memoryview) -> bool:
        # A folder gains nothing from parts; S3 takes at most 5 GiB at once and is quicker in parts.
        return self._folder is None and view.nbytes > 4 * CHUNK_BYTES

    async def check_room(self) -> None:
        """See that uploads and new work are welcome.

        Raises:
            ProblemError: `store-full`.
        """
        if self._room is not None:
            await self._room.check(0, upload=True)

    async def _persist(
        self, attempt: Callable[[asyncio.Timeout], Awaitable[T]], what: str, nbytes: int, *, upload: bool = False
    ) -> T:
        """Try until it works or the time is over; a third of the time is the most that one attempt may take.

        An upload is not tried again where there is no room: its client can do that. An attempt is given its limit, for
        when it learns only by and by how many bytes there are.
        """
        transfer_s = nbytes * SECONDS_PER_BYTE
        deadline = time.monotonic() + self._patience_s + transfer_s
        backoff = Backoff(self._backoff_s, LONGEST_BACKOFF_S, jitter=(0.5, 1.5))
        answered: BaseException | None = None  # the last trouble that the store itself told of
        while True:
            try:
                async with asyncio.timeout(
                    min(self._patience_s / 3 + transfer_s, max(0.0, deadline - time.monotonic()))
                ) as limit:
                    return await attempt(limit)
            except FileNotFoundError as error:
                if what.startswith("writing"):  # there is no bucket, or no folder any more
                    raise unavailable(what, error) from error
                raise ProblemError("gone", "The stored bytes are not there any more.") from error
            except (PermissionDeniedError, UnauthenticatedError) as error:
                raise unavailable(what, error) from error  # trying again changes nothing
            except _STORE_TROUBLE as error:
                if upload and error_number(error) in NO_ROOM:
                    raise store_full("The artifact store's disk is full.") from error
                if not isinstance(error, TimeoutError):
                    answered = error
                pause_s = backoff.next_s()
                if time.monotonic() + pause_s >= deadline:
                    # The last attempt may have been cut short by the deadline, which says less than a full disk does.
                    raise unavailable(what, answered or error) from (answered or error)
                await asyncio.sleep(pause_s)


def _check(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ProblemError("gone", "There is no artifact by that key.")


async def _sha256(data: memoryview) -> str:
    if data.nbytes < INLINE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())


def _remove_orphans(folder: Path, before: float) -> None:
    for path in folder.glob("*/*#*"):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
        except FileNotFoundError:  # another sweeper was quicker
            continue
