"""Decoders that never come back: they cost themselves, and neither those that wait nor those that come later."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from convscope.protocol.problems import ProblemError
from service.images import decoders, uploads
from service.images.decoders import Decoders
from tests.service.support import png_bytes, wait_for

LIMIT_S = 1.0
decode = uploads.decode


class Trap:
    """Work that ends when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.end = threading.Event()

    def __call__(self) -> str:
        self.begun.release()
        self.end.wait()
        return "late"


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.end.set()


async def fails_with(name: str, doing: object) -> None:
    with pytest.raises(ProblemError) as caught:
        await doing  # type: ignore[misc]
    assert caught.value.name == name, caught.value


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_for, condition, "it")


async def test_traps_do_not_keep_a_good_file_from_being_decoded(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are threads; the good file has waited longer than one may take."""
    monkeypatch.setattr(decoders, "LIMIT_S", LIMIT_S)
    monkeypatch.setattr(uploads, "decode", lambda data, *more: trap() if data == b"trap" else decode(data, *more))
    caught = [asyncio.create_task(uploads.decode_image(b"trap", megapixels=1.0)) for _ in range(decoders.AT_ONCE)]
    await until(lambda: trap.begun._value == decoders.AT_ONCE)
    good = await uploads.decode_image(png_bytes(5, 4), megapixels=1.0)
    assert (good.width, good.height) == (5, 4)
    for each in caught:
        await fails_with("unreadable-image", each)


async def test_waiting_is_not_working(trap: Trap) -> None:
    threads = Decoders(1, LIMIT_S, 20.0, 1)
    first = asyncio.create_task(threads.run(trap))
    second = asyncio.create_task(threads.run(lambda: "good"))  # its turn comes when the first one's time is up
    await fails_with("unreadable-image", first)
    assert await second == "good" and threads.stuck == 1
    trap.end.set()
    await until(lambda: threads.stuck == 0)
    assert await threads.run(lambda: "good") == "good"


async def test_when_too_many_are_stuck_others_are_refused_until_one_ends(trap: Trap) -> None:
    threads = Decoders(1, LIMIT_S, 0.5, 1)
    for _ in range(2):
        await fails_with("unreadable-image", threads.run(trap))
    await fails_with("queue-full", threads.run(lambda: "good"))
    trap.end.set()
    await until(lambda: threads.stuck == 0)
    assert await threads.run(lambda: "good") == "good"


async def test_who_leaves_keeps_its_place_only_until_its_decoder_ends(trap: Trap) -> None:
    threads = Decoders(1, 20.0, 20.0, 0)
    leaving = asyncio.create_task(threads.run(trap))
    await until(lambda: trap.begun._value == 1)
    leaving.cancel()
    await asyncio.wait({leaving})
    waiting = asyncio.create_task(threads.run(lambda: "good"))
    trap.end.set()
    assert await waiting == "good" and leaving.cancelled()


async def test_what_a_decoder_raises_is_the_callers() -> None:
    def fail() -> None:
        raise KeyError("tag")

    with pytest.raises(KeyError, match="tag"):
        await Decoders(1, LIMIT_S, LIMIT_S, 1).run(fail)
