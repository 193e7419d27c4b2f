"""Networks that callers bring: heads and entries in Redis, files in the artifact store.

A head is short and says whose the network is, who may see it, and in which version it is there; the entry, as in the
operator's catalogue, stands beside it. A version is a digest of entry and file: whoever computes with a network names
it with its version, so that what was asked of one is never answered by another.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel
from redis.asyncio import Redis

from convscope.protocol.networks import VERSION_MARK, Visibility
from convscope.protocol.problems import ProblemError
from convscope.queue.connection import guarded
from convscope.queue.keys import key
from convscope.queue.lua import Scripts
from convscope.store.artifacts import Artifacts

VERSION_DIGITS = 24
MIB = 2**20

Format = Literal["safetensors", "pt2"]
SUFFIXES: dict[Format, str] = {"safetensors": ".safetensors", "pt2": ".pt2"}


class NetworkRecord(BaseModel):
    """What there is to know of a network without reading its entry."""

    id: str
    owner: str
    visible_to: Visibility
    version: str
    etag: str
    title: str
    source: str
    sha256: str
    bytes: int
    format: Format
    created_ms: int = 0
    updated_ms: int = 0

    @property
    def name(self) -> str:
        """The network in this version, as cards and workers name it."""
        return versioned(self.id, self.version)

    @property
    def file_key(self) -> str:
        """Of its file in the artifact store."""
        return f"models/{self.sha256[:2]}/{self.sha256}"

    @property
    def file_name(self) -> str:
        """Of its file where a worker keeps it."""
        return self.sha256 + SUFFIXES[self.format]

    def is_visible(self, caller: str) -> bool:
        """Whether a caller may use it."""
        return self.owner == caller or self.visible_to == "all"


def versioned(model_id: str, version: str) -> str:
    """A network's id with its version."""
    return f"{model_id}{VERSION_MARK}{version}"


def make_head(
    model_id: str, owner: str, visible_to: Visibility, entry: dict[str, Any], sha256: str, size: int, format: Format
) -> NetworkRecord:
    """The head of an entry and its file; its times are set where it is kept."""
    text = json.dumps([model_id, entry, sha256], sort_keys=True)
    version = hashlib.sha256(text.encode()).hexdigest()[:VERSION_DIGITS]
    return NetworkRecord(
        id=model_id,
        owner=owner,
        visible_to=visible_to,
        version=version,
        etag=f'"{version}-{visible_to}"',
        title=entry["title"],
        source=entry["source"].partition(":")[0] if format == "pt2" else entry["source"],
        sha256=sha256,
        bytes=size,
        format=format,
    )


class Conditions(BaseModel):
    """What the headers of a request make it depend on: `If-Match`, "" for none, and `If-None-Match: *`."""

    if_match: str = ""
    only_new: bool = False


class UploadedNetworks:
    """The networks of all callers.

    Args:
        redis: where heads and entries are.
        artifacts: where files are.
        most: networks of one caller.
        share_bytes: of one caller's files together.
    """

    def __init__(self, redis: Redis, artifacts: Artifacts, most: int = 100, share_bytes: int = 2**50) -> None:
        self._redis = redis
        self._artifacts = artifacts
        self._scripts = Scripts(redis)
        self._most = most
        self._share_bytes = share_bytes

    async def put(
        self, head: NetworkRecord, entry: dict[str, Any], conditions: Conditions
    ) -> tuple[NetworkRecord, bool]:
        """Keep a network whose file is stored; as it is kept, and whether it is a new one.

        The same again changes nothing.

        Raises:
            ProblemError: `forbidden` where the id is another caller's, `precondition-failed`, `quota-exceeded`,
                `queue-unavailable`, `queue-full`.
        """
        status, found = await self._scripts.run(
            "network_put",
            id=head.id,
            caller=head.owner,
            head=head.model_dump_json(),
            etag=head.etag,
            entry=json.dumps(entry),
            bytes=head.bytes,
            if_match=conditions.if_match,
            if_none_match=int(conditions.only_new),
            most_networks=self._most,
            most_bytes=self._share_bytes,
        )
        if status == "taken":
            raise ProblemError("forbidden", f"The id {head.id} is taken by another caller; choose another one.")
        if status in ("changed", "there"):
            raise _not_as_expected(head.id, status)
        if status == "many":
            detail = f"{head.owner} has {self._most} networks, as many as allowed; delete one first."
            raise ProblemError("quota-exceeded", detail, limit=self._most)
        if status == "large":
            detail = (
                f"The networks of {head.owner} would take {int(found) / MIB:,.1f} MiB; "
                f"{self._share_bytes / MIB:,.1f} MiB are allowed. Delete one first."
            )
            raise ProblemError("quota-exceeded", detail, limit_bytes=self._share_bytes)
        return NetworkRecord.model_validate_json(found), status == "new"

    async def delete(self, caller: str, model_id: str, conditions: Conditions) -> None:
        """Forget a caller's network; its file goes with the next sweep, if no other network has it.

        Raises:
            ProblemError: `not-found`, also for another caller's that cannot be seen; `forbidden` for one that can;
                `precondition-failed`, `queue-unavailable`.
        """
        status = await self._scripts.run("network_delete", id=model_id, caller=caller, if_match=conditions.if_match)
        if status == "missing":
            raise ProblemError("not-found", f"You have brought no network {model_id[:100]!r}.")
        if status == "foreign":
            raise ProblemError("forbidden", f"{model_id} is another caller's network.")
        if status == "changed":
            raise _not_as_expected(model_id, status)

    async def find(self, model_id: str) -> NetworkRecord | None:
        """The head of that id, whoever may see it.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        async with guarded():
            text = await self._redis.hget(key("networks"), model_id)
        return None if text is None else NetworkRecord.model_validate_json(text)

    async def entry(self, model_id: str) -> tuple[NetworkRecord, dict[str, Any]] | None:
        """Head and entry of that id, of one moment.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        async with guarded(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(key("networks"), model_id)
            pipe.get(key("network", model_id))
            head, entry = await pipe.execute()
        if head is None or entry is None:
            return None
        return NetworkRecord.model_validate_json(head), dict(json.loads(entry))

    async def heads(self) -> list[NetworkRecord]:
        """All of them, in the order of their ids.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        async with guarded():
            texts = await self._redis.hvals(key("networks"))
        return sorted((NetworkRecord.model_validate_json(text) for text in texts), key=lambda head: head.id)

    async def visible(self, caller: str) -> list[NetworkRecord]:
        """Those that a caller may use.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        return [head for head in await self.heads() if head.is_visible(caller)]

    async def may_refer(self, caller: str, sha256: str) -> bool:
        """Whether a caller may bring a network of a file by its digest: nobody's, or one of a network to be seen.

        Raises:
            ProblemError: `queue-unavailable`.
        """
        same = [head for head in await self.heads() if head.sha256 == sha256]
        return not same or any(head.is_visible(caller) for head in same)

    async def sweep(self, older_than_s: float) -> int:
        """Remove files that no network has, and say how many.

        Raises:
            ProblemError: `queue-unavailable`, `store-unavailable`.
        """
        kept = {head.file_key for head in await self.heads()}
        return await self._artifacts.sweep("models", older_than_s, kept)


def _not_as_expected(model_id: str, status: str) -> ProblemError:
    if status == "there":
        detail = f"You have a network {model_id} already, and If-None-Match says that there is none."
    else:
        detail = f"{model_id} is not what If-Match says; read it again."
    return ProblemError("precondition-failed", detail)
