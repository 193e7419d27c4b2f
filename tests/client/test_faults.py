"""The client against the real service through a network that loses answers and a service that restarts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from convscope.settings import Settings
from convscope_client import AsyncClient
from tests.proxy import FaultyProxy
from tests.servers import PrivateServer
from tests.service.support import HOLD, SLOW, Service, Worker, toy_maps

PIXELS = np.random.default_rng(7).integers(0, 256, (16, 20, 3), dtype=np.uint8)
SHAPE = (8, 6, 6)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with PrivateServer() as server:
        yield Settings(redis_url=server.url, data=tmp_path, card_wait_s=1.0)


@pytest.fixture
def worker(settings: Settings) -> Iterator[Worker]:
    with Worker(settings) as running:
        yield running


def image(number: int) -> np.ndarray:
    """A picture that no other number has, so that no result answers two requests."""
    return np.roll(PIXELS, number, axis=1) // (1 + number // 20)


async def test_lost_answers_make_no_job_twice_and_lose_no_result(settings: Settings, worker: Worker) -> None:
    with Service(settings) as service:
        async with FaultyProxy(service.port) as proxy, AsyncClient(f"http://127.0.0.1:{proxy.port}") as client:
            await client.live()

            async def one(number: int) -> np.ndarray:
                job = await client.feature_maps(image(number), layer="conv", labels={"number": str(number)})
                proxy.lose_answers += number % 3 == 1
                return await (await job.result(60)).array("maps/conv")

            maps = []
            for first in range(0, 24, 6):
                proxy.lose_answers += 3
                maps += await asyncio.gather(*(one(number) for number in range(first, first + 6)))
            proxy.lose_answers = 0
            assert proxy.lost >= 12
            made = Counter([job.labels["number"] async for job in client.list_jobs()])
    assert made == {str(number): 1 for number in range(24)}
    for number, found in enumerate(maps):
        np.testing.assert_array_equal(found[0], toy_maps(image(number), SHAPE))


async def test_a_service_that_restarts_costs_time_and_nothing_else(settings: Settings, worker: Worker) -> None:
    """Submitting, waiting and following go on over three services, one after the other, on the same queue."""
    services: list[Service] = []

    def next_service() -> int:
        services.append(Service(settings).__enter__())
        return services[-1].port

    def stop() -> None:
        services[-1].__exit__()

    async with FaultyProxy(await asyncio.to_thread(next_service)) as proxy:
        async with AsyncClient(f"http://127.0.0.1:{proxy.port}") as client:
            await client.live()
            held = await client.feature_maps(PIXELS, layer="conv", seed=HOLD, wait_s=0)

            async def follow() -> list[tuple[str, str]]:
                return [(event.id, event.name) async for event in held.events()]

            following = asyncio.create_task(follow())
            waiting = asyncio.create_task(held.wait())
            rounds: list[np.ndarray] = []
            for number in range(3):
                submitted = [
                    asyncio.create_task(client.feature_maps(image(40 * number + k), layer="conv")) for k in range(4)
                ]
                await asyncio.sleep(0.05)
                await asyncio.to_thread(stop)
                # While nobody listens, requests that are under way fail and others cannot connect.
                await asyncio.sleep(0.3)
                proxy.target = await asyncio.to_thread(next_service)
                rounds += [await (await job.result(60)).array("maps/conv") for job in await asyncio.gather(*submitted)]
            await held.cancel()
            events = await following
            await waiting
            jobs = [job async for job in client.list_jobs()]
        await asyncio.to_thread(stop)
    assert len(services) == 4
    assert held.state == "cancelled"
    assert [event_id for event_id, _ in events] == [str(number) for number in range(1, len(events) + 1)]
    assert [name for _, name in events][-1] == "done"
    assert len(jobs) == 13 and len({job.id for job in jobs}) == 13
    for place, found in enumerate(rounds):
        np.testing.assert_array_equal(found[0], toy_maps(image(40 * (place // 4) + place % 4), SHAPE))


async def test_a_stream_that_is_cut_again_and_again_tells_every_event_once(settings: Settings, worker: Worker) -> None:
    with Service(settings) as service:
        async with FaultyProxy(service.port) as proxy, AsyncClient(f"http://127.0.0.1:{proxy.port}") as client:
            await client.live()
            job = await client.feature_maps(PIXELS, layer="conv", seed=SLOW, wait_s=0)
            seen = []
            async for event in job.events():
                seen.append((event.id, event.name))
                proxy.lose_answers = 1
            proxy.lose_answers = 0
            assert proxy.lost >= 1
    names = [name for _, name in seen if name != "state"]
    assert names == ["progress", "progress", "preview", "done"]
    assert [event_id for event_id, _ in seen] == [str(number) for number in range(1, len(seen) + 1)]
    assert job.state == "succeeded"
