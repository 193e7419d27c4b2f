"""Following a job, the feed of changes and the doorbell, through trimming, restarts and wiped servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from convscope.queue.connection import connect
from convscope.queue.events import ChangeFeed, Doorbell, Events
from convscope.queue.jobs import JobLimits, JobProgress, Jobs
from convscope.queue.keys import EVENTS_KEPT, key
from tests.convscope.queue.queue_steps import ME, claim_one, make_queue, submit
from tests.servers import PrivateServer

LONG_S = 20.0
"""A deadline that only a hang reaches."""


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Whatever a test closed has ended."""
    yield
    named = [task.get_name() for task in asyncio.all_tasks() if task.get_name() in ("ChangeFeed", "Doorbell")]
    assert named == []


# Events of a job.


async def test_events_resume_without_gap_or_repetition(redis: Redis) -> None:
    jobs, events = make_queue(redis), Events(redis)
    job = await submit(jobs)
    run = await claim_one(jobs)
    await jobs.progress(run.run, run.epoch, JobProgress(done=1, total=4, message="half"), "previews/1")
    await jobs.finish(run.run, run.epoch, manifest="m", computed_ms=1)
    whole = await events.read(job.id)
    assert not whole.trimmed
    assert [event.id for event in whole.events] == ["1", "2", "3", "4", "5", "6"]
    assert [event.name for event in whole.events] == ["state", "state", "progress", "preview", "state", "done"]
    assert whole.events[2].data["message"] == "half" and whole.events[0].data["at_ms"] >= job.created_ms
    for seen in range(7):
        page = await events.read(job.id, str(seen))
        assert (page.events, page.trimmed) == (whole.events[seen:], False)


async def test_a_trimmed_past_is_noticed(redis: Redis) -> None:
    jobs, events = make_queue(redis), Events(redis)
    job = await submit(jobs)
    run = await claim_one(jobs)
    for number in range(EVENTS_KEPT):
        await jobs.progress(run.run, run.epoch, JobProgress(done=number, total=EVENTS_KEPT), f"previews/{number}")
    total = 2 + 2 * EVENTS_KEPT
    assert await redis.xlen(key("events", job.id)) == EVENTS_KEPT
    first_kept = total - EVENTS_KEPT + 1
    for after in ("", "2", str(first_kept - 2)):
        page = await events.read(job.id, after)
        assert page.trimmed and page.events[0].id == str(first_kept)
    for number in (first_kept - 1, first_kept, total - 1):
        page = await events.read(job.id, str(number))
        assert not page.trimmed and page.events[0].id == str(number + 1)
    assert await events.read(job.id, str(total)) == (await events.read(job.id, str(total))).model_copy(
        update={"events": [], "trimmed": False}
    )


@pytest.mark.parametrize("after", ["99", "x", "-1", "1-0", "²", "9" * 400])
async def test_an_id_that_the_job_never_gave_counts_as_trimmed(redis: Redis, after: str) -> None:
    job = await submit(make_queue(redis))
    page = await Events(redis).read(job.id, after)
    assert page.trimmed and [event.id for event in page.events] == ["1"]


async def test_a_job_without_events(redis: Redis) -> None:
    page = await Events(redis).read("nobody")
    assert (page.events, page.trimmed) == ([], False)
    assert (await Events(redis).read("nobody", "5")).trimmed


async def test_progress_comes_in_measured_doses_but_the_record_follows(redis: Redis) -> None:
    jobs = make_queue(redis)
    job = await submit(jobs)
    run = await claim_one(jobs)
    for number in range(50):
        await jobs.progress(run.run, run.epoch, JobProgress(done=number, total=50))
    said = [event for event in (await Events(redis).read(job.id)).events if event.name == "progress"]
    assert 1 <= len(said) < 25
    assert (await jobs.get(job.id, ME)).progress.done == 49


# The feed of changes.


async def test_every_waiter_of_a_job_is_woken_and_no_other(redis: Redis, valkey_url: str) -> None:
    jobs = make_queue(redis)
    mine, other = await submit(jobs), await submit(jobs)
    async with ChangeFeed(valkey_url) as feed:
        with feed.watch(mine.id) as one, feed.watch(mine.id) as two, feed.watch(other.id) as three:
            assert await one.changed(LONG_S) and await two.changed(LONG_S) and await three.changed(LONG_S), "at first"
            assert feed.watching == 3
            waiting = asyncio.gather(one.changed(LONG_S), two.changed(LONG_S))
            await jobs.cancel(mine.id, ME)
            assert await waiting == [True, True]
            assert not await three.changed(0.05)
        assert feed.watching == 0


async def test_who_waits_for_the_end_sleeps_through_everything_else(redis: Redis, valkey_url: str) -> None:
    jobs = make_queue(redis)
    async with ChangeFeed(valkey_url) as feed:
        job = await submit(jobs)
        with feed.watch(job.id) as any_change, feed.watch(job.id, end_only=True) as end:
            for watch in (any_change, end):
                assert await watch.changed(LONG_S), "at first, when it connects"
                while await watch.changed(0.05):
                    continue
            claim = await claim_one(jobs)
            assert await any_change.changed(LONG_S)
            await jobs.progress(claim.run, claim.epoch, JobProgress(done=1, total=2, message="half"))
            assert await any_change.changed(LONG_S)
            assert not await end.changed(0.05)
            await jobs.cancel(job.id, ME)
            await jobs.requeue(claim.run, claim.epoch, crashed=False, reason="cancelled")
            assert await end.changed(LONG_S)
        assert (await jobs.get(job.id, ME)).finished


