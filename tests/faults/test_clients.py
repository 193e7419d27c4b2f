"""Clients that leave, dawdle and flood: the service stays whole, and others are served."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from convscope.queue.connection import connect
from convscope.queue.jobs import JobLimits, JobProgress, Jobs, JobSpec
from convscope.settings import Settings
from service.http import streaming
from service.routes import events
from tests.servers import PrivateServer
from tests.service.support import HOLD, Service, Worker, png_bytes, problem_of, wait_for
from tests.service.test_process import start

MAPS = "/v1/feature-maps"
FRESH = {"Cache-Control": "no-cache"}
IMAGE = ("image", ("a.png", png_bytes(), "image/png"))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with PrivateServer() as server:
        yield Settings(redis_url=server.url, data=tmp_path, card_wait_s=1.0)


def head_of(client: httpx2.Client, method: str, path: str, **more: Any) -> bytes:
    """A whole request as bytes, for raw sockets."""
    request = client.build_request(method, path, **more)
    fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode() + request.read()


def connection(service: Service, received: int | None = None) -> socket.socket:
    """A raw connection; `received` bounds what the kernel takes for a reader that does not read."""
    made = socket.socket()
    if received is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
    made.connect(("127.0.0.1", service.port))
    return made


def test_row_19_clients_that_leave_while_they_wait_leave_no_task_behind(settings: Settings):
    with Worker(settings), Service(settings) as service, service.client() as client:

        async def running() -> list[str]:
            return sorted(str(task.get_coro()).split(" at ")[0] for task in asyncio.all_tasks())

        service.app.add_api_route("/tasks", running)

        def tasks() -> Counter[str]:
            # The event streams' library watches for the end of the server in a task that it never ends.
            return Counter(name for name in client.get("/tasks").json() if "_shutdown_watcher" not in name)

        context = service.app.state.context
        first = client.post(MAPS, files=[IMAGE]).json()
        before = tasks()
        unnamed = head_of(client, "POST", MAPS, files=[IMAGE, ("seed", (None, b"%d" % HOLD))], headers=FRESH)
        polling = head_of(client, "GET", f"/v1/jobs/{first['id']}?wait=30", headers={"If-None-Match": first["id"]})
        held = client.post(
            MAPS, files=[IMAGE, ("seed", (None, b"%d" % HOLD))], headers={**FRESH, "Prefer": "respond-async"}
        ).json()
        following = head_of(client, "GET", f"/v1/jobs/{held['id']}/events", headers={"Accept": "text/event-stream"})
        half = unnamed[: len(unnamed) // 2]
        for round_ in range(3):
            connections = [connection(service) for _ in range(24)]
            for number, one in enumerate(connections):
                one.sendall((unnamed, polling, following, half)[number % 4])
            wait_for(lambda: context.metrics.waiting._value.get() >= 6, "the waiting")
            wait_for(lambda: context.metrics.sse_clients._value.get() >= 6, "the listening")
            for number, one in enumerate(connections):
                if number % 2 == round_ % 2:  # some say good-bye, some vanish
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.close()
            wait_for(lambda: context.changes.watching == 0, "the end of the watches")
        client.delete(f"/v1/jobs/{held['id']}")

        def all_ended() -> bool:
            jobs = client.get("/v1/jobs", params={"limit": 200}).json()["jobs"]
            states = [job["state"] for job in jobs if job["id"] != first["id"]]
            return len(states) == 19 and set(states) == {"cancelled"}

        wait_for(all_ended, "the cancellation of all that nobody waits for")
        wait_for(lambda: tasks() <= before, f"the end of tasks, with {tasks() - before} left at first,")
        wait_for(lambda: len(_accepted(service.port)) == 1, "the end of all connections but the client's")


def _accepted(port: int) -> list[object]:
    """The connections that a server in this process still holds."""
    found = psutil.Process().net_connections("tcp4")
    return [one for one in found if one.laddr.port == port and one.status in ("ESTABLISHED", "CLOSE_WAIT")]


def test_row_20_a_reader_of_a_large_result_that_hardly_reads(settings: Settings, tmp_path: Path):
    """A process of its own, for its memory: 123 MB of arrays, eight readers that take a byte a second."""
    environment = {
        "CONVSCOPE_REDIS_URL": str(settings.redis_url),
        "CONVSCOPE_DATA": str(tmp_path),
        "CONVSCOPE_PORT": "0",
        "CONVSCOPE_LOG_FORMAT": "json",
    }
    with (
        Worker(settings),
        _started(environment) as (process, url),
        httpx2.Client(base_url=url, trust_env=False) as http,
    ):
        parts = [IMAGE] * 12 + [("layers", (None, b"huge")), ("channels", (None, b"all"))]
        job = http.post(MAPS, files=parts, timeout=60).json()
        path = f"/v1/jobs/{job['id']}/arrays/maps/huge"
        assert job["result"]["arrays"]["maps/huge"]["shape"] == [12, 64, 200, 200]
        before = process.memory_info().rss
        slow = []
        for _ in range(8):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            one.sendall(head_of(http, "GET", path))
            slow.append(one)
        for _ in range(3):
            for one in slow:
                assert one.recv(1)
            for number in range(10):
                assert http.post(MAPS, files=[IMAGE, ("seed", (None, b"%d" % number))]).status_code == 200
        assert process.memory_info().rss - before < 64 << 20
        for one in slow:
            one.close()


@contextmanager
def _started(environment: dict[str, str]) -> Iterator[tuple[psutil.Process, str]]:
    process, url, _ = start({**os.environ, **environment})
    try:
        yield psutil.Process(process.pid), url
    finally:
        process.kill()
        process.wait()


def test_row_20_readers_that_take_nothing_are_cut_off(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "SEND_TIMEOUT_S", 1.0)
    monkeypatch.setattr(events, "SEND_TIMEOUT_S", 1.0)
    with Worker(settings) as worker, Service(settings) as service, service.client() as client:
        parts = [IMAGE] * 4 + [("layers", (None, b"huge")), ("channels", (None, b"all"))]
        large = client.post(MAPS, files=parts).json()
        with worker.idle():
            waiting = client.post(MAPS, files=[IMAGE], headers={**FRESH, "Prefer": "respond-async"}).json()
            feed = threading.Thread(target=lambda: asyncio.run(_talk(settings, waiting["id"])))
            arrays = connection(service, 4096)
            arrays.sendall(head_of(client, "GET", f"/v1/jobs/{large['id']}/arrays/maps/huge"))
            stream = connection(service, 4096)
            stream.sendall(head_of(client, "GET", f"/v1/jobs/{waiting['id']}/events"))
            listening = service.app.state.context.metrics.sse_clients._value
            wait_for(lambda: listening.get() == 1, "the stream")
            feed.start()
            feed.join()
            wait_for(lambda: listening.get() == 0, "the end of the stream that nobody reads")
            assert client.get("/livez").status_code == 200
            for one in (arrays, stream):
                assert _rest(one) < 40_000_000 / 2  # far from all; what the kernel held, and then the end
            # It may come back: from the first event that is still there, and to the last.
            with client.stream("GET", f"/v1/jobs/{waiting['id']}/events", headers={"Last-Event-ID": "2"}) as again:
                assert "event: reset" in list(_lines(again, 6))


async def _talk(settings: Settings, job_id: str) -> None:
    """A worker with much to say: 1200 events of 12 kB."""
    redis = connect(str(settings.redis_url))
    jobs = Jobs(redis, JobLimits())
    (claim,) = await jobs.claim("talker", quick=1, interactive=1, batch=0, operations=["feature-maps"])
    assert claim.run == job_id
    for step in range(1200):
        said = JobProgress(done=step, total=1200, message="x" * 12_000)
        await jobs.progress(claim.run, claim.epoch, said, f"previews/{step}")
    await redis.aclose()


def _rest(one: socket.socket) -> int:
    one.settimeout(20)
    count = 0
    try:
        while data := one.recv(1 << 20):
            count += len(data)
    except ConnectionError:
        pass
    return count


def _lines(answer: httpx2.Response, count: int) -> Iterator[str]:
    for line, _ in zip(answer.iter_lines(), range(count), strict=False):
        yield line


def test_row_22_one_floods_and_another_is_served(settings: Settings, tmp_path: Path):
    keys = tmp_path / "keys.toml"
    digests = {name: hashlib.sha256(f"{name}-key".encode()).hexdigest() for name in ("flood", "quiet")}
    keys.write_text(
        f'[callers.flood]\nkey_sha256 = "{digests["flood"]}"\nunfinished_jobs = 5\n'
        f'[callers.quiet]\nkey_sha256 = "{digests["quiet"]}"\n'
    )
    changed = settings.model_copy(update={"api_keys_file": keys})
    with Worker(changed), Service(changed) as service:

        def ask(name: str, seed: int) -> httpx2.Response:
            with service.client(headers={"Authorization": f"Bearer {name}-key"}) as client:
                prefer = {"Prefer": "respond-async"} if name == "flood" else {}
                files = [IMAGE, ("seed", (None, b"%d" % seed))]
                return client.post(MAPS, files=files, headers={**FRESH, **prefer})

        with ThreadPoolExecutor(12) as pool:
            flood = [pool.submit(ask, "flood", HOLD) for _ in range(120)]
            quiet = [pool.submit(ask, "quiet", number) for number in range(30)]
            answers = [one.result() for one in flood]
            assert [one.result().status_code for one in quiet] == [200] * 30
        accepted = [answer for answer in answers if answer.status_code == 202]
        assert len(accepted) == 5
        for answer in answers:
            if answer.status_code != 202:
                problem_of(answer, 429, "quota-exceeded")
                assert int(answer.headers["retry-after"]) >= 1
        with service.client(headers={"Authorization": "Bearer flood-key"}) as client:
            for answer in accepted:
                client.delete(answer.headers["location"])


@pytest.mark.parametrize("shortage", ["lane", "memory"])
def test_row_23_too_much_work_sheds_batch_work_first(settings: Settings, shortage: str):
    changed = settings.model_copy(update={"lane_depth": 10})
    with Worker(changed), Service(changed) as service, service.client() as client:
        assert client.post(MAPS, files=[IMAGE]).status_code == 200
        asyncio.run(_press(changed, shortage))
        for number in range(3):
            answer = client.post("/v1/cka", files=[IMAGE] * 4)
            problem_of(answer, 503, "queue-full")
            assert int(answer.headers["retry-after"]) >= 1
            again = client.post(MAPS, files=[IMAGE, ("seed", (None, b"%d" % number))], headers=FRESH)
            assert again.status_code == 200, again.text


async def _press(settings: Settings, shortage: str) -> None:
    redis = connect(str(settings.redis_url))
    if shortage == "lane":
        jobs = Jobs(redis, JobLimits.from_settings(settings))
        for _ in range(10):
            await jobs.enqueue(JobSpec(operation="nobody-knows", request={}, lane="batch", caller="other"))
    else:
        used = int((await redis.info("memory"))["used_memory"])
        await redis.config_set("maxmemory", int(used / 0.79))
    await redis.aclose()
