"""Networks that callers brought, on this machine's disk: each file once, by its digest, and an entry for each version.

The engine reads them there as it reads the operator's catalogue; it knows no store and no queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import time
from pathlib import Path

from convscope.protocol.networks import VERSION_MARK
from convscope.protocol.problems import ProblemError
from convscope.store.artifacts import Artifacts
from convscope.store.uploaded_networks import NetworkRecord, UploadedNetworks, versioned

UNUSED_S = 3600.0
"""A file that no network has any more stays so long: a run may be about to load it."""


class NetworkFiles:
    """A folder of files and entries, shared by the workers of this machine.

    Args:
        folder: created when it is first needed.
        networks: what callers brought.
        artifacts: where the files are.
    """

    def __init__(self, folder: Path, networks: UploadedNetworks, artifacts: Artifacts) -> None:
        self._folder = folder
        self._networks = networks
        self._artifacts = artifacts
        self._locks: dict[str, asyncio.Lock] = {}

    async def fetch(self, model_id: str, version: str) -> str:
        """Have a version of a network at hand; the name by which the engine finds it.

        Raises:
            ProblemError: `gone` where it was deleted or replaced, or its file is lost; `store-unavailable`,
                `queue-unavailable`.
        """
        found = await self._networks.entry(model_id)
        if found is None or found[0].version != version:
            happened = "deleted" if found is None else "replaced by another version"
            raise ProblemError("gone", f"The network {model_id} was {happened} after this was asked of it.")
        head, entry = found
        async with self._locks.setdefault(head.sha256, asyncio.Lock()):
            file = self._folder / head.file_name
            if not await asyncio.to_thread(file.is_file):
                await self._fetch_file(head, file)
        name = versioned(model_id, version)
        await asyncio.to_thread(_write, self._folder / f"{name}.json", json.dumps(entry).encode())
        return name

    async def _fetch_file(self, head: NetworkRecord, file: Path) -> None:
        """Write a file from the store, under its name once it is whole and has its digest."""
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        partial = file.with_name(f".{secrets.token_hex(8)}.part")
        digest = hashlib.sha256()
        try:
            with partial.open("wb") as out:
                async for piece in self._artifacts.stream(head.file_key):
                    await asyncio.to_thread(out.write, piece)
                    digest.update(piece)
            if digest.hexdigest() != head.sha256:
                await self._artifacts.delete(head.file_key)
                raise ProblemError("gone", f"The file of {head.id} was damaged in the store; bring the network anew.")
            await asyncio.to_thread(partial.replace, file)
        except OSError as error:
            detail = f"The file of {head.id} cannot be kept by the worker: {os.strerror(error.errno or 0)}."
            raise ProblemError("store-unavailable", detail, retry_after_s=5.0) from error
        finally:
            partial.unlink(missing_ok=True)

    async def sweep(self) -> int:
        """Remove what no network has any more, and say how many files that were.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        heads = await self._networks.heads()
        kept = {head.file_name for head in heads} | {f"{head.name}.json" for head in heads}
        return await asyncio.to_thread(_sweep, self._folder, kept, time.time() - UNUSED_S)


def is_uploaded(name: str) -> bool:
    """Whether that is the name of a network that a caller brought, with its version."""
    return VERSION_MARK in name


def _write(path: Path, data: bytes) -> None:
    """A small file that appears whole; one that says the same stays."""
    if path.is_file() and path.read_bytes() == data:
        return
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    partial.write_bytes(data)
    partial.replace(path)


def _sweep(folder: Path, kept: set[str], before: float) -> int:
    removed = 0
    for path in folder.glob("*") if folder.is_dir() else ():
        try:
            if path.name not in kept and path.stat().st_mtime < before:
                path.unlink()
                removed += 1
        except FileNotFoundError:  # another worker was quicker
            continue
    return removed
