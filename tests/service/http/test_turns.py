"""Turns: a bound by size, small ones first, nobody waits for ever, whoever leaves leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from convscope.protocol.problems import ProblemError
from service.http import turns
from service.http.turns import Turns


async def begin(gate: Turns, size: int, order: list[int], hold: asyncio.Event) -> None:
    async with gate.turn(size):
        order.append(size)
        await hold.wait()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_than_the_bound_and_the_smallest_first() -> None:
    gate, order, hold = Turns(10, "drawn", 60), [], asyncio.Event()
    tasks = []
    for size in (8, 9, 3, 2, 1):
        tasks.append(asyncio.create_task(begin(gate, size, order, hold)))
        await settled()
    assert (order, gate.held, gate.waiting) == ([8, 2], 10, 3)
    hold.set()
    await asyncio.gather(*tasks)
    assert order == [8, 2, 1, 3, 9] and (gate.held, gate.waiting) == (0, 0)


async def test_what_is_larger_than_the_bound_goes_alone() -> None:
    gate, order, hold = Turns(10, "drawn", 60), [], asyncio.Event()
    tasks = [asyncio.create_task(begin(gate, size, order, hold)) for size in (100, 1)]
    await settled()
    assert order == [100] and gate.held == 10
    hold.set()
    await asyncio.gather(*tasks)
    assert order == [100, 1]


async def test_who_waited_long_goes_before_everybody_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 0.0)
    gate, order = Turns(10, "drawn", 60), []
    first, rest = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(begin(gate, 6, order, first))]
    await settled()
    for size in (9, 1, 2):
        tasks.append(asyncio.create_task(begin(gate, size, order, rest)))
        await settled()
    assert order == [6], "one that waits for long is not overtaken"
    first.set()
    await settled()
    assert order == [6, 9, 1]
    rest.set()
    await asyncio.gather(*tasks)
    assert order == [6, 9, 1, 2]


async def test_whoever_leaves_or_waits_in_vain_leaves_nothing_behind() -> None:
    gate, order, hold = Turns(10, "drawn", 0.05), [], asyncio.Event()
    holder = asyncio.create_task(begin(gate, 10, order, hold))
    leaver = asyncio.create_task(begin(gate, 5, order, hold))
    await settled()
    leaver.cancel()
    with pytest.raises(ProblemError, match="queue-full"):
        await gate.take(5)
    await asyncio.gather(leaver, return_exceptions=True)
    assert (gate.waiting, gate.held, order) == (0, 10, [10])
    hold.set()
    await holder
    assert gate.held == 0
