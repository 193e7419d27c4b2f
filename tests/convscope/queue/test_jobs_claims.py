"""Who gets what when: order, ageing, crashes, runs that must be alone, bounds."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from convscope.queue.jobs import NO_QUOTA, Claim, Job, Jobs, JobState, Verdict, WorkerInfo
from convscope.queue.keys import SAVED_WITHIN_MS, key
from tests.convscope.queue.queue_steps import (
    ERROR,
    ME,
    claim,
    claim_one,
    lose_lease,
    make_queue,
    problem_of,
    spec,
    submit,
)


async def _in_order(jobs: Jobs, lane: str, number: int) -> list[str]:
    """Submissions of different milliseconds, whose order is certain."""
    ids = []
    for _ in range(number):
        ids.append((await submit(jobs, lane=lane)).id)
        await asyncio.sleep(0.002)
    return ids


async def test_interactive_work_first_and_the_oldest_of_it(redis: Redis) -> None:
    jobs = make_queue(redis)
    slow = await _in_order(jobs, "batch", 3)
    quick = await _in_order(jobs, "interactive", 3)
    assert [run.run for run in await claim(jobs, interactive=2, batch=1)] == [*quick[:2], slow[0]]
    assert [run.run for run in await claim(jobs, interactive=2, batch=0)] == quick[2:]
    assert await claim(jobs, interactive=0, batch=0) == []
    assert [(run.run, run.slot) for run in await claim(jobs)] == [(slow[1], "batch"), (slow[2], "batch")]


async def test_unknown_operations_are_left_to_others(redis: Redis) -> None:
    jobs = make_queue(redis)
    for number in range(120):  # more than the script looks at together
        await submit(jobs, operation="of-the-next-version", caller=str(number % 7))
    known = await submit(jobs)
    assert (await claim_one(jobs)).run == known.id
    assert await redis.zcard(key("lane", "interactive")) == 120


async def test_batch_work_never_starves_where_only_interactive_work_is_taken(redis: Redis) -> None:
    jobs = make_queue(redis, aged_s=0)
    aged = (await _in_order(jobs, "batch", 2))[0]
    for _ in range(40):
        await submit(jobs)
    slots = []
    for _ in range(8):
        (run,) = await claim(jobs, interactive=1, batch=0)
        slots.append((run.lane, run.slot))
        await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1)
    assert slots.count(("batch", "interactive")) == 2
    assert (await jobs.get(aged, ME)).state is JobState.SUCCEEDED


async def test_young_batch_work_takes_no_interactive_slot(redis: Redis) -> None:
    jobs = make_queue(redis)
    await submit(jobs, lane="batch")
    assert [await claim(jobs, interactive=1, batch=0) for _ in range(8)] == [[]] * 8


# Crashes.


async def _crash(jobs: Jobs, runs: list[Claim]) -> list[Verdict]:
    return [await jobs.requeue(run.run, run.epoch, crashed=True, reason="signal 11") for run in runs]


async def test_the_innocent_of_a_crash_are_retried_alone_and_the_poison_fails(redis: Redis) -> None:
    jobs = make_queue(redis)
    poison = (await submit(jobs)).id
    await asyncio.sleep(0.002)
    innocent = set(await _in_order(jobs, "interactive", 7))
    batch = await claim(jobs)
    assert len(batch) == 8 and not any(run.alone for run in batch)
    await _crash(jobs, batch)
    crashes = 0
    seen = set()
    while runs := await claim(jobs):
        (run,) = runs
        assert run.alone and await claim(jobs) == [], "nothing beside it"
        if run.run == poison:
            crashes += 1
            await _crash(jobs, runs)
        else:
            seen.add(run.run)
            await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1)
    assert (crashes, seen) == (3, innocent)
    failed = await jobs.get(poison, ME)
    assert failed.state is JobState.FAILED and failed.error is not None
    assert failed.error["name"] == "worker-crashed" and "signal 11" in failed.error["detail"]


async def test_a_checkpoint_takes_the_suspicion_away(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    other = await submit(jobs, lane="batch")
    first = await claim(jobs, batch=0)
    await _crash(jobs, first)
    for step in range(6):  # twice as often as would be allowed without a checkpoint between
        (run,) = await claim(jobs, batch=0)
        assert run.alone and run.checkpoint == (f"checkpoints/{step}" if step else None)
        assert await jobs.checkpointed(run.run, run.epoch, f"checkpoints/{step + 1}", step + 1) is Verdict.GO_ON
        beside = await claim(jobs)
        assert [one.run for one in beside] == [other.id]
        await _crash(jobs, [run])
        await jobs.requeue(other.id, beside[0].epoch, crashed=False)
        assert (await jobs.get(job.id, ME)).state is JobState.QUEUED


async def test_suspects_of_a_crash_take_turns_at_being_alone(redis: Redis) -> None:
    """Each goes back as soon as it has shown that it gets on, and all of them go on together after that."""
    jobs = make_queue(redis)
    suspects = [await submit(jobs, lane="batch") for _ in range(3)]
    await _crash(jobs, await claim(jobs))
    later = await submit(jobs, lane="batch")
    await redis.zadd(key("lane", "batch"), {later.id: 1})  # not even older work comes between
    waiting = {job.id for job in suspects}
    for number in range(3):
        (run,) = await claim(jobs)
        assert run.alone
        waiting.remove(run.run)
        verdict = await jobs.checkpointed(run.run, run.epoch, f"checkpoints/{number}", 1)
        if number < 2:
            assert verdict is Verdict.PARK
            assert await claim(jobs) == []  # nothing comes between
            assert await jobs.requeue(run.run, run.epoch, crashed=False) is Verdict.GO_ON
        else:
            assert verdict is Verdict.GO_ON
    together = await claim(jobs)
    assert {run.run for run in together} == {later.id, *(job.id for job in suspects)} - {run.run}
    assert not any(one.alone for one in together) and together[1].checkpoint_step == 1


async def test_quick_suspects_come_before_long_ones_that_waited_as_long(redis: Redis) -> None:
    jobs = make_queue(redis, alone_patience_s=0)
    for _ in range(3):
        await submit(jobs, lane="batch")
    quick = await submit(jobs)
    await _crash(jobs, await claim(jobs))
    (run,) = await claim(jobs)
    assert (run.run, run.alone) == (quick.id, True)


async def test_two_checkpoints_are_kept(redis: Redis) -> None:
    jobs = make_queue(redis)
    await submit(jobs)
    run = await claim_one(jobs)
    for step in (1, 2, 3, 3):  # the last one is sent again
        await jobs.checkpointed(run.run, run.epoch, f"checkpoints/{step}", step)
    await jobs.requeue(run.run, run.epoch, crashed=False)
    again = await claim_one(jobs)
    assert (again.checkpoint, again.previous_checkpoint, again.checkpoint_step) == ("checkpoints/3", "checkpoints/2", 3)
    assert (again.epoch, again.attempt, again.alone) == (2, 2, False)


async def test_a_graceful_stop_is_no_crash(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    for attempt in range(1, 12):
        run = await claim_one(jobs)
        assert (run.attempt, run.alone) == (attempt, False)
        assert await jobs.requeue(run.run, run.epoch, crashed=False) is Verdict.GO_ON
    assert (await jobs.get(job.id, ME)).state is JobState.QUEUED


async def test_a_lost_lease_is_no_crash_but_does_not_loop_for_ever(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    alone = []
    while runs := await claim(jobs):
        alone.append(runs[0].alone)
        await lose_lease(redis, jobs, job.id)
        assert len(alone) < 20
    assert alone == [False] * 3 + [True] * 6
    failed = await jobs.get(job.id, ME)
    assert failed.error is not None and failed.error["name"] == "worker-crashed"


async def test_a_run_that_must_be_alone_gets_its_worker(redis: Redis) -> None:
    """Every worker is busy: after a while one takes no more batch work and has what it holds saved, later nothing."""
    jobs = make_queue(redis, alone_patience_s=0, aged_s=3600)
    suspect = await submit(jobs, lane="batch")
    await _crash(jobs, await claim(jobs))
    busy = [await submit(jobs, lane="batch") for _ in range(2)]
    # Both workers hold something else from before.
    held = {}
    for worker, job in zip(("w1", "w2"), busy, strict=True):
        await redis.zrem(key("alone"), suspect.id)
        await redis.hset(key("run", suspect.id), "state", "hidden")
        held[worker] = (await claim(jobs, worker, batch=1))[0]
        assert held[worker].run in {job.id for job in busy}, job
        await redis.hset(key("run", suspect.id), "state", "queued")
    await redis.zadd(key("lane", "batch"), {suspect.id: 1})
    await redis.zadd(key("alone"), {suspect.id: 1})
    more = await submit(jobs, lane="batch")
    quick = await submit(jobs)
    assert [run.run for run in await claim(jobs, "w1")] == [quick.id], "w1 takes no more batch work"
    assert [run.run for run in await claim(jobs, "w2")] == [more.id], "the other one goes on"
    assert await jobs.renew("w1", [(held["w1"].run, 1), (quick.id, 1)]) == {
        held["w1"].run: Verdict.SAVE,
        quick.id: Verdict.GO_ON,
    }
    assert await jobs.renew("w2", [(held["w2"].run, 1), (more.id, 1)]) == {
        held["w2"].run: Verdict.GO_ON,
        more.id: Verdict.GO_ON,
    }
    assert await jobs.checkpointed(held["w2"].run, 1, "checkpoints/2", 7) is Verdict.GO_ON
    await submit(jobs)
    jobs_later = make_queue(redis, alone_patience_s=0, aged_s=0)
    assert await claim(jobs_later, "w1") == [], "after a long time w1 takes nothing at all"
    await jobs.finish(quick.id, 1, manifest="m", computed_ms=1)
    await jobs.finish(held["w1"].run, held["w1"].epoch, manifest="m", computed_ms=1)
    (given,) = await claim(jobs_later, "w1")
    assert (given.run, given.alone) == (suspect.id, True)


async def test_what_is_in_the_way_of_a_run_that_must_be_alone_is_saved_and_goes_on_after_it(redis: Redis) -> None:
    jobs = make_queue(redis, alone_patience_s=0, aged_s=3600)
    suspect = await submit(jobs, lane="batch")
    await _crash(jobs, await claim(jobs, "w1"))
    await redis.hset(key("run", suspect.id), "state", "hidden")
    long, quick = await submit(jobs, lane="batch"), await submit(jobs)
    held = {run.run: run for run in await claim(jobs, "w2")}
    assert set(held) == {long.id, quick.id}
    await redis.hset(key("run", suspect.id), "state", "queued")
    await redis.zadd(key("lane", "batch"), {suspect.id: 1})
    await redis.zadd(key("alone"), {suspect.id: 1})
    later = await submit(jobs)
    assert [run.run for run in await claim(jobs, "w2")] == [later.id], "it is not idle soon: quick work goes on"
    verdicts = await jobs.renew("w2", [(run, 1) for run in held])
    assert verdicts == {long.id: Verdict.SAVE, quick.id: Verdict.GO_ON}
    assert await jobs.checkpointed(long.id, 1, "checkpoints/1", 7) is Verdict.PARK
    assert await jobs.checkpointed(long.id, 1, "checkpoints/1", 7) is Verdict.PARK, "sent again"
    assert await jobs.requeue(long.id, 1, crashed=False) is Verdict.GO_ON
    await submit(jobs)
    assert await claim(jobs, "w2") == [], "what it has left is quick: it takes nothing until that is done"
    for run in (quick.id, later.id):
        await jobs.finish(run, 1, manifest="m", computed_ms=1)
    (alone,) = await claim(jobs, "w2")
    assert (alone.run, alone.alone) == (suspect.id, True)
    assert await jobs.renew("w2", [(suspect.id, alone.epoch)]) == {suspect.id: Verdict.GO_ON}
    assert await jobs.checkpointed(suspect.id, alone.epoch, "checkpoints/2", 1) is Verdict.GO_ON
    again = {run.run: run for run in await claim(jobs, "w2")}
    assert (again[long.id].checkpoint, again[long.id].checkpoint_step, again[long.id].alone) == (
        "checkpoints/1",
        7,
        False,
    )


async def _with_a_suspect(redis: Redis, jobs: Jobs, *workers: str) -> tuple[Job, dict[str, Claim]]:
    """A run that has to be alone, and workers that had a long run each before it came."""
    suspect = await submit(jobs, lane="batch")
    await _crash(jobs, await claim(jobs, "w0"))
    await redis.hset(key("run", suspect.id), "state", "hidden")
    await redis.zrem(key("alone"), suspect.id)
    held = {}
    for worker in workers:
        await submit(jobs, lane="batch")
        (held[worker],) = await claim(jobs, worker)
    await redis.hset(key("run", suspect.id), "state", "queued")
    await redis.zadd(key("lane", "batch"), {suspect.id: 1})
    await redis.zadd(key("alone"), {suspect.id: 1})
    return suspect, held


async def test_a_worker_whose_long_work_cannot_be_saved_leaves_the_suspect_to_others(redis: Redis) -> None:
    jobs = make_queue(redis, alone_patience_s=0, aged_s=0)
    suspect, held = await _with_a_suspect(redis, jobs, "w1", "w2")
    one, two = held["w1"].run, held["w2"].run
    assert await claim(jobs, "w1") == [] and await redis.get(key("draining")) == "w1"
    assert await jobs.renew("w1", [(one, 1)]) == {one: Verdict.SAVE}
    asked_ms = int(await redis.hget(key("run", one), "asked_ms"))
    await redis.hset(key("run", one), "asked_ms", asked_ms - SAVED_WITHIN_MS)
    quick = await submit(jobs)
    assert [run.run for run in await claim(jobs, "w1")] == [quick.id], "it goes on, for quick work too"
    assert await jobs.renew("w1", [(one, 1)]) == {one: Verdict.GO_ON}
    assert await claim(jobs, "w2") == [] and await redis.get(key("draining")) == "w2"
    assert await jobs.renew("w2", [(two, 1)]) == {two: Verdict.SAVE}
    assert await jobs.checkpointed(two, 1, "checkpoints/2", 3) is Verdict.PARK
    assert await jobs.requeue(two, 1, crashed=False) is Verdict.GO_ON
    (alone,) = await claim(jobs, "w2")
    assert (alone.run, alone.alone) == (suspect.id, True)
    assert await jobs.finish(one, 1, manifest="m", computed_ms=1) is Verdict.GO_ON


async def test_who_did_not_hear_that_a_run_is_asked_back_hears_it_with_the_next_renewal(redis: Redis) -> None:
    jobs = make_queue(redis, alone_patience_s=0, aged_s=3600)
    suspect, held = await _with_a_suspect(redis, jobs, "w1")
    run = held["w1"].run
    await claim(jobs, "w1")
    assert await jobs.checkpointed(run, 1, "checkpoints/1", 3) is Verdict.PARK
    assert await jobs.renew("w1", [(run, 1)]) == {run: Verdict.PARK}
    assert await jobs.requeue(run, 1, crashed=False) is Verdict.GO_ON
    (alone,) = await claim(jobs, "w1")
    assert (alone.run, alone.alone) == (suspect.id, True)


async def test_crashes_count_until_a_run_has_got_further_than_ever_before(redis: Redis) -> None:
    """One whose newest checkpoint is damaged goes over steps again that it had made."""
    jobs = make_queue(redis, crashes=2)
    job = await submit(jobs)
    run = await claim_one(jobs)
    assert await jobs.checkpointed(run.run, run.epoch, "checkpoints/9", 9) is Verdict.GO_ON
    await _crash(jobs, [run])
    await _crash(jobs, [run := await claim_one(jobs)])
    run = await claim_one(jobs)
    assert await jobs.checkpointed(run.run, run.epoch, "checkpoints/4", 4) is Verdict.GO_ON
    await _crash(jobs, [run])
    assert (await jobs.get(job.id, ME)).state is JobState.QUEUED, "it was not alone: it had shown that it gets on"
    await _crash(jobs, [await claim_one(jobs)])
    assert (await jobs.get(job.id, ME)).state is JobState.FAILED


# Leases.


async def test_only_the_holder_of_the_newest_epoch_is_heard(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    old = await claim_one(jobs, "w1")
    await lose_lease(redis, jobs, job.id)
    new = await claim_one(jobs, "w2")
    assert new.epoch == old.epoch + 1
    assert await jobs.renew("w1", [(job.id, old.epoch)]) == {job.id: Verdict.FENCED}
    assert await jobs.renew("w1", [(job.id, new.epoch)]) == {job.id: Verdict.FENCED}
    assert await jobs.requeue(job.id, old.epoch, crashed=True) is Verdict.FENCED
    assert await jobs.checkpointed(job.id, old.epoch, "checkpoints/old", 1) is Verdict.FENCED
    assert await jobs.finish(job.id, old.epoch, manifest="old", computed_ms=1) is Verdict.FENCED
    assert (await jobs.stats()).counters["fenced_writes"] == 5
    # Nor after the second one has died too.
    await lose_lease(redis, jobs, job.id)
    assert await jobs.finish(job.id, old.epoch, manifest="old", computed_ms=1) is Verdict.FENCED
    third = await claim_one(jobs, "w3")
    assert await jobs.finish(job.id, third.epoch, manifest="new", computed_ms=1) is Verdict.GO_ON
    assert (await jobs.get(job.id, ME)).manifest == "new"


async def test_renewing_keeps_the_lease(redis: Redis) -> None:
    jobs = make_queue(redis, lease_s=6)
    job = await submit(jobs)
    run = await claim_one(jobs)
    await redis.zadd(key("leases"), {job.id: 1})
    assert await jobs.renew("w1", [(run.run, run.epoch)]) == {run.run: Verdict.GO_ON}
    assert (await jobs.sweep()).leases_lost == 0
    seconds, _ = await redis.time()
    assert abs(await redis.zscore(key("leases"), job.id) - (seconds + 6) * 1000) < 3000
    assert await jobs.renew("w1", []) == {}


# Bounds.


async def test_a_callers_quota(redis: Redis) -> None:
    jobs = make_queue(redis, caller_jobs=3)
    mine = [await submit(jobs) for _ in range(3)]
    refused = await problem_of(submit(jobs))
    assert (refused.name, refused.extra["limit"]) == ("quota-exceeded", 3) and (refused.retry_after_s or 0) > 0
    await submit(jobs, caller="bob")
    await submit(jobs, caller_jobs=4)
    assert (await problem_of(submit(jobs, caller="eve", caller_jobs=0))).name == "quota-exceeded"
    await submit(jobs, lane="quick")  # quick work has a quota of its own
    for job in mine[:2]:
        await jobs.cancel(job.id, ME)
    await submit(jobs)


async def test_submitting_and_cancelling_does_not_go_past_the_quota(redis: Redis) -> None:
    jobs = make_queue(redis, caller_jobs=12)
    for number in range(12):
        await jobs.cancel((await submit(jobs, lane="batch", digest=str(number))).id, ME)
    refused = await problem_of(submit(jobs, lane="batch"))
    assert refused.name == "quota-exceeded" and "cancelled" in refused.detail
    await submit(jobs, lane="batch", caller="bob")
    await submit(jobs, lane="quick")
    for entry in await redis.zrange(key("unfinished", "long", ME), 0, -1):
        await redis.zadd(key("unfinished", "long", ME), {entry: 1})  # as if a minute were over
    await submit(jobs, lane="batch")


async def test_the_quota_of_long_work_counts_cost(redis: Redis) -> None:
    jobs = make_queue(redis, caller_forwards=1000)
    first = await submit(jobs, lane="batch", cost=5000)  # the first one is always taken
    refused = await problem_of(submit(jobs, lane="interactive", cost=1))
    assert (refused.name, refused.extra["limit_forwards"]) == ("quota-exceeded", 1000)
    assert "5,000" in refused.detail
    await submit(jobs, lane="quick", cost=5000)
    await submit(jobs, lane="batch", cost=5000, caller_jobs=NO_QUOTA)
    await jobs.cancel(first.id, ME)
    await submit(jobs, lane="batch", cost=10, caller="bob")


async def test_callers_take_turns_by_what_they_cost(redis: Redis) -> None:
    jobs = make_queue(redis)
    flood = [(await submit(jobs, caller="eve", cost=10)).id for _ in range(20)]
    dear = (await submit(jobs, caller="ada", cost=30)).id
    cheap = [(await submit(jobs, caller="bob", cost=5)).id for _ in range(4)]
    given = [run.run for run in await claim(jobs, interactive=9, batch=0)]
    assert set(given[:3]) == {flood[0], dear, cheap[0]}, "each one's first, whoever came first"
    assert set(given[3:]) == {*cheap[1:], *flood[1:4]}, "then two of five for one of ten; nothing more of ada's thirty"
    late = (await submit(jobs, caller="zoe", cost=1)).id
    assert late in [run.run for run in await claim(jobs, interactive=2, batch=0)], "before most of the flood"
    # What went back has its old place.
    await jobs.requeue(dear, 1, crashed=False)
    assert (await claim(jobs, interactive=1, batch=0))[0].run == dear


async def test_one_caller_never_has_all_places_of_a_lane(redis: Redis) -> None:
    jobs = make_queue(redis)
    for _ in range(10):
        await submit(jobs, caller="eve")
    most = {"interactive": 3}

    async def claimed(interactive: int) -> int:
        return len(await jobs.claim("w1", interactive=interactive, batch=0, operations=["classify"], most=most))

    assert await claimed(4) == 3 and await claimed(1) == 0
    mine = await submit(jobs)
    (run,) = await jobs.claim("w1", interactive=1, batch=0, operations=["classify"], most=most)
    assert run.run == mine.id and run.caller == ME
    everybody = [await submit(jobs, caller="anonymous", caller_jobs=NO_QUOTA) for _ in range(5)]
    assert await claimed(5) == len(everybody), "who is everybody shares with nobody"


async def test_aged_batch_work_takes_only_a_part_of_the_interactive_places_and_dear_work_ages_slowly(
    redis: Redis,
) -> None:
    jobs = make_queue(redis, aged_s=1)
    dear, cheap = await submit(jobs, lane="batch", cost=20_000), await submit(jobs, lane="batch", cost=10)
    for run in (dear, cheap):
        waiting_ms = int(await redis.hget(key("run", run.id), "waiting_ms")) - 5_000
        await redis.hset(key("run", run.id), "waiting_ms", waiting_ms)
    taken: list[str] = []
    for _ in range(8):
        taken += [run.run for run in await claim(jobs, interactive=1, batch=0)]
    assert taken == [cheap.id], "five seconds are long for ten passes, and not for twenty thousand"
    await redis.hset(key("run", dear.id), "waiting_ms", 1)
    for _ in range(8):
        none = await jobs.claim("w1", interactive=9, batch=0, operations=["classify"], aged=0)
        assert none == [], "no part of the interactive places is left for batch work"


async def test_every_new_record_counts_with_the_quota_also_of_a_stored_or_shared_result(redis: Redis) -> None:
    jobs = make_queue(redis, caller_jobs=1)
    await submit(jobs, digest="stored")
    run = await claim_one(jobs)
    await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=7)
    known = await submit(jobs, digest="shared", idempotency_key="k", fingerprint="f")
    for digest in ("stored", "shared", "new"):
        assert (await problem_of(submit(jobs, digest=digest))).name == "quota-exceeded", digest
        await submit(jobs, digest=digest, caller=f"bob-{digest}")
    again, new = await jobs.enqueue(spec(digest="shared", idempotency_key="k", fingerprint="f"))
    assert (again.id, new) == (known.id, False), "a key that is known writes no record"


async def test_jobs_that_vanished_do_not_count(redis: Redis) -> None:
    jobs = make_queue(redis, caller_jobs=2)
    lost = await submit(jobs)
    await submit(jobs)
    await redis.delete(key("job", lost.id))
    await submit(jobs)
    assert (await problem_of(submit(jobs))).name == "quota-exceeded"


async def test_a_full_lane_refuses_and_the_other_one_serves(redis: Redis) -> None:
    jobs = make_queue(redis, lane_depth=5)
    for number in range(5):
        await submit(jobs, lane="batch", digest=f"d{number}")
    full = await problem_of(submit(jobs, lane="batch"))
    assert (full.name, full.extra["limit"]) == ("queue-full", 5) and 1 <= (full.retry_after_s or 0) <= 60
    await submit(jobs)
    await submit(jobs, lane="batch", digest="d0")  # joins, needs no place
    await claim(jobs, interactive=0, batch=1)
    await submit(jobs, lane="batch")


# Figures.


async def test_figures_and_workers(redis: Redis) -> None:
    jobs = make_queue(redis)
    await jobs.heartbeat(WorkerInfo(id="w1", host="h", operations=["classify"], metrics={"restarts": 2}))
    await jobs.heartbeat(WorkerInfo(id="w2", ready=False, reason="no device"))
    await redis.zadd(key("workers"), {"dead": 1})
    first, second = sorted(await jobs.workers(), key=lambda worker: worker.id)
    assert (first.id, first.metrics, first.ready) == ("w1", {"restarts": 2}, True)
    assert (second.id, second.ready, second.reason) == ("w2", False, "no device")
    assert first.heartbeat_ms > 1_600_000_000_000
    assert await jobs.workers_online() == 2
    await submit(jobs)
    await submit(jobs, lane="batch")
    await submit(jobs, lane="batch")
    run, *_ = await claim(jobs, interactive=1, batch=0)
    await jobs.finish(run.run, run.epoch, error=ERROR, computed_ms=1)
    await claim(jobs, interactive=0, batch=1)
    stats = await jobs.stats()
    assert (stats.waiting, stats.running, stats.unfinished) == ({"quick": 0, "interactive": 0, "batch": 1}, 1, 2)
    assert stats.oldest_s["interactive"] == 0 and stats.oldest_s["batch"] >= 0
    assert (stats.counters["submitted"], stats.counters["finished_failed"], stats.workers) == (3, 1, 2)
    assert stats.memory_bytes > 0 and stats.memory_limit_bytes == 0
    assert (await jobs.sweep()).workers_gone == 1
