"""Bodies made to keep the service busy: they are refused within bounds, and others are answered meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from convscope.protocol.operations import operations
from service.intake.forms import MOST_DEPTH, MOST_NAMES
from tests.servers import PrivateServer
from tests.service.support import problem_of

MANY = 100_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a service of its own process listens; it has no worker."""
    with PrivateServer() as queue:
        environment = {
            **os.environ,
            "CONVSCOPE_REDIS_URL": queue.url,
            "CONVSCOPE_DATA": str(tmp_path_factory.mktemp("data")),
            "CONVSCOPE_PORT": "0",
            "CONVSCOPE_LOG_FORMAT": "json",
            "CONVSCOPE_CARD_WAIT_S": "0",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], env=environment, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            yield json.loads(next(line for line in process.stderr if "listening on" in line))["address"]
        finally:
            process.terminate()
            process.communicate(timeout=15)


@pytest.fixture
def client(address: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=address, trust_env=False, timeout=60) as made:
        yield made


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [MOST_DEPTH, 490, 700, 950, 5000])
def test_row_53_nothing_is_nested_without_end(client: httpx2.Client, depth: int) -> None:
    text = "[" * depth + "1" + "]" * depth
    for operation in operations().values():
        for name in operation.request.model_fields:
            body = f'{{"{name}": {text}}}'.encode()
            answer = client.post(f"/v1/{operation.name}", content=body, headers={"Content-Type": "application/json"})
            assert "nested too deeply" in problem_of(answer, 400, "malformed-body")["detail"]
            answer = client.post(f"/v1/{operation.name}", files=[(name, (None, text.encode()))])
            assert answer.status_code not in (200, 202, 500), (name, answer.text[:300])  # some take any text


def test_row_53_what_is_nested_a_little_is_judged_by_the_schema(client: httpx2.Client) -> None:
    answer = client.post("/v1/feature-maps", json={"labels": nested(MOST_DEPTH - 2)})
    problem_of(answer, 422, "invalid-request")


def test_row_53_an_object_has_a_bounded_number_of_names(client: httpx2.Client) -> None:
    names = {f"n{number}": number for number in range(MOST_NAMES + 1)}
    for body in (names, {"labels": names}, {"image": names}):
        assert problem_of(client.post("/v1/feature-maps", json=body), 413, "body-too-large")["limit"] == MOST_NAMES
    del names["n0"]
    problem_of(client.post("/v1/feature-maps", json=names), 422, "invalid-request")


def test_row_53_wrong_bodies_of_a_megabyte_hold_nobody_up(client: httpx2.Client, address: str) -> None:
    """While they are judged, a client that asks again and again whether the service lives is answered all the time."""
    bodies = [
        ("feature-maps", {"channels": ["x"] * MANY}),
        ("feature-maps", {f"name{number}": number for number in range(MANY)}),
        ("cka", {"layers": [1] * MANY}),
        ("maximize", {"objective": [{"layer": "a", "direction": ["x"] * 1000}] * (MANY // 1000)}),
        ("cam", {"targets": [{"a": 1}] * (MANY // 3)}),
    ]
    statuses: list[int] = []

    def send(operation: str, body: dict[str, Any]) -> None:
        with httpx2.Client(base_url=address, trust_env=False, timeout=120) as sender:
            answer = sender.post(f"/v1/{operation}", json=body)
            document = answer.json()
            assert len(document.get("errors", ())) <= 32 and len(answer.content) < 64 * 1024
            statuses.append(answer.status_code)

    senders = [threading.Thread(target=send, args=each) for each in bodies * 2]
    for sender in senders:
        sender.start()
    meanwhile = 0
    while any(sender.is_alive() for sender in senders):
        assert client.get("/livez").status_code == 200
        meanwhile += len(statuses) < len(senders)
    assert sorted(set(statuses)) == [413, 422] and len(statuses) == len(senders)
    assert meanwhile > 2 * len(senders), "others were answered between any two of them"
