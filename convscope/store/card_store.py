"""Where workers publish what they know about networks, and requests read it.

A card is made by a worker when somebody asks for it, and stays. The card of a network that a caller brought is kept
under its name with its version, so that another version is another card, and is not in the catalogue.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from redis.asyncio import Redis

from convscope.backoff import Backoff
from convscope.protocol.cards import ModelCard, ModelSummary
from convscope.protocol.networks import VERSION_MARK
from convscope.protocol.problems import PROBLEMS, ProblemError
from convscope.queue.connection import guarded
from convscope.queue.keys import DOORBELL_KEPT, UPLOADED_CARD_MS, key

_WANTED_S = 60.0
"""A model that nobody has asked for again for so long is no longer wanted."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25
_CARDS_HELD = 256


class CardStore:
    """The cards, the catalogue, and what the workers run on. Every method may raise `queue-unavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._held: dict[str, tuple[str, ModelCard]] = {}

    async def peek(self, model: str) -> ModelCard | None:
        """The model's card where there is one already."""
        at = key("card", model)
        async with guarded():
            digest = await self._redis.hget(at, "digest")
            if digest is None:
                return None
            held = self._held.get(model)
            if held is not None and held[0] == digest:
                return held[1]
            text = await self._redis.hget(at, "json")
        if text is None:
            return None
        card = ModelCard.model_validate_json(text)
        if len(self._held) >= _CARDS_HELD:
            self._held.pop(next(iter(self._held)))
        self._held[model] = (str(digest), card)
        return card

    async def get(self, model: str, wait_s: float) -> ModelCard:
        """The model's card; where there is none, the workers are asked for it, for up to `wait_s` seconds.

        Raises:
            ProblemError: `unknown-model`, with near names; `weights-unavailable` where a worker said that the entry
                cannot be used; `queue-unavailable` when no worker described it in time.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        asked = False
        while True:
            card = await self.peek(model)
            if card is not None:
                if asked:  # the wish may have come just after the card, which nobody would take away then
                    async with guarded():
                        await self._redis.zrem(key("wanted"), model)
                return card
            await self._check_known(model)
            if not asked:
                await self._ask_for(model)
                asked = True
            left_s = until - loop.time()
            if left_s <= 0:
                name = model.partition(VERSION_MARK)[0]
                detail = f"No worker has described {name} within {wait_s:g} s; there may be none running."
                raise ProblemError("queue-unavailable", detail, retry_after_s=5.0, model=name)
            await asyncio.sleep(min(backoff.next_s(), left_s))

    async def _check_known(self, model: str) -> None:
        """Refuse a model that the catalogue, once there is one, does not have or cannot use."""
        if VERSION_MARK in model:
            if (problem := (await self.problems([model]))[0]) is not None:
                raise ProblemError(*problem, model=model.partition(VERSION_MARK)[0])
            return
        async with guarded():
            text = await self._redis.hget(key("catalogue"), model)
            names = [] if text is not None else [str(name) for name in await self._redis.hkeys(key("catalogue"))]
        if text is not None:
            summary = ModelSummary.model_validate_json(text)
            if summary.problem:
                name = summary.problem_type if summary.problem_type in PROBLEMS else "weights-unavailable"
                raise ProblemError(name, f"{model} cannot be used: {summary.problem}", model=model)
        elif names:
            near = get_close_matches(model, names, n=5, cutoff=0.4)
            hint = f" Near names: {', '.join(near)}." if near else ""
            detail = (
                f"There is no network {model[:200]!r} in the catalogue.{hint} GET /v1/models lists all {len(names)}."
            )
            raise ProblemError("unknown-model", detail, near=near)

    async def is_listed(self, model: str) -> bool:
        """Whether the operator's catalogue, or what is built in, has a network of that id."""
        async with guarded():
            return bool(await self._redis.hexists(key("catalogue"), model))

    async def _ask_for(self, model: str) -> None:
        async with guarded():
            pipe = self._redis.pipeline(transaction=True)
            pipe.zadd(key("wanted"), {model: await self._now_ms()})
            pipe.xadd(key("doorbell"), {"reason": "card"}, maxlen=DOORBELL_KEPT, approximate=True)
            await pipe.execute()

    async def _now_ms(self) -> int:
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def wanted(self) -> list[str]:
        """The models that requests wait for, the longest waiting first; also forgets those nobody waits for."""
        async with guarded():
            oldest = await self._now_ms() - round(_WANTED_S * 1000)
            await self._redis.zremrangebyscore(key("wanted"), "-inf", oldest)
            return [str(name) for name in await self._redis.zrange(key("wanted"), 0, -1)]

    async def problems(self, names: Sequence[str]) -> list[tuple[str, str] | None]:
        """Why networks that callers brought, by their names with versions, cannot be used: problem and detail."""
        async with guarded(), self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hmget(key("card", name), ["problem_type", "problem"])
            found = await pipe.execute()
        return [
            (str(kind) if kind in PROBLEMS else "weights-unavailable", str(detail)) if detail else None
            for kind, detail in found
        ]

    async def publish(self, card: ModelCard, name: str | None = None) -> None:
        """Store a card, under another name than its id where that has a version; whoever waits for it goes on."""
        name = name or card.id
        text = card.model_dump_json()
        digest = hashlib.sha256(text.encode()).hexdigest()
        async with guarded():
            pipe = self._redis.pipeline(transaction=True)
            pipe.hset(key("card", name), mapping={"json": text, "digest": digest})
            if VERSION_MARK in name:
                pipe.hdel(key("card", name), "problem", "problem_type")
                pipe.pexpire(key("card", name), UPLOADED_CARD_MS)
            pipe.zrem(key("wanted"), name)
            await pipe.execute()

    async def publish_problem(self, model: str, problem: str, problem_type: str = "weights-unavailable") -> None:
        """Say why a network cannot be used; who waits for its card hears it."""
        if VERSION_MARK in model:
            async with guarded(), self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(key("card", model), mapping={"problem": problem, "problem_type": problem_type})
                pipe.hdel(key("card", model), "json", "digest")
                pipe.pexpire(key("card", model), UPLOADED_CARD_MS)
                pipe.zrem(key("wanted"), model)
                await pipe.execute()
            return
        async with guarded():
            text = await self._redis.hget(key("catalogue"), model)
            if text is None:
                return
            summary = ModelSummary.model_validate_json(text).model_copy(
                update={"problem": problem, "problem_type": problem_type}
            )
            pipe = self._redis.pipeline(transaction=True)
            pipe.hset(key("catalogue"), model, summary.model_dump_json())
            pipe.zrem(key("wanted"), model)
            await pipe.execute()

    async def publish_catalogue(self, summaries: Sequence[ModelSummary], environment: str, default_model: str) -> None:
        """Replace the catalogue, whole, and say what the workers run on and which network is the default.

        Cards are dropped, and asked for again, where their network is no longer listed or its entry reads otherwise
        now; all of them when the environment is another one.
        """
        async with guarded():
            before = await self._redis.hgetall(key("catalogue"))
            after: dict[Any, Any] = {summary.id: summary.model_dump_json() for summary in summaries}
            moved = await self._redis.hget(key("deployment"), "environment") != environment
            stale = [
                name for name, text in before.items() if moved or _entry(after.get(str(name))) != _entry(str(text))
            ]
            if moved:
                heads = [json.loads(text) for text in await self._redis.hvals(key("networks"))]
                stale += [f"{head['id']}{VERSION_MARK}{head['version']}" for head in heads]
            deployment: dict[Any, Any] = {"environment": environment, "default_model": default_model}
            pipe = self._redis.pipeline(transaction=True)
            pipe.delete(key("catalogue"))
            if after:
                pipe.hset(key("catalogue"), mapping=after)
            if stale:
                pipe.delete(*(key("card", str(name)) for name in stale))
            pipe.hset(key("deployment"), mapping=deployment)
            await pipe.execute()

    async def summaries(self) -> list[ModelSummary]:
        """The catalogue, in the order of its ids."""
        async with guarded():
            texts = await self._redis.hvals(key("catalogue"))
        return sorted((ModelSummary.model_validate_json(text) for text in texts), key=lambda summary: summary.id)

    async def deployment(self) -> tuple[str, str]:
        """What the workers run on and their default model, each "" before any worker said so.

        The first is a digest of everything that changes results; the second is the catalogue id of the network that is
        used when a request names none.
        """
        async with guarded():
            environment, default_model = await self._redis.hmget(key("deployment"), ["environment", "default_model"])
        return str(environment or ""), str(default_model or "")

    async def environment(self) -> str:
        """What the workers run on; see `deployment`."""
        return (await self.deployment())[0]

    async def default_model(self) -> str:
        """The network used when a request names none; see `deployment`."""
        return (await self.deployment())[1]


def _entry(text: str | None) -> tuple[str, str, str | None] | None:
    """What of a summary says which network it is: where architecture and weights come from, and all of an entry."""
    if text is None:
        return None
    plain = json.loads(text)
    return plain["source"], plain["weights"], plain.get("entry_digest")
