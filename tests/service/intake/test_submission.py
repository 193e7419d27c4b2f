"""What a submission comes to when others asked for the same before, and when the store lost the answer."""

from __future__ import annotations

import uuid
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.service.support import Service, Worker, numbers_of, png_bytes, problem_of, toy_maps

MAPS = "/v1/feature-maps"


def ask(client: httpx2.Client, seed: int, **headers: str) -> dict[str, Any]:
    """The job of a request for the maps of a grey picture, which must succeed."""
    parts = [("image", ("grey.png", png_bytes(value=103), "image/png")), ("seed", (None, str(seed).encode()))]
    answer = client.post(MAPS, files=parts, headers=headers)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    np.testing.assert_array_equal(
        np.array(job["result"]["arrays"]["maps/conv"]["data"], np.float32)[0],
        toy_maps(np.full((16, 20, 3), 103, np.uint8), (8, 6, 6)),
    )
    return job


def lose_result(client: httpx2.Client, service: Service, job: dict[str, Any]) -> None:
    """Remove the arrays of a job's result from the store."""
    kept = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "application/vnd.safetensors"})
    assert kept.status_code == 200
    for path in (service.settings.data / "artifacts" / "results").rglob("*"):
        if path.is_file() and numbers_of(path.read_bytes()) == numbers_of(kept.content):
            path.unlink()
    problem_of(client.get(f"/v1/jobs/{job['id']}/result"), 410, "gone")


@pytest.mark.parametrize("bound", ["to the job that computed", "to a job answered from the store", "afterwards"])
def test_a_key_whose_result_was_lost_names_a_new_job(
    client: httpx2.Client, service: Service, worker: Worker, bound: str
) -> None:
    seed = {"to the job that computed": 61, "to a job answered from the store": 62, "afterwards": 63}[bound]
    name = {"Idempotency-Key": str(uuid.uuid4())}
    first = ask(client, seed, **(name if bound == "to the job that computed" else {}))
    if bound == "to a job answered from the store":
        runs = len(worker.computed)
        first = ask(client, seed, **name)
        assert len(worker.computed) == runs
    lose_result(client, service, first)
    runs = len(worker.computed)
    again = ask(client, seed, **name)
    assert again["id"] != first["id"] and len(worker.computed) == runs + 1
    assert ask(client, seed, **name)["id"] == again["id"], "the key names the new job"
    assert len(worker.computed) == runs + 1
