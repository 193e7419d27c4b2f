"""What the publisher makes of a first catalogue: a default network that is not there, entries that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog
from obstore.store import MemoryStore
from redis.asyncio import Redis

from convscope.store.artifacts import Artifacts
from convscope.store.card_store import CardStore
from convscope.store.uploaded_networks import UploadedNetworks
from workers.supervision.network_files import NetworkFiles
from workers.supervision.publishing import NoDefaultModelError, Publisher
from workers.wire import Frame

GOOD = {"id": "efficientnet_lite0", "title": "", "source": "efficientnet_lite0", "weights": "random"}
BAD = {"id": "tea", "title": "", "source": "zfnet", "weights": "file:tea.pth", "problem": "it needs sha256"}
FILE = {"id": "catalogue.toml", "title": "", "source": "", "weights": "", "problem": "it is no TOML"}


async def hear(redis: Redis, default_model: str, *lines: dict[str, Any]) -> Publisher:
    async def send(_: Frame) -> None:
        return

    artifacts = Artifacts(MemoryStore())
    files = NetworkFiles(Path("unused"), UploadedNetworks(redis, artifacts), artifacts)
    publisher = Publisher(CardStore(redis), default_model, send, files)
    await publisher.engine_ready("environment")
    publisher.hear(Frame({"type": "catalogue", "model": "", "catalogue": list(lines)}))
    await publisher.work()
    return publisher


async def test_a_default_network_that_is_not_in_the_catalogue_is_refused_by_its_setting(redis: Redis) -> None:
    with pytest.raises(NoDefaultModelError, match=r"CONVSCOPE_DEFAULT_MODEL.*'efficientnet'.*near: efficientnet_lite0"):
        await hear(redis, "efficientnet", GOOD)
    await hear(redis, "timm:resnet18", GOOD)
    await hear(redis, "mine", GOOD, FILE)  # it may stand in the file that cannot be read


async def test_an_entry_that_cannot_be_used_is_warned_of_once(redis: Redis) -> None:
    with structlog.testing.capture_logs() as lines:
        publisher = await hear(redis, "efficientnet_lite0", GOOD, BAD)
        publisher.hear(Frame({"type": "catalogue", "model": "", "catalogue": [BAD, GOOD]}))
        await publisher.work()
    warned = [line for line in lines if line["event"] == "catalogue_entry_unusable"]
    assert [(line["model"], line["problem"]) for line in warned] == [("tea", "it needs sha256")]
