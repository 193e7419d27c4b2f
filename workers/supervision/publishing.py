"""Publishes what the engine knows of its networks: the catalogue when it changes, cards when somebody waits for one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from difflib import get_close_matches

import structlog
from pydantic import ValidationError

from convscope.protocol.cards import ModelCard, ModelSummary
from convscope.protocol.networks import VERSION_MARK
from convscope.protocol.problems import ProblemError
from convscope.store.card_store import CardStore
from workers.supervision.network_files import NetworkFiles, is_uploaded
from workers.wire import Frame

_MOST_DEATHS = 3
"""Engines that may end while they describe one network before it is refused."""

RELIST_S = 5.0
"""How soon a change of the operator's catalogue, or a file that came into the folder of weights, is published."""

log = structlog.get_logger(__name__)


class NoDefaultModelError(Exception):
    """The default network is not in the catalogue: the setting is mistaken, and every plain request would fail."""


class Publisher:
    """Asks the engine for cards and the catalogue, and stores what it answers.

    Args:
        cards: where they are kept.
        default_model: catalogue id; its card is made unasked.
        send: writes a frame to the engine of the moment.
        network_files: has networks that callers brought at hand for the engine.

    Attributes:
        environment: what the engine says that it runs on; "" before it was heard.
    """

    def __init__(
        self,
        cards: CardStore,
        default_model: str,
        send: Callable[[Frame], Awaitable[None]],
        network_files: NetworkFiles,
    ) -> None:
        self._network_files = network_files
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._cards = cards
        self._default_model = default_model
        self._send = send
        self.environment = ""
        self._catalogue: list[ModelSummary] | None = None
        self._seen = False
        self._asked: set[str] = set()
        self._problems: dict[str, tuple[str | None, str, str]] = {}
        """Why entries of operators' cannot be used, as was found when they were described: digest, detail, problem."""
        self._deaths: Counter[str] = Counter()
        """Engines that ended while they described a network, by network."""
        self._warned: set[str] = set()
        self._listed_at = 0.0
        self._answers: list[Frame] = []

    async def engine_ready(self, environment: str) -> None:
        """A new engine: what was asked of the old one is asked again."""
        if environment != self.environment:
            self._catalogue = None
        self.environment = environment
        self._asked.clear()
        await self._list()

    def engine_ended(self, how: str) -> None:
        """An engine has ended; a network that it described alone, or one of several, may be the reason.

        After the first such end networks are described one at a time, so that who dies three times is to blame.
        """
        self._deaths.update(self._asked)
        if len(self._asked) != 1:
            return
        (model,) = self._asked
        if self._deaths[model] >= _MOST_DEATHS:
            detail = f"{self._deaths[model]} engines ended while they described {model}, the last with {how}"
            problem = {"problem": "network-does-not-run", "detail": detail}
            self._answers.append(Frame({"type": "card", "model": model, **problem}))

    async def _list(self) -> None:
        self._listed_at = time.monotonic()
        await self._send(Frame({"type": "catalogue"}))

    def hear(self, frame: Frame) -> None:
        """An answer of the engine, of type `card` or `catalogue`; stored by the next `work`."""
        self._answers.append(frame)

    async def work(self) -> None:
        """Store answers and ask for what is wanted.

        Raises:
            ProblemError: `queue-unavailable`; nothing is lost, the next call goes on.
            NoDefaultModelError: from the first catalogue.
        """
        while self._answers:
            await self._store(self._answers[0])
            self._answers.pop(0)
        if self._catalogue is None:
            return
        if await self._cards.environment() == "":
            # The queue's data was lost, or this worker is the first one.
            await self._publish_catalogue()
        if time.monotonic() - self._listed_at > RELIST_S:
            await self._list()
        for model in await self._cards.wanted():
            await self._ask(model)

    async def _store(self, frame: Frame) -> None:
        header = frame.header
        if "problem" in header:
            log.warning("network_unusable", model=header["model"], problem=header["problem"], detail=header["detail"])
            self._asked.discard(header["model"])
            if header["model"]:
                self._remember(header["model"], header["detail"], header["problem"])
                await self._cards.publish_problem(header["model"], header["detail"], header["problem"])
            return
        try:
            if frame.type == "catalogue":
                found = [ModelSummary.model_validate(line) for line in header["catalogue"]]
                if found != self._catalogue:
                    if not self._seen:
                        self._check_default(found)
                    self._seen = True
                    self._catalogue = found
                    self._warn(found)
                    await self._publish_catalogue()
            else:
                await self._cards.publish(ModelCard.model_validate(header["card"]), header["model"])
                self._asked.discard(header["model"])
                self._deaths.pop(header["model"], None)
                log.info("card_published", model=header["model"])
        except ValidationError as error:
            log.error("card_invalid", model=header["model"], error=str(error))
            self._asked.discard(header["model"])
            if header["model"]:
                await self._cards.publish_problem(header["model"], "Its card cannot be read.")

    def _check_default(self, found: list[ModelSummary]) -> None:
        """The first catalogue must have the default network, unless the operator's file could not be read."""
        name, ids = self._default_model, [summary.id for summary in found]
        if name in ids or name.startswith("timm:") or any(summary.problem and not summary.source for summary in found):
            return
        near = get_close_matches(name, ids, n=3, cutoff=0.4)
        raise NoDefaultModelError(
            f"--default-model or CONVSCOPE_DEFAULT_MODEL: there is no network {name!r} in the catalogue"
            + (f"; near: {', '.join(near)}" if near else "")
        )

    def _warn(self, found: list[ModelSummary]) -> None:
        for summary in found:
            if summary.problem is not None and summary.problem not in self._warned:
                self._warned.add(summary.problem)
                log.warning("catalogue_entry_unusable", model=summary.id, problem=summary.problem)

    async def _publish_catalogue(self) -> None:
        # What was found when a network was described is not forgotten because another entry changed.
        lines = [self._with_problem(summary) for summary in self._catalogue or []]
        await self._cards.publish_catalogue(lines, self.environment, self._default_model)
        log.info("catalogue_published", networks=len(self._catalogue or []))
        if await self._cards.peek(self._default_model) is None:
            await self._ask(self._default_model)

    def _remember(self, model: str, detail: str, problem: str) -> None:
        """Keep why an operator's entry cannot be used, as long as it reads as it does."""
        summary = next((summary for summary in self._catalogue or [] if summary.id == model), None)
        if summary is not None and summary.entry_digest is not None:
            self._problems[model] = (summary.entry_digest, detail, problem)

    def _with_problem(self, summary: ModelSummary) -> ModelSummary:
        digest, detail, problem = self._problems.get(summary.id, (None, "", ""))
        if summary.problem is not None or digest is None or digest != summary.entry_digest:
            return summary
        return summary.model_copy(update={"problem": detail, "problem_type": problem})

    async def _ask(self, model: str) -> None:
        one_at_a_time = bool(self._deaths) and bool(self._asked)
        if model not in self._asked and not one_at_a_time:
            if is_uploaded(model):
                if model not in self._fetching:
                    self._fetching[model] = asyncio.create_task(self._fetch_and_ask(model), name=f"fetching {model}")
                return
            self._asked.add(model)
            await self._send(Frame({"type": "describe", "model": model}))

    async def _fetch_and_ask(self, name: str) -> None:
        """Have a network that a caller brought at hand, which may take long, and ask the engine for its card."""
        model_id, _, version = name.partition(VERSION_MARK)
        try:
            await self._network_files.fetch(model_id, version)
            self._asked.add(name)
            await self._send(Frame({"type": "describe", "model": name}))
        except ProblemError as problem:
            log.warning("network_not_fetched", model=name, problem=problem.name, detail=problem.detail)
            if problem.name == "gone":
                await self._cards.publish_problem(name, problem.detail, "gone")
        finally:
            del self._fetching[name]

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way, to be ended with the worker."""
        return list(self._fetching.values())
