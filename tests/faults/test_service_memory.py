"""Many large things at once: the service's memory stays within its budget, and goes back to the system afterwards."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest

from convscope.queue.connection import connect
from convscope.queue.jobs import JobLimits, Jobs, JobSpec
from tests.servers import PrivateServer
from tests.service.support import wait_for

MIB = 1 << 20
BODIES, BODY_BYTES = 12, 30 * MIB
JOBS, REQUEST_BYTES = 60, 900 * 1024
READERS = 6


class Watched:
    """A service as a process of its own, and the most memory that it had."""

    def __init__(self, queue: str, data: Path) -> None:
        environment = {**os.environ, "CONVSCOPE_REDIS_URL": queue, "CONVSCOPE_DATA": str(data), "CONVSCOPE_PORT": "0"}
        environment |= {"CONVSCOPE_LOG_FORMAT": "json", "CONVSCOPE_SERVICE_MEMORY_MIB": "256", "TMPDIR": str(data)}
        command = [sys.executable, "-m", "service"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.address = json.loads(next(line for line in self.process.stderr if "listening on" in line))["address"]
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def resident(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, self.resident())

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.process.terminate()
        self.process.communicate(timeout=15)


@pytest.fixture
def queue() -> Iterator[PrivateServer]:
    with PrivateServer() as server:
        yield server


@pytest.fixture
def service(queue: PrivateServer, tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(queue.url, tmp_path)
    try:
        with httpx2.Client(base_url=watched.address, trust_env=False) as client:
            client.post("/v1/kernels", json={"filters": "none"})  # what is loaded once is loaded
            client.get("/v1/jobs")
        yield watched
    finally:
        watched.close()


def test_row_55_bodies_that_are_open_and_bodies_that_are_read(service: Watched) -> None:
    before = service.resident()
    here = urlsplit(service.address)
    body = b'{"image": {"base64": "' + b"A" * (BODY_BYTES - 24) + b'"}}'
    head = "POST /v1/feature-maps HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with ExitStack() as stack:
        lines = []
        for _ in range(BODIES):
            line = stack.enter_context(socket.create_connection((here.hostname, here.port), 60))
            line.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body[:-1])
            lines.append(line)
        assert service.most - before < 150 * MIB, "what has not arrived whole is on a disk"
        for line in lines:
            line.sendall(body[-1:])
        for line in lines:
            assert b" 422 " in line.recv(64)
    assert service.most - before < 450 * MIB, "one is read after the other, each with its text, values and image"
    wait_for(lambda: service.resident() - before < 150 * MIB, "the return of the memory")


async def test_row_55_lists_of_long_requests(service: Watched, queue: PrivateServer) -> None:
    redis = connect(queue.url)
    jobs = Jobs(redis, JobLimits())
    for number in range(JOBS):
        request = {"number": number, "text": "x" * REQUEST_BYTES}
        await jobs.enqueue(JobSpec(operation="feature-maps", request=request, caller="anonymous", no_cache=True))
    await redis.aclose()
    before = service.resident()
    listed: list[list[int]] = []

    def read() -> None:
        with httpx2.Client(base_url=service.address, trust_env=False, timeout=120) as client:
            found = client.get("/v1/jobs", params={"limit": 200}).json()["jobs"]
            listed.append([job["request"]["number"] for job in found])

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert listed == [list(reversed(range(JOBS)))] * READERS
    assert service.most - before < 400 * MIB, f"{READERS} answers of {JOBS * REQUEST_BYTES // MIB} MiB each"
    wait_for(lambda: service.resident() - before < 150 * MIB, "the return of the memory")
