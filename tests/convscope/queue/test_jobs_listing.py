"""Pages of a caller's jobs: every job once, newest first, whatever the pages' size."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from convscope.queue.jobs import Jobs, JobState
from convscope.queue.keys import key
from tests.convscope.queue.queue_steps import ME, make_queue, problem_of, submit


async def _walk(jobs: Jobs, limit: int, **filters: str) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page, cursor = await jobs.page(ME, limit=limit, cursor=cursor, **filters)  # type: ignore[arg-type]
        assert len(page) == limit or cursor is None
        found += [job.id for job in page]
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 7, 50, 230, 500])
async def test_every_job_once_newest_first(redis: Redis, limit: int) -> None:
    jobs = make_queue(redis, caller_jobs=1000)
    for _ in range(230):
        await submit(jobs)
    await submit(jobs, caller="bob")
    # Many of one millisecond, so that a page ends among them.
    for job_id, created in await redis.zrange(key("index", ME), 0, -1, withscores=True):
        await redis.zadd(key("index", ME), {job_id: int(created) // 100 * 100})
        await redis.hset(key("job", job_id), "created_ms", str(int(created) // 100 * 100))
    expected = await redis.zrange(key("index", ME), 0, -1, desc=True)
    assert len(expected) == 230
    assert await _walk(jobs, limit) == expected


async def test_filters(redis: Redis) -> None:
    jobs = make_queue(redis, caller_jobs=1000)
    for number in range(20):
        job = await submit(jobs, operation="maximize" if number % 2 else "classify")
        if number % 4 == 0:
            await jobs.cancel(job.id, ME)
    cancelled = await _walk(jobs, 2, state=JobState.CANCELLED)
    assert len(cancelled) == 5
    assert len(await _walk(jobs, 3, operation="classify")) == 10
    assert await _walk(jobs, 3, operation="maximize", state="cancelled") == []
    assert await _walk(jobs, 3, operation="classify", state="cancelled") == cancelled


async def test_what_is_past_its_lifetime_is_not_listed_and_leaves_the_index(redis: Redis) -> None:
    jobs = make_queue(redis)
    old = [await submit(jobs) for _ in range(6)]
    for job in old[:5]:
        await redis.delete(key("job", job.id))
    assert [job.id for job in (await jobs.page(ME))[0]] == [old[5].id]
    for _ in range(5):
        await submit(jobs)
    assert await redis.zcard(key("index", ME)) == 6


@pytest.mark.parametrize("cursor", ["x", "%%%", "YWJj", "é", "MTc5", "A" * 4000])
async def test_a_made_up_cursor_is_refused(redis: Redis, cursor: str) -> None:
    jobs = make_queue(redis)
    assert (await problem_of(jobs.page(ME, cursor=cursor))).name == "invalid-request"


async def test_a_stranger_sees_nothing(redis: Redis) -> None:
    jobs = make_queue(redis)
    await submit(jobs)
    assert await jobs.page("eve") == ([], None)
