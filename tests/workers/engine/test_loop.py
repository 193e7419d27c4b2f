"""The engine's loop in this process, with throw-away methods: grouping, failures, tiles, checkpoints, cancels."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.numpy
import torch

from tests.workers.engine.dummies.climb import Climb
from tests.workers.engine.networks import Networks
from workers.engine import reports
from workers.engine.device import DeviceLostError
from workers.engine.loader import NetworkSource
from workers.engine.loop import Engine
from workers.engine.memory import estimate_row_bytes
from workers.engine.registry import find_methods
from workers.engine_config import EngineConfig
from workers.wire import Frame

torch.set_num_threads(1)

PIXELS = bytes(range(48))
DEADLINE_S = 60.0


class Recorder:
    """An outbox that keeps what is said."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def say(self, kind: str, blobs: Any = (), **header: Any) -> None:
        json.dumps(header, allow_nan=False)
        self.frames.append(Frame({"type": kind, **header}, blobs))


class Bench:
    """An engine and shorthands for what a supervisor would send and hear."""

    made: ClassVar[list[Bench]] = []

    def __init__(self, **config: Any) -> None:
        self.config = EngineConfig(
            **{"methods": "tests.workers.engine.dummies", "progress_s": 0.0, "preview_s": 0.0, **config}
        )
        self.said = Recorder()
        source = NetworkSource(Networks(), "code", {})
        self.engine = Engine(self.config, torch.device("cpu"), source, find_methods(self.config.methods), self.said)
        Bench.made.append(self)
        self._names = (f"run{number}" for number in itertools.count())

    def send(self, operation: str = "sums", *, images: int = 1, checkpoint: bytes | None = None, **how: Any) -> str:
        name = next(self._names)
        header = {
            "type": "run",
            "run": name,
            "operation": operation,
            "lane": how.pop("lane", "interactive" if operation == "sums" else "batch"),
            "deadline_s": how.pop("deadline_s", None),
            "alone": how.pop("alone", False),
            "images": [(4, 4)] * images,
            "checkpoint": checkpoint is not None,
        }
        defaults = {"model": "small", "precision": "exact", "seed": 0}
        if operation == "climb":
            defaults |= {"pictures": 1, "steps": 5}
        header["request"] = {**defaults, **how}
        blobs = [PIXELS] * images + ([checkpoint] if checkpoint is not None else [])
        self.engine.inbox.put(Frame(header, tuple(blobs)))
        return name

    def cancel(self, run: str) -> None:
        self.engine.inbox.put(Frame({"type": "cancel", "run": run}))

    def turn(self) -> float | None:
        self.engine._receive(0.0)
        self.engine._expire()
        return self.engine.turn()

    def until(self, what: Callable[[], Any]) -> Any:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            found = what()
            if found:
                return found
            if self.turn():
                time.sleep(0.001)
        raise AssertionError(f"it never came; said: {[frame.header for frame in self.said.frames]}")

    def of(self, run: str, kind: str) -> list[Frame]:
        return [frame for frame in self.said.frames if frame.header.get("run") == run and frame.type == kind]

    def end(self, run: str) -> Frame:
        return self.until(lambda: next(iter(self.of(run, "result") + self.of(run, "failed")), None))

    def problem(self, run: str) -> str:
        frame = self.end(run)
        assert frame.type == "failed", frame.header
        return str(frame.header["problem"])

    def facts(self, run: str) -> dict[str, Any]:
        frame = self.end(run)
        assert frame.type == "result", frame.header
        return dict(frame.header["facts"])

    def arrays(self, run: str) -> Any:
        self.facts(run)
        return safetensors.numpy.load(bytes(self.end(run).blobs[0]))


@pytest.fixture(autouse=True)
def _close_benches() -> Iterator[None]:
    yield
    while Bench.made:
        Bench.made.pop().engine.close()


def test_a_one_shot_job_gives_arrays_facts_and_provenance():
    bench = Bench()
    run = bench.send(seed=4)
    frame = bench.end(run)
    assert frame.header["facts"]["sums"] == [float(sum(PIXELS))]
    assert frame.header["provenance"] == {
        "model": "small", "weights_sha256": "5ha256", "code": "code", "torch": str(torch.__version__), "device": "cpu",
        "precision": "exact", "tile": 1, "seed": 4, "libraries": {}, "notes": [],
    }  # fmt: skip
    assert frame.header["computed_ms"] > 0
    assert bench.arrays(run)["sums"].tolist() == [float(sum(PIXELS))]
    assert [frame.type for frame in bench.said.frames] == ["started", "result"]


