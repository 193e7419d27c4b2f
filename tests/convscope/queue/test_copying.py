"""A queue moves to another server by command, and whoever works there notices nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from convscope.queue.connection import connect
from convscope.queue.copying import AT_ONCE, QueueThereError, copy_queue
from convscope.queue.jobs import JobProgress, JobState, Verdict
from convscope.queue.keys import PREFIX, key
from tests.convscope.queue.queue_steps import ME, claim_one, events_of, make_queue, spec, submit
from tests.servers import PrivateServer, redis_binary


@pytest.fixture(scope="module", params=["redis", "the server under test"])
def other_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateServer]:
    """Debian's Redis 7.0, which cannot read a Valkey's files; and one of the kind that has the queue."""
    binary = None
    if request.param == "redis":
        binary = redis_binary(tmp_path_factory.mktemp("redis"))
        if binary is None:
            pytest.skip("there is no redis-server and no redis-tools")
    with PrivateServer(binary=binary) as server:
        yield server


@pytest.fixture
async def other(other_server: PrivateServer) -> AsyncIterator[Redis]:
    """A client of the server that gets the queue, which is emptied first."""
    client = connect(other_server.url)
    await client.flushall()
    yield client
    await client.aclose()


async def contents(redis: Any) -> dict[str, tuple[Any, ...]]:
    """Every key with its type, value and the time at which it goes."""
    found: dict[str, tuple[Any, ...]] = {}
    for name in await redis.keys("*"):
        kind = await redis.type(name)
        value: Any
        if kind == "stream":
            facts = await redis.xinfo_stream(name)
            ids = [facts[each] for each in ("last-generated-id", "max-deleted-entry-id", "entries-added")]
            value = (await redis.xrange(name), ids)
        elif kind == "zset":
            value = sorted(await redis.zrange(name, 0, -1, withscores=True))
        else:
            reads = {"string": redis.get, "hash": redis.hgetall, "set": redis.smembers}
            value = await reads[kind](name)
        found[name] = (kind, value, await redis.pexpiretime(name))
    return found


async def a_queue(redis: Redis) -> dict[str, str]:
    """Jobs in several states; the ids of some of them."""
    jobs = make_queue(redis)
    done = await submit(jobs, digest="d1", idempotency_key="k", fingerprint="f", labels={"where": "Köln ☕"})
    run = await claim_one(jobs)
    for step in range(3):
        await jobs.progress(run.run, run.epoch, JobProgress(done=step, total=9), f"previews/{step}")
    await jobs.finish(run.run, run.epoch, manifest="results/1", computed_ms=2)
    running = await submit(jobs, deadline_s=300)
    await claim_one(jobs)
    waiting = await submit(jobs, operation="maximize", lane="batch")
    await redis.set(key("image", ME, "img-1"), '{"width": 4}', ex=500)
    return {"done": done.id, "running": running.id, "waiting": waiting.id, "run": running.run}


async def test_everything_is_there_with_its_lifetime(redis: Redis, other: Redis) -> None:
    await a_queue(redis)
    many = {f"field {number}": "ü" * (number % 7) for number in range(3 * AT_ONCE)}
    await redis.hset(key("catalogue"), mapping=many)  # type: ignore[arg-type]  # invariant in redis-py
    await redis.zadd(key("wanted"), {name: number + 0.5 for number, name in enumerate(many)})
    await redis.sadd(key("held", "w9"), *many)
    for number in range(2 * AT_ONCE + 1):
        await redis.xadd(key("doorbell"), {"reason": str(number)})
    await redis.xtrim(key("doorbell"), maxlen=AT_ONCE + 1, approximate=False)
    emptied = [await redis.xadd(key("changes"), {"job": "x"}) for _ in range(2)]
    await redis.xdel(key("changes"), *emptied, *[entry for entry, _ in await redis.xrange(key("changes"))])
    await redis.set("of somebody else", "1")
    before = await contents(redis)
    assert {kind for kind, _, _ in before.values()} == {"string", "hash", "set", "zset", "stream"}
    await other.set("there before", "1")
    assert await copy_queue(redis, other) == len(before) - 1
    assert await other.get("there before") == "1" and await other.get("of somebody else") is None
    await redis.delete("of somebody else")
    await other.delete("there before")
    assert await contents(redis) == await contents(other)


async def test_work_goes_on_there(redis: Redis, other: Redis) -> None:
    known = await a_queue(redis)
    await copy_queue(redis, other)
    jobs = make_queue(other)
    done = await jobs.get(known["done"], ME)
    assert (done.state, done.manifest, done.labels) == (JobState.SUCCEEDED, "results/1", {"where": "Köln ☕"})
    assert await events_of(other, done) == await events_of(redis, done)
    # The worker that had the lease may report, and its events go on where they were.
    assert await jobs.finish(known["run"], 1, manifest="results/2", computed_ms=1) is Verdict.GO_ON
    assert (await jobs.get(known["running"], ME)).state is JobState.SUCCEEDED
    waiting = await claim_one(jobs)
    assert waiting.members == [known["waiting"]]
    await jobs.progress(waiting.run, waiting.epoch, JobProgress(done=1, total=2))
    ids = [str(entry) for entry, _ in await other.xrange(key("events", known["waiting"]))]
    assert ids == [f"{number}-0" for number in range(1, len(ids) + 1)] and len(ids) >= 3
    again, new = await jobs.enqueue(spec(idempotency_key="k", fingerprint="f"))
    assert (again.id, new) == (known["done"], False)


async def test_a_queue_that_is_there_stays_unless_it_is_to_be_replaced(redis: Redis, other: Redis) -> None:
    await a_queue(redis)
    await other.set(key("turns"), "77")
    await other.hset(key("job", "left over"), "state", "queued")
    with pytest.raises(QueueThereError):
        await copy_queue(redis, other)
    assert sorted(await other.keys("*")) == [key("job", "left over"), key("turns")]
    await copy_queue(redis, other, replace=True)
    assert await contents(redis) == await contents(other)


async def test_files_do_not_cross_where_commands_do(tmp_path: Path) -> None:
    """Why there is a command: Redis 7.0 neither follows a Valkey 9.1 nor takes its dumps."""
    binary = redis_binary(tmp_path)
    if binary is None:
        pytest.skip("there is no redis-server and no redis-tools")
    with PrivateServer() as valkey, PrivateServer(binary=binary) as target:
        async with connect(valkey.url) as source, connect(target.url) as client:
            if "valkey_version" not in await source.info("server"):
                pytest.skip("the server under test is no Valkey")
            await source.set(key("turns"), "1")
            dumped = await _raw(valkey.url, "DUMP", key("turns"))
            with pytest.raises(Exception, match="DUMP payload version or checksum are wrong"):
                await _raw(target.url, "RESTORE", key("turns"), 0, dumped)
            await copy_queue(source, client)
            assert await client.get(f"{PREFIX}turns") == "1"


async def _raw(url: str, *command: Any) -> Any:
    async with Redis.from_url(url) as redis:
        return await asyncio.wait_for(redis.execute_command(*command), 10)
