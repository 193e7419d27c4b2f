"""What a key stands for after a failure, and what one caller learns of another's requests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from convscope.protocol.problems import PROBLEMS
from convscope.settings import Settings
from tests.servers import PrivateServer
from tests.service.support import CRASHED, FAIL, Service, Worker, png_bytes, problem_of, wait_for

MAPS = "/v1/feature-maps"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with PrivateServer() as server:
        yield Settings(redis_url=server.url, data=tmp_path, card_wait_s=1.0)


def _ask(client: httpx2.Client, seed: int, key: str = "", **fields: object) -> httpx2.Response:
    headers = {"Idempotency-Key": f'"{key}"'} if key else {}
    files = [("image", ("a.png", png_bytes(), "image/png")), ("seed", (None, b"%d" % seed))]
    files += [(name, (None, str(value).encode())) for name, value in fields.items()]  # type: ignore[misc]
    return client.post(MAPS, files=files, headers=headers)


def test_row_42_a_key_is_free_after_a_failure_that_may_pass_and_kept_after_one_that_lasts(settings: Settings):
    with Worker(settings) as worker, Service(settings) as service, service.client() as client:
        crashed = [problem_of(_ask(client, CRASHED, "k1"), 500, "worker-crashed")["job_id"] for _ in range(2)]
        assert crashed[0] != crashed[1], "sent again, it is tried again"
        failed = [problem_of(_ask(client, FAIL, "k2"), 422, "numerical-error")["job_id"] for _ in range(2)]
        assert failed[0] == failed[1], "it would fail again"
        with worker.idle():
            late = problem_of(_ask(client, 7, "k3", deadline_s=0.2), 504, "deadline-exceeded")["job_id"]
        again = _ask(client, 7, "k3", deadline_s=60)
        # Another deadline is another request, and the key is free for it.
        assert again.status_code == 200 and again.json()["id"] != late
        assert _ask(client, 7, "k3", deadline_s=60).json()["id"] == again.json()["id"]
        # What failed can still be looked at, by its id.
        assert client.get(f"/v1/jobs/{crashed[0]}").json()["error"]["type"] == "/problems/worker-crashed"


def test_row_42_which_failures_may_pass_stands_with_each_problem(settings: Settings):
    with Service(settings) as service, service.client(headers={"Accept": "application/json"}) as client:
        said = {name: client.get(f"/problems/{name}").json()["passing"] for name in PROBLEMS}
    for name in ("worker-crashed", "deadline-exceeded", "store-unavailable", "store-full", "weights-unavailable"):
        assert said[name], name
    for name in ("numerical-error", "out-of-memory", "invalid-request", "not-applicable", "too-expensive"):
        assert not said[name], name
    assert all(said[name] for name, problem in PROBLEMS.items() if problem.status == 503)


def test_row_43_an_answer_from_the_store_tells_nothing_of_who_asked_before(settings: Settings, tmp_path: Path):
    keys = tmp_path / "keys.toml"
    digests = {name: hashlib.sha256(f"{name}-key".encode()).hexdigest() for name in ("ann", "bob")}
    keys.write_text("".join(f'[callers.{name}]\nkey_sha256 = "{digest}"\n' for name, digest in digests.items()))
    changed = settings.model_copy(update={"api_keys_file": keys})
    with Worker(changed), Service(changed) as service:
        ann = service.client(headers={"Authorization": "Bearer ann-key"})
        bob = service.client(headers={"Authorization": "Bearer bob-key"})
        with ann, bob:
            mine = _ask(ann, 5).json()
            assert not mine["cached"] and mine["timings_ms"]["computed"] > 0
            assert ann.get(f"/v1/jobs/{mine['id']}/result", headers={"Accept": "image/png"}).status_code == 200
            answer = _ask(bob, 5)
            told = answer.json()
            assert told["cached"] and told["state"] == "succeeded" and told["id"] != mine["id"]
            assert told["timings_ms"] == {"queued": 0, "computed": None}
            assert min(told["created_at"], told["started_at"]) > mine["finished_at"]
            picture = bob.get(f"/v1/jobs/{told['id']}/result", headers={"Accept": "image/png"})
            assert picture.status_code == 200 and "dur" in picture.headers["server-timing"]
            assert "computed" not in picture.headers["server-timing"]
            assert "rendered" not in picture.headers["server-timing"]
            assert bob.get(f"/v1/jobs/{told['id']}").json()["timings_ms"] == told["timings_ms"]
            assert told["result"]["facts"] == mine["result"]["facts"]
            # It has an end to follow, though it never had a beginning.
            events = bob.get(f"/v1/jobs/{told['id']}/events").text
            assert "event: reset" in events and "event: done" in events and "succeeded" in events
            wait_for(lambda: _ask(bob, 5).json()["id"] == told["id"], "the same answer")