def test_equal_jobs_share_one_batch_and_different_ones_do_not():
    bench = Bench(window_s=0.05)
    together = [bench.send() for _ in range(8)]
    other = bench.send(model="other")
    lonely = [bench.send(lonely=True) for _ in range(2)]
    alone = bench.send(alone=True)
    assert [bench.facts(run)["batch"] for run in together] == [8] * 8
    assert [bench.facts(run)["batch"] for run in [other, *lonely, alone]] == [1, 1, 1, 1]


def test_a_row_that_is_refused_fails_alone():
    bench = Bench(window_s=0.05)
    good, bad, also_good = bench.send(), bench.send(act="refuse"), bench.send()
    assert bench.problem(bad) == "not-applicable"
    assert bench.facts(good)["batch"] == bench.facts(also_good)["batch"] == 3


def test_a_method_that_raises_is_tried_row_by_row_and_only_the_guilty_fails():
    bench = Bench(window_s=0.05)
    good, bad, also_good = bench.send(), bench.send(act="raise"), bench.send(act="raise-together")
    assert bench.problem(bad) == "internal-error"
    assert "bug" not in bench.end(bad).header["detail"]
    assert bench.facts(good)["batch"] == bench.facts(also_good)["batch"] == 1


def test_out_of_memory_halves_the_batch_and_a_row_too_large_fails_alone():
    bench = Bench(window_s=0.05)
    fitting = [bench.send(act="oom-above:2") for _ in range(8)]
    assert {bench.facts(run)["batch"] for run in fitting} <= {1, 2}
    too_large = bench.send(act="oom-above:0")
    innocent = bench.send()
    assert bench.problem(too_large) == "out-of-memory"
    assert bench.facts(innocent)["sums"]


def test_facts_that_are_not_finite_fail_their_row():
    bench = Bench(window_s=0.05)
    bad, good = bench.send(act="nan-facts"), bench.send()
    assert bench.problem(bad) == "numerical-error"
    assert bench.facts(good)["batch"] == 2


def test_facts_that_no_frame_can_hold_fail_their_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reports, "MOST_FACTS_BYTES", 20)
    bench = Bench()
    assert bench.problem(bench.send()) == "too-expensive"


def test_a_result_beyond_the_limit_is_refused_with_both_figures():
    bench = Bench(result_mib=1)
    run = bench.send(act="big")
    assert bench.problem(run) == "too-expensive"
    assert "2 MiB" in bench.end(run).header["detail"] and "1 MiB" in bench.end(run).header["detail"]


def test_networks_load_beside_the_work_of_others_and_missing_ones_fail_their_jobs():
    bench = Bench()
    bench.end(bench.send())
    slow, missing, further = bench.send(model="slow"), bench.send(model="missing"), bench.send(further=["missing"])
    quick = bench.send()
    bench.facts(quick)
    assert not bench.of(slow, "result")
    assert bench.problem(missing) == bench.problem(further) == "weights-unavailable"
    assert bench.facts(slow)["network"] == "slow"


def test_an_unknown_operation_fails_and_a_repeated_run_is_taken_once():
    bench = Bench()
    run = bench.send("no-such-operation")
    assert bench.problem(run) == "internal-error"


def test_interactive_work_waits_for_two_slices_of_batch_work_at_most():
    bench = Bench(window_s=0.0)
    for seed in range(4):
        bench.send("climb", steps=10_000, seed=seed)
    bench.until(lambda: bench.engine._slices > 50)
    before = bench.engine._slices
    quick = bench.send(slices=3)
    bench.facts(quick)
    assert bench.engine._slices - before <= 4 + 2


@pytest.mark.parametrize("after", ["started", "progress"])
def test_cancelling_a_batch_closes_its_method_within_two_slices(tmp_path: Path, after: str):
    bench = Bench()
    closed = tmp_path / "closed"
    run = bench.send(slices=1000, closed=str(closed))
    bench.until(lambda: bench.of(run, after))
    before = bench.engine._slices
    bench.cancel(run)
    bench.until(lambda: bench.of(run, "dropped"))
    assert bench.engine._slices - before <= 2
    assert closed.exists()
    bench.turn()
    assert not bench.of(run, "result") and not bench.of(run, "failed")


