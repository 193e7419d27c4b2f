"""Pictures that are large, many, and not waited for: others get theirs, and nothing is drawn for nobody."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest

from convscope.settings import Settings
from tests.servers import PrivateServer
from tests.service.support import Worker, png_bytes, wait_for

LARGE = "scale=4&columns=8"
"""Sixty-four maps of 200 by 200: 41 million pixels."""
MANY = 8


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a service of its own process listens, with a worker."""
    data = tmp_path_factory.mktemp("data")
    with PrivateServer() as queue, Worker(Settings(redis_url=queue.url, data=data)):
        environment = {**os.environ, "CONVSCOPE_REDIS_URL": queue.url, "CONVSCOPE_DATA": str(data)}
        environment |= {"CONVSCOPE_PORT": "0", "CONVSCOPE_LOG_FORMAT": "json"}
        command = [sys.executable, "-m", "service"]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            yield json.loads(next(line for line in process.stderr if "listening on" in line))["address"]
        finally:
            process.terminate()
            process.communicate(timeout=15)


@pytest.fixture
def client(address: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=address, trust_env=False, timeout=120) as made:
        yield made


def picture_of(client: httpx2.Client, layer: str, value: int) -> str:
    """The path of the picture of a finished job."""
    parts = [("image", ("a.png", png_bytes(value=value), "image/png")), ("layers", (None, layer.encode()))]
    parts += [("channels", (None, b"all"))]
    job = client.post("/v1/feature-maps", files=parts, headers={"Prefer": "wait=60"}).json()
    wait_for(lambda: client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded", "the end of the job")
    return f"/v1/jobs/{job['id']}/result"


def figure(client: httpx2.Client, name: str) -> float:
    text = client.get("/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_row_52_a_thumbnail_is_drawn_before_large_pictures_that_came_first(client: httpx2.Client, address: str) -> None:
    large, small = picture_of(client, "huge", 61), picture_of(client, "conv", 61)
    ended: list[str] = []

    def get(path: str, name: str) -> None:
        with httpx2.Client(base_url=address, trust_env=False, timeout=300) as reader:
            answer = reader.get(path, headers={"Accept": "image/png"})
            assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
            ended.append(name)

    readers = [
        threading.Thread(target=get, args=(f"{large}?{LARGE}&alpha=0.{number}1", f"large {number}"))
        for number in range(MANY)
    ]
    for reader in readers:
        reader.start()
    wait_for(lambda: figure(client, "convscope_pictures_drawing") + len(ended) >= MANY, "the large ones")
    get(small, "small")
    for reader in readers:
        reader.join()
    assert len(ended) == MANY + 1 and ended.index("small") <= MANY - 3, ended


def test_row_52_nothing_is_drawn_for_those_who_left(client: httpx2.Client, address: str) -> None:
    path = picture_of(client, "huge", 62)
    drawn, left = figure(client, "convscope_render_seconds_count"), figure(client, "convscope_pictures_unwanted_total")
    here = urlsplit(address)
    lines = []
    for number in range(MANY):
        lines.append(socket.create_connection((here.hostname, here.port), 10))
        head = f"GET {path}?{LARGE}&alpha=0.{number}2 HTTP/1.1\r\nHost: localhost\r\nAccept: image/png\r\n\r\n"
        lines[-1].sendall(head.encode())

    def begun() -> bool:
        drawing = figure(client, "convscope_pictures_drawing")
        return drawing + figure(client, "convscope_render_seconds_count") - drawn >= MANY

    wait_for(begun, "the beginning of all")
    for line in lines:
        line.close()
    wait_for(lambda: figure(client, "convscope_pictures_drawing") == 0, "the end of all")
    unwanted = figure(client, "convscope_pictures_unwanted_total") - left
    assert unwanted + figure(client, "convscope_render_seconds_count") - drawn == MANY
    assert unwanted >= MANY // 2, "those that had not begun, and those that had"
    assert client.get(f"{path}?scale=1", headers={"Accept": "image/png"}).status_code == 200
