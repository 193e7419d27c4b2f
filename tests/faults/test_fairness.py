"""Greedy callers beside others: who gets a place and a turn, with a real worker and its engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from convscope.protocol.problems import ProblemError
from convscope.queue.jobs import JobState
from tests.faults.conftest import Start
from tests.workers.harness import Client, until

ROOM = {"quick_runs": 4, "interactive_runs": 8, "batch_runs": 4}
SLICE_S = 0.2


async def _slices(client: Client, jobs: list[str], caller: str) -> float:
    """Slices that these jobs have had together."""
    return sum([(await client.get(job, caller)).progress.done for job in jobs])


def _running(client: Client, jobs: list[str], caller: str, count: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        states = [(await client.get(job, caller)).state for job in jobs]
        return states.count(JobState.RUNNING) >= count

    return look


async def test_row_39_quick_work_starts_within_two_slices_beside_a_flood_of_long_requests(
    start: Start, client: Client, tmp_path: Path
):
    worker = start(**ROOM)
    await worker.said("engine_ready")
    trace = tmp_path / "trace"
    # Each can be computed with nobody else's, as the occlusions of different images.
    flood = [
        await client.submit(caller="greedy", slices=10**6, slice_s=SLICE_S, lonely=True, seed=seed, trace=str(trace))
        for seed in range(36)
    ]
    climbs = [
        await client.submit("climb", caller="greedy", steps=10**6, step_s=SLICE_S, seed=seed) for seed in range(20)
    ]
    await until(_running(client, flood, "greedy", 6))
    await until(_running(client, climbs, "greedy", 3))
    waits = []
    for seed in range(100, 109):
        before = len(trace.read_text().splitlines())
        quick = await client.submit(lane="quick", caller="quiet", seed=seed, slices=2, trace=str(trace))
        assert (await client.end(quick, "quiet")).state is JobState.SUCCEEDED
        waits.append(trace.read_text().splitlines().index(str(seed)) - before)
    # Two of the flood's slices, those of its ascents not counted, and one that was on its way; what passes between the
    # submission and the engine depends on the machine.
    assert sorted(waits)[len(waits) // 2] <= 3 < len(flood), waits
    # And an interactive request of another caller has a place as well, though the flood waits for one.
    other = await client.submit(caller="quiet", slices=3, slice_s=0.01, seed=99)
    assert (await client.end(other, "quiet")).state is JobState.SUCCEEDED
    claimed = {line["run"] for line in worker.lines("run_claimed")}
    assert len(claimed & set(flood)) == 6, "three of four interactive places, and no more"
    assert len(claimed & set(climbs)) == 3


async def test_row_39_long_work_that_waited_long_leaves_most_interactive_places(start: Start, client: Client):
    worker = start(**ROOM)
    await worker.said("engine_ready")
    climbs = [await client.submit("climb", steps=10**6, step_s=0.02, seed=seed, bounded=False) for seed in range(20)]
    await until(_running(client, climbs, "tester", 4))
    for job in climbs:  # as if they had waited for an hour
        await client.age(job)

    async def look() -> bool:
        await client.submit(lane="interactive", slices=1)  # claims come with requests
        return len({line["run"] for line in worker.lines("run_claimed")} & set(climbs)) >= 6

    await until(look)
    for number in range(30):
        job = await client.end(await client.submit(lane="interactive", slices=2, seed=number))
        assert job.state is JobState.SUCCEEDED
    held = {line["run"] for line in worker.lines("run_claimed")} & set(climbs)
    assert len(held) == 6, "four places of their own, and a quarter of the eight interactive ones"


async def test_row_39_callers_share_the_device_whatever_they_send(start: Start, client: Client):
    worker = start(**ROOM)
    await worker.said("engine_ready")
    many = [
        await client.submit(caller="greedy", slices=10**6, slice_s=0.02, lonely=True, seed=seed) for seed in range(6)
    ]
    await until(_running(client, many, "greedy", 6))
    one = await client.submit(caller="quiet", slices=10**6, slice_s=0.02, lonely=True, seed=77)
    await until(_running(client, [one], "quiet", 1))
    first, first_many = await _slices(client, [one], "quiet"), await _slices(client, many, "greedy")

    async def far() -> bool:
        return await _slices(client, [one], "quiet") - first >= 150

    await until(far)
    theirs = await _slices(client, many, "greedy") - first_many
    mine = await _slices(client, [one], "quiet") - first
    assert 0.6 < theirs / mine < 1.6, "half of the device is the one's and half is the other's"


async def test_row_40_what_is_sent_and_cancelled_again_and_again_meets_the_quota(start: Start, client: Client):
    worker = start(**ROOM)
    await worker.said("engine_ready")
    sent = 0
    with pytest.raises(ProblemError) as refused:
        for sent in range(1000):
            job = await client.submit("climb", caller="greedy", steps=10**6, seed=sent, caller_jobs=20)
            await client.jobs.cancel(job, "greedy")
    assert refused.value.name == "quota-exceeded"
    assert 20 <= sent < 60  # one that has just ended may be counted late
    other = await client.submit("climb", caller="quiet", steps=3, caller_jobs=20)
    assert (await client.end(other, "quiet")).state is JobState.SUCCEEDED
