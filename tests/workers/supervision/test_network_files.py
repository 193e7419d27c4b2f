"""Networks that callers brought, on a worker's disk: by digest, for each version, and nothing that was damaged."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from convscope.protocol.networks import VERSION_MARK
from convscope.protocol.problems import ProblemError
from convscope.queue.connection import connect
from convscope.queue.keys import key
from convscope.store.artifacts import FRESH_S, Artifacts
from convscope.store.uploaded_networks import Conditions, NetworkRecord, UploadedNetworks, make_head
from tests.servers import PrivateServer
from workers.networks.catalogue import Catalogue
from workers.supervision.network_files import UNUSED_S, NetworkFiles

DATA = b"weights" * 1000


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    with PrivateServer() as server:
        client = connect(server.url)
        yield client
        await client.aclose()


async def brought(
    networks: UploadedNetworks, artifacts: Artifacts, data: bytes = DATA, title: str = "Tea"
) -> NetworkRecord:
    async def pieces() -> AsyncIterator[bytes]:
        yield data[:100]
        yield data[100:]

    digest = hashlib.sha256(data).hexdigest()
    entry = {"source": "zfnet", "weights": f"file:{digest}.safetensors", "sha256": digest, "title": title}
    head = make_head("tea", "alice", "owner", entry, digest, len(data), "safetensors")
    await artifacts.put_file(head.file_key, head.bytes, pieces)
    return (await networks.put(head, entry, Conditions()))[0]


async def test_a_version_is_fetched_once_and_read_by_the_catalogue(redis: Redis, tmp_path: Path) -> None:
    artifacts = Artifacts.open(str(tmp_path / "store"))
    networks = UploadedNetworks(redis, artifacts)
    head = await brought(networks, artifacts)
    # Two workers of two machines, each with a folder of its own.
    for machine in ("one", "two"):
        files = NetworkFiles(tmp_path / machine, networks, artifacts)
        names = await asyncio.gather(*(files.fetch("tea", head.version) for _ in range(3)))
        assert set(names) == {head.name} and head.name == f"tea{VERSION_MARK}{head.version}"
        assert (tmp_path / machine / head.file_name).read_bytes() == DATA
        entry = Catalogue(None, tmp_path / "weights", tmp_path / machine).entry(head.name)
        assert (entry.id, entry.title, entry.source, entry.operator) == ("tea", "Tea", "zfnet", False)
        assert entry.local_file(tmp_path / "weights") == tmp_path / machine / head.file_name
        assert not list((tmp_path / machine).glob(".*"))
    # An entry that is the operator's to write is not read, whoever put it there.
    for values in ({"source": "python:os:system"}, {"source": "zfnet", "arguments": {"a": 1}}):
        bad = tmp_path / "one" / f"evil{VERSION_MARK}1.json"
        bad.write_text(json.dumps(values))
        os.utime(bad, ns=(values == {} or 1, len(str(values))))
        with pytest.raises(Exception, match="only the operator's catalogue may say"):
            Catalogue(None, tmp_path, tmp_path / "one").entry(bad.stem)


async def test_what_is_deleted_replaced_lost_or_damaged_is_gone(redis: Redis, tmp_path: Path) -> None:
    artifacts = Artifacts.open(str(tmp_path / "store"), patience_s=1.0)
    networks = UploadedNetworks(redis, artifacts)
    files = NetworkFiles(tmp_path / "own", networks, artifacts)
    head = await brought(networks, artifacts)
    newer = await brought(networks, artifacts, title="Other")
    assert newer.version != head.version and newer.created_ms == head.created_ms
    with pytest.raises(ProblemError, match="replaced by another version"):
        await files.fetch("tea", head.version)
    stored = tmp_path / "store" / newer.file_key
    stored.write_bytes(b"x" * len(DATA))
    with pytest.raises(ProblemError, match="damaged in the store"):
        await files.fetch("tea", newer.version)
    with pytest.raises(ProblemError, match="not there any more"):
        await files.fetch("tea", newer.version)
    assert list((tmp_path / "own").iterdir()) == []
    await networks.delete("alice", "tea", Conditions())
    with pytest.raises(ProblemError, match="deleted"):
        await files.fetch("tea", newer.version)
    assert await redis.keys(key("network*")) == []


async def test_files_that_no_network_has_are_swept_and_others_never(redis: Redis, tmp_path: Path) -> None:
    artifacts = Artifacts.open(str(tmp_path / "store"))
    networks = UploadedNetworks(redis, artifacts)
    files = NetworkFiles(tmp_path / "own", networks, artifacts)
    head = await brought(networks, artifacts)
    await files.fetch("tea", head.version)
    everything = [tmp_path / "store" / head.file_key, *(tmp_path / "own").iterdir()]
    for path in everything:
        os.utime(path, (1, 1))
    assert (await networks.sweep(0.0), await files.sweep()) == (0, 0)
    await networks.delete("alice", "tea", Conditions())
    assert (await networks.sweep(0.0), await files.sweep()) == (1, 2)
    assert not any(path.exists() for path in everything)
    assert FRESH_S > 0 and UNUSED_S > 0
