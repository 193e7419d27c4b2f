"""Rows of `maximize` do not depend on their company: with `exact` the same bits, with `fast` as good a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.methods.ascents import GRANT, channel, climb, outcome, request, started, step, tiny
from workers.contract import Grant, Progress, Row, params
from workers.engine import checkpoints
from workers.methods.maximize import METHOD
from workers.networks.build import load

JOBS: list[dict[str, Any]] = [
    {"seed": 0, "objective": [channel(0, "2")]},
    {"seed": 1, "objective": [channel(1, "2"), channel(4, "2")]},
    {"seed": 2, "objective": [{"unit": {"layer": "2", "channel": 2, "y": 1, "x": 4}}]},
    {"seed": 3, "objective": [channel(3, "2", "max")], "steps": 8},
    {"seed": 4, "objective": [{"layer": "2", "direction": [1.0, 0, -1, 0, 2, 0, 0, 1], "cosine_power": 2}]},
    {"seed": 5, "objective": [{"layer": "2"}], "stop_at": 2.0},
    {"seed": 6, "objective": [{"sum": [{"weight": -1.0, "of": channel(6, "2")}]}]},
    {"seed": 7, "objective": [channel(7, "2", "center")]},
]


def same(mine: Any, other: Any) -> None:
    saved, expected = METHOD.save([mine]), METHOD.save([other])
    for name in expected:
        if name != "index":
            assert torch.equal(saved[name].nan_to_num(), expected[name].nan_to_num()), name


def padded_step(network: Any, row: Any, states: list[Any], pads: list[Any], tile: int) -> None:
    """A step of a tile that is filled up with copies, as the engine fills it."""
    while len(states) + len(pads) < tile:
        pads.extend(METHOD.load(network, row, METHOD.save(states[:1]), GRANT))
    errors = step(network, [*states, *pads[: tile - len(states)]])
    assert not any(errors[: len(states)])


def alone(network: Any, asked: dict[str, Any], tile: int) -> list[Any]:
    """A job stepped alone in padded tiles."""
    row, states = started(network, asked)
    for state in states:
        pads: list[Any] = []
        while not METHOD.done(state):
            padded_step(network, row, [state], pads, tile)
    return states


@pytest.mark.parametrize(("preset", "steps"), [("pixel", 24), ("lucid", 64), ("maco", 10)])
def test_rows_that_join_leave_and_resume_are_bitwise_their_solo_runs(preset: str, steps: int) -> None:
    network, tile = tiny(), 4
    size = [40, 40] if preset == "maco" else [32, 32]
    extra = {"crops": 2} if preset == "maco" else {}
    asked = [request(preset, **({"steps": steps, "size": size} | extra | job)) for job in JOBS]
    solo = [state for one in asked for state in alone(network, one, tile)]
    waiting = [(one, None) for one in asked]
    company: list[tuple[Any, Any]] = []
    finished: dict[tuple[int, int], Any] = {}
    turn = 0
    while waiting or company:
        if waiting and turn % 5 == 0:  # somebody joins
            one, _ = waiting.pop(0)
            row, states = started(network, one)
            company += [(row, state) for state in states]
        if turn % 7 == 3:  # everybody is saved and loaded
            company = [(row, METHOD.load(network, row, METHOD.save([state]), GRANT)[0]) for row, state in company]
        company = company[1:] + company[:1]  # in another order
        for first in range(0, len(company), tile):
            part = company[first : first + tile]
            padded_step(network, part[0][0], [state for _, state in part], [], tile)
        for row, state in company:
            if METHOD.done(state):
                finished[row.request.seed, state.index] = state
        company = [pair for pair in company if not METHOD.done(pair[1])]
        turn += 1
    assert len(finished) == len(solo) == 9
    for state in solo:
        same(finished[state.seed, state.index], state)


def test_a_step_that_another_kind_of_worker_began_begins_anew() -> None:
    """It looked at one view in a slice, as for a large network or without a GPU; this one looks at four."""
    network, asked = tiny(), request("maco", crops=8, steps=3)
    row, (state,) = started(network, asked)
    _, (through,) = started(network, asked)
    in_turns(network, [through], rows=1)
    step(network, [state])
    saved = METHOD.save([state])
    saved["view"] = torch.tensor([3])
    (resumed,) = METHOD.load(network, row, saved, GRANT)
    in_turns(network, [resumed], rows=1)
    same(resumed, through)


APART: dict[str, Any] = {"diversity": 5.0, "steps": 8}
MIXED = [channel(1, "2")] * 3 + [channel(0, "0")] + [channel(4, "2"), channel(2, "0")]


def in_turns(network: Any, states: list[Any], rows: int) -> None:
    """Step all to their end as the engine does: those that had the fewest turns first, whatever steps these made."""
    turns = dict.fromkeys(range(len(states)), 0)
    while todo := [index for index in turns if not METHOD.done(states[index])]:
        chosen = sorted(todo, key=turns.__getitem__)[:rows]
        assert not any(step(network, [states[index] for index in chosen]))
        for index in chosen:
            turns[index] += 1


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("rows", [3, 4, 6])
def test_diversity_is_the_same_in_every_tile(precision: str, rows: int) -> None:
    """Six rows in tiles of four: the last two of a step share a tile with the first two of the next."""
    network = tiny()
    asked = request("pixel", objective=MIXED, precision=precision, **APART)
    _, one_by_one = started(network, asked)
    in_turns(network, one_by_one, rows=1)
    _, together = started(network, asked)
    in_turns(network, together, rows)
    for mine, other in zip(together, one_by_one, strict=True):
        assert len(mine.losses) == 8
        torch.testing.assert_close(mine.parameters, other.parameters, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["pixel", "maco"])
@pytest.mark.parametrize("moved", [1, 4, 9, 16])
def test_jobs_that_are_saved_in_the_middle_of_a_round_go_on_with_the_same_bits(preset: str, moved: int) -> None:
    network = tiny()
    asked = request(preset, objective=MIXED, crops=1, **APART)
    row, through = started(network, asked)
    in_turns(network, through, rows=1)
    _, resumed = started(network, asked)
    for turn in range(moved):
        step(network, [resumed[turn % 6]])
    resumed = METHOD.load(network, row, METHOD.save(resumed), GRANT)
    in_turns(network, resumed, rows=1)  # the first ones again, which may be a step ahead
    for mine, other in zip(resumed, through, strict=True):
        same(mine, other)


def test_fast_rows_end_within_five_percent_of_their_solo_runs() -> None:
    network = tiny()
    asked = request(objective=[channel(c, "2") for c in range(8)], steps=32, precision="fast")
    together = outcome(network, asked, rows=8).arrays["loss"][:, -1]
    for index in range(8):
        alone_ = outcome(network, asked | {"objective": [channel(index, "2")]}).arrays["loss"][0, -1]
        assert float(together[index]) == pytest.approx(float(alone_), rel=0.05)


def test_bfloat16_rows_end_within_five_percent_of_their_solo_runs_and_of_exact_ones() -> None:
    network = load("efficientnet_lite0")
    asked = request(objective=[channel(c, "blocks.1") for c in (0, 5, 9, 12)], steps=24, size=[64, 64])
    together = outcome(network, asked | {"precision": "fast"}, rows=4).arrays["loss"][:, -1].tolist()
    for precision in ("fast", "exact"):
        solo = outcome(network, asked | {"precision": precision}).arrays["loss"][:, -1].tolist()
        assert together == pytest.approx(solo, rel=0.05), precision


def test_efficientnet_in_a_tile_of_four_is_bitwise_its_run_alone_in_such_a_tile() -> None:
    network = load("efficientnet_lite0")
    jobs = [request(objective=[channel(c, "blocks.1")], seed=c, steps=3, size=[64, 64]) for c in (0, 5, 9)]
    solo = [alone(network, one, 4)[0] for one in jobs]
    rows = [started(network, one) for one in jobs]
    pads: list[Any] = []
    for _ in range(3):
        padded_step(network, rows[0][0], [states[0] for _, states in rows], pads, 4)
    for (_, states), other in zip(rows, solo, strict=True):
        same(states[0], other)


def test_a_job_of_many_pictures_begins_and_ends_in_slices_of_one_each() -> None:
    asked = request("lucid", objective=[channel(index) for index in range(6)], steps=3)
    network, row = tiny(), Row(params(asked))
    at_once, whole = started(network, asked)[1], outcome(network, asked)
    hurried = Grant(slice_s=0.0)
    states, said = _in_slices(METHOD.start(network, row, hurried))
    assert [progress.message for progress in said[:2]] == ["0 of 6 pictures begun", "1 of 6 pictures begun"]
    assert len(said) == 6 and {(progress.done, progress.total) for progress in said} == {(0.0, 3.0)}
    assert all(torch.equal(mine.parameters, its.parameters) for mine, its in zip(states, at_once, strict=True))
    climb(network, states)
    found, said = _in_slices(METHOD.finish(network, row, states, hurried))
    drawn = [progress.message for progress in said if progress.message.endswith("drawn")]
    assert drawn == [*(f"{number} of 6 pictures drawn" for number in range(6)), "all pictures drawn"]
    assert all(torch.equal(found.arrays[name], whole.arrays[name]) for name in whole.arrays)


def _in_slices(made: Any) -> tuple[Any, list[Progress]]:
    said = []
    while True:
        try:
            said.append(next(made))
        except StopIteration as stop:
            return stop.value, said


def test_room_is_told_for_every_picture() -> None:
    listed = params(request("lucid", objective=[channel(index) for index in range(6)], size=[32, 48]))
    network, picture_bytes = tiny(), 4 * 3 * 32 * 48
    assert METHOD.room(network, listed) == (6, 2 * 4 * picture_bytes)  # parameters, two moments, their mean; saved too
    maco = params(request("maco", size=[32, 48]))
    assert METHOD.room(network, maco) == (1, 2 * 5 * picture_bytes)  # slopes over crops, alpha; no mean
    both = params(request("pixel", objective=[channel(0), channel(1)], size=[32, 48], diversity=1.0))
    assert METHOD.room(network, both) == (2, 2 * (3 * picture_bytes + 2 * 4 * 8**2))  # two Gram matrices of 8 channels
    for channels, count in (("top:5", 5), ("strongest", 1)):
        ranked = params(request("lucid", objective=None, layer="3", channels=channels))
        assert METHOD.room(network, ranked)[0] == count


def test_a_checkpoint_of_many_pictures_takes_its_own_size_of_memory_once() -> None:
    """So that a job which was admitted with what it is said to hold is not killed when it is saved."""
    count, size = 48, [160, 160]
    asked = request("lucid", objective=[channel(index % 8) for index in range(count)], size=size)
    _, states = started(tiny(), asked)
    for state in states:
        state.mean, state.averaged = state.parameters.clone(), 1
    held_bytes = METHOD.room(tiny(), params(asked))[1] * count // 2
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before_kib = resident_kib("VmRSS")
    data = checkpoints.pack(METHOD.save(states), digest="x", step=1, tile=1)
    grown_bytes = 1024 * (resident_kib("VmHWM") - before_kib)
    assert 0.9 * held_bytes < len(data) < 1.1 * held_bytes
    assert grown_bytes < 1.5 * held_bytes
    assert len(METHOD.load(tiny(), row_of(asked), checkpoints.unpack(data, digest="x").tensors, GRANT)) == count


def resident_kib(field: str) -> int:
    """Memory of this process, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def row_of(asked: dict[str, Any]) -> Row:
    """A job's row without images."""
    return Row(params(asked), [])