def test_cancelling_one_of_a_batch_leaves_its_mates_alone():
    bench = Bench(window_s=0.05)
    stays, goes = bench.send(slices=20), bench.send(slices=20)
    bench.until(lambda: bench.of(goes, "progress"))
    bench.cancel(goes)
    assert bench.facts(stays)["batch"] == 2
    assert not bench.of(goes, "result")


def test_a_deadline_ends_waiting_loading_and_running_jobs():
    bench = Bench()
    bench.end(bench.send())
    loading = bench.send(model="slow", deadline_s=0.05)
    running = bench.send("climb", steps=10**9, deadline_s=0.2)
    assert bench.problem(loading) == bench.problem(running) == "deadline-exceeded"
    assert bench.of(running, "progress")


# Iterative work.


def alone(**how: Any) -> Any:
    """The values of a job that runs with nobody else."""
    bench = Bench(tile=how.pop("tile", 0))
    return bench.arrays(bench.send("climb", **how))["values"]


def test_an_iterative_job_steps_all_its_pictures_and_reports():
    bench = Bench()
    run = bench.send("climb", pictures=3, steps=7)
    assert bench.facts(run)["steps"] == [7, 7, 7]
    previews = [frame for frame in bench.of(run, "progress") if "preview" in frame.header]
    assert previews and previews[0].header["preview"] == [4, 4, 3] and bytes(previews[0].blobs[0]) == bytes([7] * 48)
    done = [frame.header["done"] for frame in bench.of(run, "progress")]
    assert done == sorted(done)


