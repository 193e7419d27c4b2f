"""`python -m service` as a process: it says where it listens, drains on SIGTERM, dies with its launcher."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import httpx2
import psutil
import pytest

from convscope.settings import Settings
from tests.servers import PrivateServer
from tests.service.routes.test_events import parse
from tests.service.routes.test_jobs import submit
from tests.service.support import HOLD, Worker, png_bytes, problem_of, wait_for


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    with PrivateServer() as server:
        yield {
            **os.environ,
            "CONVSCOPE_REDIS_URL": server.url,
            "CONVSCOPE_DATA": str(tmp_path),
            "CONVSCOPE_PORT": "0",
            "CONVSCOPE_LOG_FORMAT": "json",
        }


def start(environment: dict[str, str]) -> tuple[subprocess.Popen[str], str, Queue[str]]:
    """The process, its address, and its further lines."""
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=subprocess.PIPE, text=True)
    lines: Queue[str] = Queue()
    stderr = process.stderr
    assert stderr is not None

    def pump() -> None:
        for line in stderr:
            lines.put(line)

    for line in stderr:
        found = re.search(r"listening on (http://[0-9.:]+)", line)
        if found:
            threading.Thread(target=pump, daemon=True).start()
            return process, found[1], lines
    raise AssertionError(f"the service ended with {process.wait()}")


def test_sigterm_ends_what_waits_and_streams(environment: dict[str, str]) -> None:
    process, url, lines = start(environment)
    settings = Settings(redis_url=environment["CONVSCOPE_REDIS_URL"], data=Path(environment["CONVSCOPE_DATA"]))
    streams: list[str] = []
    polls: list[httpx2.Response] = []
    with Worker(settings), httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200, "the start")
        job = submit(client, HOLD)
        path = f"/v1/jobs/{job['id']}"
        readers = [
            threading.Thread(target=lambda: streams.append(client.get(f"{path}/events").text)),
            threading.Thread(target=lambda: polls.append(client.get(path, params={"wait": 60}))),
        ]
        for reader in readers:
            reader.start()

        def figure(name: str) -> float:
            text = client.get("/metrics").text
            return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

        wait_for(lambda: figure("convscope_sse_clients") and figure("convscope_waiting_requests"), "the readers")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        for reader in readers:
            reader.join()
    told = parse(streams[0])
    assert told[-1].retry == "2000" and "stops" in told[-1].comments[0]
    assert polls[0].status_code == 200 and polls[0].json()["state"] == "running"
    for line in iter(lines.get, None):
        entry = json.loads(line)
        if entry["event"] == "stopping":
            break


def test_it_dies_with_its_launcher(environment: dict[str, str]) -> None:
    script = (
        "import subprocess, sys, os\n"
        "child = subprocess.Popen([sys.executable, '-m', 'service'], "
        "env={**os.environ, 'CONVSCOPE_DIE_WITH_PARENT': '1'})\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None and launcher.stderr is not None
    child = psutil.Process(int(launcher.stdout.readline()))
    for line in launcher.stderr:
        if "listening on" in line:
            break
    launcher.kill()
    launcher.wait()
    child.wait(10)
    assert not child.is_running()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"CONVSCOPE_PORT": "70000"}, "port"),
        ({"CONVSCOPE_API_KEYS_FILE": "/none"}, "No such file"),
    ],
)
def test_bad_settings_are_said_plainly(environment: dict[str, str], change: dict[str, str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service"], env={**environment, **change}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken(environment: dict[str, str]) -> None:
    process, url, _ = start(environment)
    try:
        taken = {**environment, "CONVSCOPE_PORT": url.rpartition(":")[2]}
        done = subprocess.run([sys.executable, "-m", "service"], env=taken, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1 and "cannot_listen" in done.stderr
    finally:
        process.terminate()
        assert process.wait(10) == 0


def test_without_a_queue_it_starts_and_says_so(environment: dict[str, str]) -> None:
    process, url, _ = start({**environment, "CONVSCOPE_REDIS_URL": "unix:///nowhere/at/all"})
    try:
        with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
            assert client.get("/livez").status_code == 200
            problem_of(client.get("/readyz"), 503, "queue-unavailable")
            answer = client.post("/v1/feature-maps", files=[("image", ("a.png", png_bytes(), "image/png"))])
            problem_of(answer, 503, "queue-unavailable")
    finally:
        process.terminate()
        assert process.wait(10) == 0
