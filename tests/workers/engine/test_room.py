"""What jobs of many pictures are admitted with, and how many of their rows a step takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.workers.engine.dummies.climb import Climb
from tests.workers.engine.test_loop import Bench
from workers.engine.memory import Meter

HELD_BYTES, ROW_BYTES = 10**9, 10**8


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dummies that say what they hold, and remember the largest step."""
    monkeypatch.setattr(Climb, "room", lambda self, network, request: (request.pictures, HELD_BYTES))
    monkeypatch.setattr(Climb, "largest_tile", 0)
    monkeypatch.setattr(Meter, "row_bytes", lambda *ignored: ROW_BYTES)
    yield
    while Bench.made:
        Bench.made.pop().engine.close()


def begun(batch_bytes: int) -> Bench:
    """An engine with so much memory for long work."""
    bench = Bench()
    bench.engine._limits.memory["batch"] = batch_bytes
    return bench


@pytest.mark.parametrize(
    ("how", "rows"), [({"pictures": 7}, 1), ({"pictures": 7, "precision": "fast"}, 7), ({"precision": "fast"}, 1)]
)
def test_a_job_is_admitted_with_what_all_its_pictures_hold_and_a_step_takes(how: dict[str, Any], rows: int) -> None:
    bench = begun(10**12)
    bench.engine._tiles.fast._first = 16
    run = bench.send("climb", steps=10_000, **how)
    bench.until(lambda: bench.of(run, "progress"))
    assert bench.engine._scheduler.used("batch") == rows * ROW_BYTES + how.get("pictures", 1) * HELD_BYTES


def test_padded_rows_take_memory_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of one picture in a tile of four: four rows are admitted, and what is measured is divided by four."""
    measured: list[int] = []
    monkeypatch.setattr(Meter, "end", lambda self, key, rows: measured.append(rows))
    bench = Bench(tile=4)
    bench.engine._limits.memory["batch"] = 10**12
    run = bench.send("climb", steps=20)
    bench.until(lambda: bench.of(run, "progress"))
    assert bench.engine._scheduler.used("batch") == 4 * ROW_BYTES + HELD_BYTES
    bench.end(run)
    assert set(measured) == {4}


def test_small_work_is_done_while_a_large_job_waits_for_another() -> None:
    bench = begun(10 * HELD_BYTES)
    first, second = (bench.send("climb", pictures=7, steps=400, seed=seed) for seed in range(2))
    small = bench.send("climb", pictures=1, steps=3, seed=2)
    bench.end(small)
    assert not bench.of(first, "result") and not bench.of(second, "started")
    bench.facts(first)
    bench.facts(second)


def test_a_second_job_waits_until_there_is_room_for_all_of_it() -> None:
    bench = begun(10 * HELD_BYTES)
    first, second = (bench.send("climb", pictures=7, steps=50) for _ in range(2))
    bench.end(first)
    assert not bench.of(second, "started")
    bench.facts(second)


def test_a_job_that_could_never_be_held_is_refused_at_once() -> None:
    bench = begun(10 * HELD_BYTES)
    failed = bench.end(bench.send("climb", pictures=11))
    assert failed.header["problem"] == "out-of-memory"
    assert "10,490 MiB" in failed.header["detail"] and "9,537 MiB" in failed.header["detail"]
    bench.facts(bench.send("climb", pictures=10))


def test_steps_of_fast_groups_keep_within_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Climb, "room", lambda self, network, request: (request.pictures, 0))
    bench = begun(5 * ROW_BYTES)
    bench.engine._tiles.fast._first = 64
    bench.facts(bench.send("climb", precision="fast", pictures=64, steps=20))
    assert Climb.largest_tile == 5
