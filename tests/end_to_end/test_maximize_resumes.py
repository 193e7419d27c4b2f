"""A real ascent whose processes are killed in the middle: through HTTP nobody can tell it from one that was left alone.

The service, the queue and the workers are processes; the workers make their checkpoints every 0.3 s, not every 10.
"""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.convscope.cli.launched import alive, wait_until
from tests.end_to_end.test_whole import FRESH, finished
from tests.servers import PrivateServer
from tests.service.routes.test_events import events, follow
from tests.service.test_process import start as start_service
from tests.workers.harness import Worker

MODEL = "efficientnet_lite0"
STEPS = 400
BODY: dict[str, Any] = {"layer": "blocks.2", "channels": [17], "size": 64, "steps": STEPS, "seed": 5}
ENGINE = {
    "methods": "workers.methods", "networks": "workers.networks:Networks", "default_model": MODEL,
    "checkpoint_s": 0.3, "progress_s": 0.1, "preview_s": 0.5,
}  # fmt: skip


@dataclass
class Whole:
    """A service with a client of it, and the workers that were started for it."""

    url: str
    data: Path
    client: httpx2.Client
    workers: list[Worker] = field(default_factory=list)

    def start(self) -> Worker:
        """A worker with the real operations, networks and methods; it has an engine."""
        engine = {**ENGINE, "weights_folder": str(self.data / "weights")}
        worker = Worker(self.url, self.data, engine=engine, environment={"DUMMY_OPERATIONS": ""})
        self.workers.append(worker)
        wait_until(lambda: worker.lines("engine_ready"), what="an engine")
        return worker

    def standing(self) -> Worker:
        """The worker that was started last, or a new one where it is gone."""
        if self.workers and self.workers[-1].process.poll() is None:
            return self.workers[-1]
        return self.start()

    def lines(self, event: str, job: dict[str, Any]) -> list[dict[str, Any]]:
        """What all workers have logged about a job, in order."""
        claims = [line for worker in self.workers for line in worker.lines("run_claimed") if job["id"] in line["jobs"]]
        runs = {line["run"] for line in claims}
        return [line for worker in self.workers for line in worker.lines(event) if line["run"] in runs]

    def ask(self) -> dict[str, Any]:
        """The job of the request, computed afresh."""
        answer = self.client.post("/v1/maximize", json=BODY, headers=FRESH)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def end(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job, succeeded."""
        over = finished(self.client, self.client.get(f"/v1/jobs/{job['id']}"))
        assert over["state"] == "succeeded", over["error"]
        return over

    def array(self, job: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = np.load(
            io.BytesIO(self.client.get(job["result"]["arrays"][name]["href"]).content)
        )
        return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    data: Path = tmp_path_factory.mktemp("resumed")
    with PrivateServer() as server:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CONVSCOPE_")},
            "CONVSCOPE_REDIS_URL": server.url,
            "CONVSCOPE_DATA": str(data),
            "CONVSCOPE_ARTIFACTS_URL": str(data / "artifacts"),
            "CONVSCOPE_PORT": "0",
            "CONVSCOPE_LOG_FORMAT": "json",
        }
        process, address, _ = start_service(environment)
        with httpx2.Client(base_url=address, timeout=60, trust_env=False) as client:
            made = Whole(server.url, data, client)
            yield made
            for worker in made.workers:
                worker.close()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def undisturbed(whole: Whole) -> dict[str, Any]:
    """An equal request that nothing befalls."""
    whole.standing()
    job = whole.end(whole.ask())
    assert job["attempt"] == 1
    return job


def kill_engine(whole: Whole, worker: Worker) -> None:
    """The kernel kills the engine; its supervisor has another one forked."""
    os.kill(worker.engine_pid, signal.SIGKILL)


def kill_worker(whole: Whole, worker: Worker) -> None:
    """The whole worker is gone at once, and another one is there."""
    engine = psutil.Process(worker.engine_pid)
    worker.signal(signal.SIGKILL)
    wait_until(lambda: not alive(engine), what="the engine's end with its supervisor")
    whole.start()


@pytest.mark.parametrize("kill", [kill_engine, kill_worker])
def test_a_job_whose_worker_is_killed_gives_the_bits_of_one_that_was_left_alone(
    whole: Whole, undisturbed: dict[str, Any], kill: Callable[[Whole, Worker], None]
) -> None:
    worker = whole.standing()
    asked = whole.ask()
    wait_until(
        lambda: any(line["step"] > STEPS // 4 for line in whole.lines("checkpointed", asked)), what="checkpoints"
    )
    kill(whole, worker)
    job = whole.end(asked)
    assert job["id"] != undisturbed["id"] and job["attempt"] == 2
    for name in ("images", "loss"):
        mine, expected = whole.array(job, name), whole.array(undisturbed, name)
        assert mine.dtype == expected.dtype and np.array_equal(mine, expected), name
    # It went on from a checkpoint that was stored; begun anew, it would have made the early ones again.
    began = [line["checkpoint_step"] for line in whole.lines("run_claimed", job)]
    made = [line["step"] for line in whole.lines("checkpointed", job)]
    assert len(began) == 2 and began[0] == 0 and began[1] > STEPS // 4
    assert began[1] in made and made == sorted(set(made)) and made[-1] > began[1]
    looks_like_one_ascent(whole, job)


def looks_like_one_ascent(whole: Whole, job: dict[str, Any]) -> None:
    """What its events tell, from the first to the last: steps that never go back, losses and pictures."""
    told = events(follow(whole.client, job["id"]))
    progress = [event.json() for event in told if event.name == "progress"]
    steps = [one["done"] for one in progress]
    # Not even by the interval of checkpoints: what is told stands still until it is passed.
    assert steps == sorted(steps) and len(set(steps)) > 5 and {one["total"] for one in progress} == {STEPS}
    found = whole.array(job, "loss")[0].tolist()
    losses = {loss for one in progress for loss in one.get("losses", ()) if loss is not None}
    assert len(losses) > 5 and losses <= {float(f"{loss:.6g}") for loss in found}
    means = {mean[1] for one in progress if (mean := re.search(r"mean objective (\S+)$", one["message"]))}
    assert len(means) > 5 and means <= {f"{loss:.4g}" for loss in found}
    assert "losses" not in job["progress"], "what was told last is older than the result"
    previews = [event.json() for event in told if event.name == "preview"]
    assert len(previews) > 1
    shown = whole.client.get(previews[-1]["href"])
    assert shown.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(shown.content)) as picture:
        assert picture.format == "PNG" and picture.size == (64, 64)
        assert len(set(picture.convert("RGB").get_flattened_data())) > 256
    assert [event.json()["state"] for event in told if event.name == "done"] == ["succeeded"]
