"""Services whose clocks are an hour off, on one queue: what is counted in time is counted by the queue's clock."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from convscope.settings import Settings
from tests.servers import PrivateServer
from tests.service.routes.test_jobs import submit
from tests.service.support import HOLD, Worker, png_bytes, problem_of, wait_for

OFFSETS = ("+3600", "-3600")


def _shifted(offset: str) -> dict[str, str]:
    """Variables under which a process sees another time, on the wall clock only."""
    said = subprocess.run(["faketime", "-f", "+0", "env"], capture_output=True, text=True, check=True).stdout
    preload = next(line for line in said.splitlines() if line.startswith("LD_PRELOAD=")).partition("=")[2]
    only_the_wall_clock = {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": preload, **only_the_wall_clock, "FAKETIME": offset}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[httpx2.Client]]:
    """Clients of a service an hour ahead and of one an hour behind, beside a worker whose clock is right."""
    data: Path = tmp_path_factory.mktemp("data")
    processes = []
    clients = []
    with PrivateServer() as queue, Worker(Settings(redis_url=queue.url, data=data)):
        common = {"CONVSCOPE_REDIS_URL": queue.url, "CONVSCOPE_DATA": str(data), "CONVSCOPE_PORT": "0"}
        for offset in OFFSETS:
            environment = {**os.environ, **common, **_shifted(offset)}
            process = subprocess.Popen(
                [sys.executable, "-m", "service"], env=environment, stderr=subprocess.PIPE, text=True
            )
            processes.append(process)
            assert process.stderr is not None
            url = next(found[1] for line in process.stderr if (found := re.search(r"on (http://[0-9.:]+)", line)))
            clients.append(httpx2.Client(base_url=url, timeout=20, trust_env=False))
        for client in clients:
            wait_for(lambda client=client: client.get("/readyz").status_code == 200, "the start")
        yield clients
        for client in clients:
            client.close()
        for process in processes:
            process.kill()
            process.communicate()


def _hours(first: str, second: str) -> float:
    return (datetime.fromisoformat(first) - datetime.fromisoformat(second)).total_seconds() / 3600


def test_row_58_the_services_do_see_other_times(services: list[httpx2.Client]) -> None:
    said = [client.get("/livez").headers["date"] for client in services]
    moments = [datetime.strptime(each, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC) for each in said]
    assert (moments[0] - moments[1]).total_seconds() == pytest.approx(7200, abs=30)


def test_row_58_jobs_have_the_times_of_the_queue_and_one_order(services: list[httpx2.Client]) -> None:
    ahead, behind = services
    made = [submit(client, number)["id"] for number, client in enumerate([ahead, behind, ahead, behind])]
    for client in services:
        told = [client.get(f"/v1/jobs/{job}", params={"wait": 20}).json() for job in made]
        assert [one["state"] for one in told] == ["succeeded"] * 4
        assert all(abs(_hours(one["created_at"], datetime.now(UTC).isoformat())) < 0.1 for one in told)
        assert [one["id"] for one in client.get("/v1/jobs").json()["jobs"]][:4] == made[::-1]
        pages, path = [], "/v1/jobs?limit=1"
        for _ in range(4):
            page = client.get(path)
            pages += [one["id"] for one in page.json()["jobs"]]
            path = page.links["next"]["url"] if "next" in page.links else path
        assert pages == made[::-1]


def test_row_58_deadlines_and_waits_last_as_long_as_they_say(services: list[httpx2.Client]) -> None:
    for number, client in enumerate(services):
        files = {"image": ("a.png", png_bytes(value=60 + number), "image/png")}
        form = {"model": "toy", "layer": "conv", "seed": str(HOLD), "deadline_s": "60"}
        job = client.post("/v1/feature-maps", files=files, data=form, headers={"Prefer": "wait=0"}).json()["id"]
        wait_for(lambda client=client, job=job: client.get(f"/v1/jobs/{job}").json()["state"] == "running", "its turn")
        waiting = client.get(f"/v1/jobs/{job}", params={"wait": 1})
        assert waiting.json()["state"] == "running"
        assert 1 <= int(waiting.headers["retry-after"]) <= 60
        assert client.post(f"/v1/jobs/{job}/cancel").status_code in {200, 202}


def test_row_58_images_and_keys_of_one_are_known_to_the_other(services: list[httpx2.Client]) -> None:
    ahead, behind = services
    for number, (one, other) in enumerate([(ahead, behind), (behind, ahead)]):
        upload = one.post("/v1/images", files={"image": ("a.png", png_bytes(value=90 + number), "image/png")})
        assert upload.status_code == 201
        image = upload.json()["id"]
        body = {"model": "toy", "layer": "conv", "image": {"id": image}}
        headers = {"Idempotency-Key": f"clock-{number}"}
        first = one.post("/v1/feature-maps", json=body, headers=headers)
        again = other.post("/v1/feature-maps", json=body, headers=headers)
        assert first.status_code == again.status_code == 200, again.text
        assert first.json()["id"] == again.json()["id"]
        assert image in [each["id"] for each in other.get("/v1/images").json()["images"]]
        assert one.delete(f"/v1/images/{image}").status_code == 204
        problem_of(other.get(f"/v1/images/{image}"), 404, "not-found")
