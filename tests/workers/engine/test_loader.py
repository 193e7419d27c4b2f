"""The loader of networks: nobody waits for another's download, gets what was replaced, or is forgotten."""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.workers.engine.networks import Networks, Small
from workers.contract import MethodError
from workers.engine.loader import THREADS, Loader

PATIENCE_S = 30.0


class Slow(Networks):
    """Loads a network when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_load = threading.Event()
        self.loads: queue.Queue[str] = queue.Queue()

    def held(self, model: str) -> Small | None:
        return self._held.get(model)

    def get(self, model: str) -> Small:
        self.loads.put(model)
        assert self.may_load.wait(PATIENCE_S)
        return super().get(model)

    def replace(self, model: str) -> None:
        """Its entry reads otherwise now."""
        del self._held[model]


@pytest.fixture
def answers() -> queue.Queue[tuple[str, str, Any]]:
    return queue.Queue()


@pytest.fixture
def networks() -> Slow:
    return Slow()


@pytest.fixture
def loader(networks: Slow, answers: queue.Queue[tuple[str, str, Any]]) -> Iterator[Loader]:
    made = Loader(networks, lambda *answer: answers.put(answer))
    yield made
    networks.may_load.set()
    made.close()


def test_a_network_that_was_replaced_is_not_handed_over(
    loader: Loader, networks: Slow, answers: queue.Queue[tuple[str, str, Any]]
) -> None:
    networks.may_load.set()
    loader.load("small")
    _, _, old = answers.get(timeout=PATIENCE_S)  # kept alive here, as by a run that has not ended
    loader.load("small")
    assert answers.get(timeout=PATIENCE_S)[2] is old
    networks.replace("small")
    loader.load("small")
    _, _, new = answers.get(timeout=PATIENCE_S)
    assert isinstance(new, Small) and new is not old


def test_who_asks_while_a_network_is_looked_after_hears_of_it(
    loader: Loader, networks: Slow, answers: queue.Queue[tuple[str, str, Any]]
) -> None:
    """A thread sees to a network for somebody who has it; it goes, and another asks: a job that nobody wakes."""
    networks.may_load.set()
    loader.load("small")
    answers.get(timeout=PATIENCE_S)
    networks.may_load.clear()
    loader.load("small")
    answers.get(timeout=PATIENCE_S)  # it is there, and a thread has it in hand besides
    assert [networks.loads.get(timeout=PATIENCE_S) for _ in range(2)] == ["small", "small"]
    networks.replace("small")
    gc.collect()
    loader.load("small")
    assert answers.empty()
    networks.may_load.set()
    assert answers.get(timeout=PATIENCE_S)[:2] == ("network", "small")


def test_nobody_waits_for_the_downloads_of_others(
    loader: Loader, networks: Slow, answers: queue.Queue[tuple[str, str, Any]]
) -> None:
    networks.may_load.set()
    loader.load("small")
    answers.get(timeout=PATIENCE_S)
    networks.may_load.clear()
    for number in range(THREADS + 2):
        loader.load(f"download {number}")
    loader.load("small")
    assert answers.get(timeout=PATIENCE_S)[1] == "small"


def test_one_that_cannot_be_had_says_so_each_time(
    loader: Loader, networks: Slow, answers: queue.Queue[tuple[str, str, Any]]
) -> None:
    networks.may_load.set()
    for _ in range(2):
        loader.load("missing")
        assert isinstance(answers.get(timeout=PATIENCE_S)[2], MethodError)
