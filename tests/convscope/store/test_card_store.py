"""Cards that are made when somebody asks, and what a request hears when there are none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from convscope.protocol.cards import ModelCard, ModelSummary
from convscope.queue.events import Doorbell
from convscope.queue.keys import key
from convscope.store.card_store import CardStore
from tests.convscope.queue.queue_steps import problem_of

LONG_S = 20.0


def card(model: str = "resnet18", **changes: Any) -> ModelCard:
    """A small card."""
    return ModelCard.model_validate(
        {
            "id": model,
            "title": "A network",
            "source": f"torchvision:{model}",
            "weights": "DEFAULT",
            "entry_digest": "0" * 64,
            "parameters": 11,
            "preprocess": {"size": (224, 224), "resize": 256, "mean": (0, 0, 0), "std": (1, 1, 1), "resizable": True},
            **changes,
        }
    )


def summary(model: str, **changes: Any) -> ModelSummary:
    """A line of the catalogue."""
    return ModelSummary(id=model, title="A network", source=f"torchvision:{model}", weights="DEFAULT", **changes)


@pytest.fixture
async def cards(redis: Redis) -> CardStore:
    """A store whose workers have published a catalogue of two networks."""
    store = CardStore(redis)
    await store.publish_catalogue([summary("vgg16"), summary("resnet18", default=True)], "env1", "resnet18")
    return store


async def test_the_catalogue_as_the_workers_publish_it(cards: CardStore, redis: Redis) -> None:
    assert [line.id for line in await cards.summaries()] == ["resnet18", "vgg16"]
    assert (await cards.environment(), await cards.default_model()) == ("env1", "resnet18")
    await cards.publish_catalogue([summary("zfnet")], "env2", "zfnet")
    assert [line.id for line in await cards.summaries()] == ["zfnet"]
    assert (await cards.environment(), await cards.default_model()) == ("env2", "zfnet")


async def test_before_any_worker(redis: Redis) -> None:
    store = CardStore(redis)
    assert (await store.summaries(), await store.environment(), await store.default_model()) == ([], "", "")
    assert await store.peek("resnet18") is None
    problem = await problem_of(store.get("resnet18", 0.05))
    assert problem.name == "queue-unavailable" and problem.retry_after_s
    assert await store.wanted() == ["resnet18"]


async def test_a_card_that_is_there(cards: CardStore, redis: Redis) -> None:
    await cards.publish(card())
    assert await cards.get("resnet18", 0) == card()
    again = await cards.peek("resnet18")
    assert again is await cards.peek("resnet18"), "parsed once"
    await CardStore(redis).publish(card(title="Another"))
    assert (await cards.get("resnet18", 0)).title == "Another"


async def test_a_request_waits_until_a_worker_has_described_the_network(
    cards: CardStore, redis: Redis, valkey_url: str
) -> None:
    async with Doorbell(valkey_url) as ring:

        async def worker() -> None:
            store = CardStore(redis)
            while not (wanted := await store.wanted()):
                await ring.wait(LONG_S)
            for model in wanted:
                await store.publish(card(model))

        asked = asyncio.gather(*(cards.get("vgg16", LONG_S) for _ in range(5)), worker())
        assert [one.id for one in (await asked)[:5]] == ["vgg16"] * 5
    assert await cards.wanted() == []


async def test_an_unknown_network_is_refused_at_once_with_near_names(cards: CardStore) -> None:
    problem = await problem_of(cards.get("resnet81", LONG_S))
    assert (problem.name, problem.extra["near"][0]) == ("unknown-model", "resnet18")
    assert "resnet18" in problem.detail
    assert await cards.wanted() == []


async def test_an_entry_that_cannot_be_used_says_why(cards: CardStore) -> None:
    asked = asyncio.create_task(problem_of(cards.get("vgg16", LONG_S)))
    await cards.publish_problem("vgg16", "its file is missing")
    problem = await asked
    assert problem.name == "weights-unavailable" and "its file is missing" in problem.detail
    assert await cards.wanted() == []
    await cards.publish_problem("not-listed", "nothing")
    assert len(await cards.summaries()) == 2
    await cards.publish_catalogue([summary("vgg16")], "env1", "vgg16")
    await cards.publish(card("vgg16"))
    assert (await cards.get("vgg16", 0)).id == "vgg16"


async def test_wishes_grow_old(cards: CardStore, redis: Redis) -> None:
    await redis.zadd(key("wanted"), {"vgg16": 1})
    assert await cards.wanted() == []
    assert await redis.exists(key("wanted")) == 0


async def test_cards_of_changed_entries_are_dropped(cards: CardStore) -> None:
    await cards.publish(card("vgg16"))
    await cards.publish(card("resnet18"))
    await cards.publish_catalogue(
        [summary("vgg16"), summary("resnet18").model_copy(update={"weights": "random"})], "env1", "vgg16"
    )
    assert await cards.peek("vgg16") is not None
    assert await cards.peek("resnet18") is None
    await cards.publish_catalogue([summary("vgg16"), summary("resnet18")], "env2", "vgg16")
    assert await cards.peek("vgg16") is None