@pytest.mark.parametrize("suspect", [True, False])
def test_a_suspect_shows_soon_that_it_gets_on_and_then_ever_more_seldom(suspect: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.engine.iterative.SUSPECT_CHECKPOINT_S", 0.01)
    monkeypatch.setattr("workers.engine.iterative.SAVE_SHARE", 0.0)
    bench, began = Bench(checkpoint_s=60.0), time.monotonic()
    run = bench.send("climb", steps=10**6, step_s=0.001, alone=suspect)
    if not suspect:
        bench.until(lambda: run in bench.engine._runs and bench.engine._runs[run].steps > 100)
        assert not bench.of(run, "checkpoint")
        return
    bench.until(lambda: len(bench.of(run, "checkpoint")) == 5)
    held = bench.engine._runs[run]
    assert held.proving_s == 0.01 * 2**5
    assert time.monotonic() - began > 0.01 * (1 + 2 + 4 + 8 + 16) * 0.95, "the fifth comes after the sum of all pauses"


@pytest.mark.parametrize("tile", [1, 4])
def test_exact_rows_are_bitwise_the_same_alone_and_in_company(tile: int):
    bench = Bench(tile=tile)
    first = [bench.send("climb", seed=seed, steps=64 + seed, pictures=1 + seed % 2) for seed in range(4)]
    bench.until(lambda: bench.engine._slices > 40)
    later = [bench.send("climb", seed=seed, steps=64, pictures=1) for seed in range(4, 8)]
    assert bench.end(first[0]).header["provenance"]["tile"] == tile
    for seed, run in enumerate(first):
        expected = alone(seed=seed, steps=64 + seed, pictures=1 + seed % 2, tile=tile)
        assert (bench.arrays(run)["values"] == expected).all()
    for seed, run in zip(range(4, 8), later, strict=True):
        assert (bench.arrays(run)["values"] == alone(seed=seed, steps=64, tile=tile)).all()


def test_every_exact_tile_has_the_forced_size(monkeypatch: pytest.MonkeyPatch):
    sizes = []
    step = Climb.step
    monkeypatch.setattr(
        Climb,
        "step",
        lambda self, network, states, grant: sizes.append(len(states)) or step(self, network, states, grant),
    )
    bench = Bench(tile=4)
    for run in [bench.send("climb", steps=9, seed=seed) for seed in range(6)]:
        bench.end(run)
    assert set(sizes) == {4}


def test_fast_tiles_take_any_shape_and_grow(monkeypatch: pytest.MonkeyPatch):
    bench = Bench()
    Climb.largest_tile = 0
    runs = [bench.send("climb", precision="fast", steps=30, seed=seed) for seed in range(6)]
    for run in runs:
        bench.end(run)
    assert 1 < Climb.largest_tile <= 6


@pytest.mark.parametrize("tile", [1, 4])
def test_a_job_resumed_from_a_checkpoint_is_bitwise_the_uninterrupted_one(tile: int):
    expected = alone(pictures=3, steps=50, seed=5, tile=tile)
    before = Bench(tile=tile)
    run = before.send("climb", pictures=3, steps=50, seed=5)
    before.send("climb", pictures=1, steps=50, seed=6)
    before.until(lambda: before.engine._slices > 25)
    before.engine.inbox.put(Frame({"type": "drain"}))
    (taken,) = before.until(lambda: before.of(run, "checkpoint"))
    assert 10 < taken.header["step"] < 140
    # Another engine that would choose another tile goes on in the checkpoint's.
    after = Bench()
    resumed = after.send("climb", pictures=3, steps=50, seed=5, checkpoint=bytes(taken.blobs[0]))
    assert (after.arrays(resumed)["values"] == expected).all()
    assert after.end(resumed).header["provenance"]["tile"] == tile
    assert after.engine._slices < 3 * 50


@pytest.mark.parametrize("damage", ["bytes", "request", "method"])
def test_a_checkpoint_that_does_not_fit_is_refused(damage: str):
    before = Bench(checkpoint_s=0.0)
    run = before.send("climb", steps=9, seed=5, act="refuse-checkpoint" if damage == "method" else "")
    data = bytes(before.until(lambda: before.of(run, "checkpoint"))[0].blobs[0])
    if damage == "bytes":
        data = data[: len(data) // 2]
    after = Bench()
    act = "refuse-checkpoint" if damage == "method" else ""
    seed = 6 if damage == "request" else 5
    again = after.send("climb", steps=9, seed=seed, act=act, checkpoint=data)
    after.until(lambda: after.of(again, "refused-checkpoint"))
    assert not after.engine._runs


@pytest.mark.parametrize("operation", ["climb", "sums"])
def test_runs_of_a_replaced_network_share_nothing_with_later_ones(operation: str):
    bench = Bench(window_s=5.0)
    how = {"steps": 10_000, "precision": "fast"} if operation == "climb" else {"slices": 10_000}
    first, mate = bench.send(operation, **how), bench.send(operation, **how)
    bench.until(lambda: first in bench.engine._scheduler and mate in bench.engine._scheduler)
    del bench.engine._loader._networks._held["small"]  # type: ignore[attr-defined]
    later = bench.send(operation, **how)
    bench.until(lambda: later in bench.engine._scheduler)
    runs = bench.engine._runs
    assert runs[first].key == runs[mate].key != runs[later].key
    assert runs[first].network is runs[mate].network is not runs[later].network


def test_draining_checkpoints_what_has_moved():
    bench = Bench()
    run = bench.send("climb", steps=10_000)
    bench.until(lambda: bench.of(run, "progress"))
    bench.engine.inbox.put(Frame({"type": "drain"}))
    bench.until(lambda: [frame for frame in bench.said.frames if frame.type == "drained"])
    assert len(bench.of(run, "checkpoint")) == 1


@pytest.mark.parametrize("operation", ["climb", "sums"])
def test_an_engine_whose_device_answers_no_more_ends_instead_of_failing_jobs(
    operation: str, monkeypatch: pytest.MonkeyPatch
):
    bench = Bench()
    how = {"act": "raise-at:3"} if operation == "climb" else {"act": "raise"}
    run = bench.send(operation, **how)

    def lost() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        bench.end(run)
    assert not bench.of(run, "failed")


def test_one_run_is_saved_when_the_queue_asks_for_it():
    bench = Bench()
    wanted, other = bench.send("climb", steps=10_000), bench.send("climb", steps=10_000)
    bench.until(lambda: bench.of(wanted, "progress") and bench.of(other, "progress"))
    for run in (wanted, "of nobody"):
        bench.engine.inbox.put(Frame({"type": "save", "run": run}))
    bench.until(lambda: bench.of(wanted, "checkpoint"))
    assert len(bench.of(wanted, "checkpoint")) == 1 and not bench.of(other, "checkpoint")


def test_a_job_that_cannot_be_saved_costs_no_other_its_last_checkpoint(monkeypatch: pytest.MonkeyPatch):
    save = Climb.save

    def fails_for_two(self: Climb, states: Any) -> Any:
        if len(states) == 2:
            raise RuntimeError("a bug in the method")
        return save(self, states)

    monkeypatch.setattr(Climb, "save", fails_for_two)
    bench = Bench()
    bad, good = bench.send("climb", steps=10_000, pictures=2), bench.send("climb", steps=10_000)
    bench.until(lambda: bench.of(bad, "progress") and bench.of(good, "progress"))
    bench.engine.inbox.put(Frame({"type": "drain"}))
    bench.until(lambda: [frame for frame in bench.said.frames if frame.type == "drained"])
    assert len(bench.of(good, "checkpoint")) == 1 and not bench.of(bad, "checkpoint")


@pytest.mark.parametrize("tile", [1, 4])
def test_cancelling_one_of_a_tile_leaves_its_mates_their_bits(tile: int):
    bench = Bench(tile=tile)
    gone, stays = bench.send("climb", steps=10_000, seed=1), bench.send("climb", steps=64, seed=2)
    bench.until(lambda: bench.of(gone, "progress") and bench.of(stays, "progress"))
    slices = bench.engine._slices
    bench.cancel(gone)
    bench.until(lambda: bench.of(gone, "dropped"))
    assert bench.engine._slices - slices <= 2
    assert (bench.arrays(stays)["values"] == alone(seed=2, steps=64, tile=tile)).all()


def test_previews_are_made_no_more_often_than_the_setting_says():
    bench = Bench(preview_s=10.0**6)
    run = bench.send("climb", steps=40)
    bench.facts(run)
    reports = bench.of(run, "progress")
    assert len(reports) > 10 and sum("preview" in frame.header for frame in reports) == 1


def test_photographs_to_compare_with_take_no_more_memory_than_a_few_of_them():
    """They go through the network a few at a time, however many there are."""
    bench = Bench()
    run = bench.send("climb", steps=10_000, images=300)
    bench.until(lambda: bench.of(run, "progress"))
    held = bench.engine._runs[run]
    assert bench.engine._scheduler.used("batch") == 32 * estimate_row_bytes(held.network, held.pixels)


def test_a_job_that_has_to_be_alone_makes_its_first_checkpoint_soon():
    bench = Bench(checkpoint_s=10.0**6)
    suspected = bench.send("climb", steps=10**9, alone=True)
    bench.until(lambda: bench.of(suspected, "checkpoint"))
    assert len(bench.of(suspected, "checkpoint")) == 1


@pytest.mark.parametrize("act", ["nan-at:3", "raise-at:3"])
@pytest.mark.parametrize("tile", [1, 4])
def test_a_row_that_fails_in_a_tile_fails_alone_and_others_keep_their_bits(act: str, tile: int):
    bench = Bench(tile=tile)
    good = [bench.send("climb", seed=seed, steps=12) for seed in range(3)]
    bad = bench.send("climb", seed=9, steps=12, act=act)
    assert bench.problem(bad) == ("numerical-error" if act == "nan-at:3" else "internal-error")
    for seed, run in enumerate(good):
        assert (bench.arrays(run)["values"] == alone(seed=seed, steps=12, tile=tile)).all()


def test_a_tile_that_runs_out_of_memory_is_halved_and_one_row_too_large_fails():
    bench = Bench(tile=4)
    fitting = bench.send("climb", steps=5, act="oom-above:2")
    assert bench.facts(fitting)["steps"] == [5]
    assert bench.end(fitting).header["provenance"]["tile"] == 2
    assert bench.problem(bench.send("climb", steps=5, act="oom-above:0")) == "out-of-memory"


def test_starting_and_finishing_may_take_several_slices():
    bench = Bench()
    run = bench.send("climb", steps=2, slow_start=True)
    assert bench.facts(run)["steps"] == [2]
    assert bench.engine._slices == 3 + 2 + 3


def test_a_job_without_pictures_finishes_at_once():
    bench = Bench()
    assert bench.facts(bench.send("climb", pictures=0))["steps"] == []


def test_describing_and_listing_go_on_beside_the_work():
    bench = Bench()
    bench.send("climb", steps=10_000)
    for header in (
        {"type": "describe", "model": "small"},
        {"type": "describe", "model": "missing"},
        {"type": "catalogue"},
    ):
        bench.engine.inbox.put(Frame(header))
    bench.until(lambda: len([frame for frame in bench.said.frames if frame.type in ("card", "catalogue")]) == 3)
    cards = {frame.header["model"]: frame.header for frame in bench.said.frames if frame.type == "card"}
    assert cards["small"]["card"]["id"] == "small"
    assert cards["missing"]["problem"] == "weights-unavailable"
    (listing,) = [frame for frame in bench.said.frames if frame.type == "catalogue"]
    assert [line["id"] for line in listing.header["catalogue"]] == ["small", "other", "slow", "missing"]