async def test_a_change_between_watching_and_waiting_is_not_missed(redis: Redis, valkey_url: str) -> None:
    jobs = make_queue(redis)
    async with ChangeFeed(valkey_url) as feed:
        job = await submit(jobs)
        with feed.watch(job.id) as watch:
            while await watch.changed(0.05):
                continue
            await jobs.cancel(job.id, ME)
            await asyncio.sleep(0)
            assert await watch.changed(LONG_S)


async def test_who_was_woken_goes_before_the_next_read(redis: Redis, valkey_url: str) -> None:
    jobs = make_queue(redis)
    order: list[str] = []
    async with ChangeFeed(valkey_url) as feed:
        read = feed._redis.xread

        async def noted(*args: Any, **how: Any) -> Any:
            order.append("read")
            return await read(*args, **how)

        job = await submit(jobs)
        with feed.watch(job.id) as watch:
            while await watch.changed(0.05):
                continue
            feed._redis.xread = noted  # type: ignore[method-assign]

            async def wait() -> None:
                assert await watch.changed(LONG_S)
                order.append("woken")

            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)  # it waits before anything changes
            await jobs.cancel(job.id, ME)
            await waiting
        await _until(lambda: "read" in order)
    assert order[0] == "woken"


async def _until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


async def test_feed_and_doorbell_survive_a_restart(private_server: Callable[..., PrivateServer]) -> None:
    server = private_server(append_only=True)
    client = connect(server.url)
    jobs = Jobs(client, JobLimits())
    job = await submit(jobs)
    async with ChangeFeed(server.url) as feed, Doorbell(server.url) as ring:
        with feed.watch(job.id) as watch:
            await _until(lambda: feed.connected and ring.connected)
            while await watch.changed(0.05):
                continue
            await ring.wait(0.05)
            server.kill()
            assert await watch.changed(LONG_S), "the interruption is a reason to look"
            assert "lost" in await ring.wait(LONG_S)
            server.start()
            await _until(lambda: feed.connected and ring.connected)
            while await watch.changed(0.05):
                continue
            while await ring.wait(0.05):
                continue
            await jobs.cancel(job.id, ME)
            await submit(jobs)
            assert await watch.changed(LONG_S)
            assert "work" in await ring.wait(LONG_S)
    await client.aclose()


async def test_feed_goes_on_after_a_wipe(redis: Redis, valkey_url: str) -> None:
    jobs = make_queue(redis)
    async with ChangeFeed(valkey_url) as feed:
        await _until(lambda: feed.connected)
        await redis.flushall()
        job = await submit(jobs)
        with feed.watch(job.id) as watch:
            await jobs.cancel(job.id, ME)
            assert await watch.changed(LONG_S)


async def test_closing_wakes_who_waits(redis: Redis, valkey_url: str) -> None:
    feed, ring = ChangeFeed(valkey_url), Doorbell(valkey_url)
    feed.start()
    feed.start()
    ring.start()
    await _until(lambda: feed.connected and ring.connected)
    with feed.watch("j") as watch:
        while await watch.changed(0.05):
            continue
        await ring.wait(0.05)
        waiting = asyncio.gather(watch.changed(LONG_S), ring.wait(LONG_S))
        await asyncio.sleep(0)
        await feed.aclose()
        await ring.aclose()
        assert await waiting == [True, frozenset({"lost"})]


async def test_a_waiter_that_is_cancelled_leaves_nothing(redis: Redis, valkey_url: str) -> None:
    async with ChangeFeed(valkey_url) as feed:

        async def wait() -> None:
            with feed.watch("j") as watch:
                while True:
                    await watch.changed(LONG_S)

        task = asyncio.create_task(wait())
        await _until(lambda: feed.watching == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert feed.watching == 0


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_closing_ends_it_whenever_it_comes(redis: Redis, valkey_url: str, steps: int) -> None:
    """Also in the midst of connecting or sending, where Python 3.11 forgets a cancellation."""
    feed = ChangeFeed(valkey_url)
    feed.start()
    for _ in range(steps):
        await asyncio.sleep(0)
    async with asyncio.timeout(LONG_S):
        await feed.aclose()


# The doorbell.


async def test_the_doorbell_says_why(redis: Redis, valkey_url: str) -> None:
    jobs = make_queue(redis)
    async with Doorbell(valkey_url) as one, Doorbell(valkey_url) as two:
        await _until(lambda: one.connected and two.connected)
        for ring in (one, two):
            while await ring.wait(0.05):
                continue
        job = await submit(jobs)
        for ring in (one, two):
            assert await ring.wait(LONG_S) == {"work"}
            assert await ring.wait(0) == frozenset()
        await claim_one(jobs)
        await jobs.cancel(job.id, ME)
        for ring in (one, two):
            assert await ring.wait(LONG_S) == {"cancel"}


async def test_streams_stay_bounded(redis: Redis) -> None:
    jobs = make_queue(redis, caller_jobs=10_000, lane_depth=10_000)
    for _ in range(400):
        await submit(jobs)
    assert await redis.xlen(key("doorbell")) < 300
