"""Jobs over HTTP: reading, conditional and long polls, lists, cancelling, callers."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from convscope.settings import Settings
from tests.service.support import FAIL, HOLD, SLOW, Service, Worker, png_bytes, problem_of, wait_for

MAPS = "/v1/feature-maps"


def submit(client: httpx2.Client, seed: int, **headers: str) -> dict[str, Any]:
    parts = [("image", ("a.png", png_bytes(value=101), "image/png")), ("seed", (None, str(seed).encode()))]
    sent = {"Prefer": "respond-async", "Cache-Control": "no-cache", **headers}
    answer = client.post(MAPS, files=parts, headers=sent)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def finished(client: httpx2.Client, seed: int) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/v1/jobs/{submit(client, seed)['id']}", params={"wait": 20}).json()
    assert job["state"] == "succeeded"
    return job


class TestReading:
    def test_an_entity_tag_for_each_revision(self, client: httpx2.Client, worker: Worker) -> None:
        with worker.idle():
            path = f"/v1/jobs/{submit(client, 1)['id']}"
            queued = client.get(path)
            tag = queued.headers["etag"]
            assert tag.startswith('"') and queued.headers["cache-control"] == "no-cache"
            assert int(queued.headers["retry-after"]) >= 1
            unchanged = client.get(path, headers={"If-None-Match": f'"other", {tag}'})
            assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
        done = client.get(path, params={"wait": 20}, headers={"If-None-Match": tag})
        assert done.status_code == 200 and done.headers["etag"] != tag
        last = client.get(path, params={"wait": 20})
        assert last.json()["state"] == "succeeded" and "retry-after" not in last.headers
        assert client.get(path, headers={"If-None-Match": last.headers["etag"]}).status_code == 304

    def test_a_long_poll_ends_with_its_time(self, client: httpx2.Client, worker: Worker) -> None:
        with worker.idle():
            path = f"/v1/jobs/{submit(client, 2)['id']}"
            first = client.get(path)
            again = client.get(path, params={"wait": 0.1}, headers={"If-None-Match": first.headers["etag"]})
            assert again.status_code == 304
            assert client.get(path, params={"wait": 0.1}).json()["state"] == "queued"

    def test_a_long_poll_sees_the_change(self, client: httpx2.Client, service: Service, worker: Worker) -> None:
        with worker.idle():
            path = f"/v1/jobs/{submit(client, 3)['id']}"
            answers: list[httpx2.Response] = []
            waiting = threading.Thread(target=lambda: answers.append(client.get(path, params={"wait": 60})))
            waiting.start()
            wait_for(lambda: service.app.state.context.changes.watching, "the watch")
        waiting.join()
        assert answers[0].json()["state"] == "succeeded"

    @pytest.mark.parametrize("wait", ["-1", "soon", "nan"])
    def test_a_bad_wait(self, client: httpx2.Client, wait: str) -> None:
        answer = client.get(f"/v1/jobs/{uuid.uuid4()}", params={"wait": wait})
        assert problem_of(answer, 422, "invalid-request")["errors"][0]["pointer"] == "/query/wait"

    @pytest.mark.parametrize("job_id", ["x", "2f23c468-b0ca-4fc2-b173-f5dc137e44c6", "a" * 1000, "%00", "..%2F..", "*"])
    def test_no_such_job(self, client: httpx2.Client, job_id: str) -> None:
        for path in ("", "/result", "/arrays/maps", "/pictures/conv", "/events", f"/previews/{'0' * 64}"):
            problem_of(client.get(f"/v1/jobs/{job_id}{path}"), 404, "not-found")
        problem_of(client.delete(f"/v1/jobs/{job_id}"), 404, "not-found")
        problem_of(client.post(f"/v1/jobs/{job_id}/cancel"), 404, "not-found")

    def test_a_job_from_before_the_kept_time_is_gone(self, client: httpx2.Client) -> None:
        made_ms = int((time.time() - 4000) * 1000)  # an hour is kept
        old = uuid.UUID(int=(made_ms << 80) | (7 << 76) | (2 << 62) | 12345)
        problem_of(client.get(f"/v1/jobs/{old}"), 410, "gone")
        problem_of(client.get(f"/v1/jobs/{old}/result"), 410, "gone")
        fresh = uuid.UUID(int=(int(time.time() * 1000) << 80) | (7 << 76) | (2 << 62) | 12345)
        problem_of(client.get(f"/v1/jobs/{fresh}"), 404, "not-found")

    def test_without_a_worker(self, client: httpx2.Client, tmp_path: Path, service_settings: Settings) -> None:
        from tests.servers import PrivateServer

        with PrivateServer() as server:
            settings = service_settings.model_copy(
                update={"redis_url": server.url, "data": tmp_path, "card_wait_s": 0.2}
            )
            with Service(settings) as alone, alone.client() as other:
                unready = problem_of(other.get("/readyz"), 503, "queue-unavailable")
                assert "catalogue" in unready["detail"]
                parts = [("image", ("a.png", png_bytes(value=101), "image/png"))]
                answer = other.post(MAPS, files=parts)
                problem = problem_of(answer, 503, "queue-unavailable")  # nobody has described the network yet
                assert int(answer.headers["retry-after"]) == problem["retry_after_s"]
                with ThreadPoolExecutor(1) as pool:  # who waits for the answer waits for a worker as well
                    asked = {"model": "toy", "layer": "conv"}
                    held = pool.submit(other.post, MAPS, files=parts, data=asked, headers={"Prefer": "wait=20"})
                    time.sleep(0.5)
                    with Worker(settings):
                        assert held.result().status_code == 200
                with Worker(settings) as brief:
                    wait_for(lambda: other.get("/readyz").json()["workers"], "the worker")
                    with brief.idle():
                        job = submit(other, 4)
                        assert job["workers_online"] == 1 and job["state"] == "queued"
                wait_for(lambda: other.get("/readyz").json()["workers"] == 0, "the end of the worker")
                answer = other.get(f"/v1/jobs/{job['id']}")
                assert answer.json()["workers_online"] == 0
                assert answer.headers["retry-after"] == "30"


class TestDone:
    def test_it_is_not_found_until_the_job_is_finished(self, client: httpx2.Client) -> None:
        job = submit(client, HOLD)
        address = f"/v1/jobs/{job['id']}/done"
        problem = problem_of(early := client.get(address), 404, "not-found")
        assert problem["job_id"] == job["id"]
        assert int(early.headers["retry-after"]) >= 1
        assert early.headers["cache-control"] == "no-store"
        client.post(f"/v1/jobs/{job['id']}/cancel")
        done = wait_for(lambda: (answer := client.get(address)).status_code == 204 and answer, "the end of the job")
        assert done.content == b""

    def test_a_job_that_succeeded_or_failed_is_done_and_one_that_is_not_there_is_not(
        self, client: httpx2.Client
    ) -> None:
        for seed in (3, FAIL):
            job = submit(client, seed)
            client.get(f"/v1/jobs/{job['id']}", params={"wait": 20})
            assert client.get(f"/v1/jobs/{job['id']}/done").status_code == 204
        nobody = problem_of(client.get(f"/v1/jobs/{uuid.UUID(int=7, version=4)}/done"), 404, "not-found")
        assert "job_id" not in nobody


class TestLists:
    def test_pages(self, client: httpx2.Client) -> None:
        made = [submit(client, 10 + n)["id"] for n in range(5)]
        seen: list[str] = []
        address = "/v1/jobs?limit=2&operation=feature-maps"
        while len(seen) < 5:
            page = client.get(address)
            assert len(page.json()["jobs"]) == 2
            assert all(job["result"] is None for job in page.json()["jobs"])
            seen += [job["id"] for job in page.json()["jobs"]]
            address = page.links["next"]["url"]
        assert seen[:5] == made[::-1]

    def test_filters(self, client: httpx2.Client) -> None:
        job = finished(client, 20)
        ids = [each["id"] for each in client.get("/v1/jobs?state=succeeded").json()["jobs"]]
        assert ids[0] == job["id"]
        assert job["id"] not in [each["id"] for each in client.get("/v1/jobs?operation=cka").json()["jobs"]]
        assert job["id"] in [each["id"] for each in client.get("/v1/jobs?operation=feature-maps").json()["jobs"]]
        assert job["id"] not in [each["id"] for each in client.get("/v1/jobs?state=queued").json()["jobs"]]

    @pytest.mark.parametrize("query", ["state=done", "limit=0", "limit=201", "cursor=%21", "page=2"])
    def test_bad_queries(self, client: httpx2.Client, query: str) -> None:
        problem_of(client.get(f"/v1/jobs?{query}"), 422, "invalid-request")


class TestCancelling:
    @pytest.mark.parametrize("way", ["DELETE", "POST"])
    def test_running(self, client: httpx2.Client, way: str) -> None:
        path = f"/v1/jobs/{submit(client, HOLD)['id']}"
        wait_for(lambda: client.get(path).json()["state"] == "running", "the start")
        address = path if way == "DELETE" else f"{path}/cancel"
        assert client.request(way, address).status_code == 202
        job = client.get(path, params={"wait": 20}).json()
        assert job["state"] == "cancelled" and "cancel" not in job["links"] and job["error"] is None
        again = client.request(way, address)
        assert again.status_code == 200 and again.json()["state"] == "cancelled"
        problem_of(client.get(f"{path}/result"), 410, "gone")

    def test_queued(self, client: httpx2.Client, worker: Worker) -> None:
        with worker.idle():
            job = submit(client, 30)
            answer = client.delete(f"/v1/jobs/{job['id']}")
            assert answer.status_code == 200 and answer.json()["state"] == "cancelled"

    def test_finished(self, client: httpx2.Client) -> None:
        job = finished(client, 31)
        problem = problem_of(client.post(f"/v1/jobs/{job['id']}/cancel"), 409, "already-finished")
        assert problem["job_id"] == job["id"]

    def test_deleting_a_finished_job_removes_it(self, client: httpx2.Client) -> None:
        job = finished(client, 32)
        path = f"/v1/jobs/{job['id']}"
        answer = client.delete(path)
        assert answer.status_code == 204 and answer.content == b""
        for address in (path, f"{path}/result", f"{path}/events"):
            problem_of(client.get(address), 404, "not-found")
        problem_of(client.delete(path), 404, "not-found")
        assert job["id"] not in [one["id"] for one in client.get("/v1/jobs").json()["jobs"]]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, service_settings: Settings, worker: Worker) -> Iterator[Service]:
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    digest = {name: hashlib.sha256(f"{name}-key".encode()).hexdigest() for name in ("alice", "bob", "eve")}
    keys.write_text(
        f'[callers.alice]\nkey_sha256 = "{digest["alice"]}"\n'
        f'[callers.bob]\nkey_sha256 = ["{"0" * 64}", "{digest["bob"]}"]\nunfinished_jobs = 1\n'
        f'[callers.eve]\nkey_sha256 = "{digest["eve"]}"\nenabled = false\n'
    )
    with Service(service_settings.model_copy(update={"api_keys_file": keys})) as running:
        yield running


class TestCallers:
    def as_(self, service: Service, name: str) -> httpx2.Client:
        return service.client(headers={"Authorization": f"Bearer {name}-key"})

    def test_keys(self, guarded: Service) -> None:
        with guarded.client() as nobody:
            answer = nobody.get("/v1/jobs")
            problem_of(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
            for header in ("Bearer wrong", "Basic alice-key", "Bearer", "alice-key"):
                problem_of(nobody.get("/v1/jobs", headers={"Authorization": header}), 401, "unauthenticated")
            for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/problems/not-found"):
                assert nobody.get(path).status_code == 200, path
            problem_of(nobody.post(MAPS), 401, "unauthenticated")
            problem_of(nobody.get("/v1/models"), 401, "unauthenticated")
        with self.as_(guarded, "eve") as eve:
            problem_of(eve.get("/v1/jobs"), 403, "forbidden")

    def test_others_jobs_and_images_do_not_exist(self, guarded: Service) -> None:
        with self.as_(guarded, "alice") as alice, self.as_(guarded, "bob") as bob:
            job = finished(alice, 40)
            path = f"/v1/jobs/{job['id']}"
            for address in (
                path,
                f"{path}/result",
                f"{path}/events",
                f"{path}/arrays/maps/conv",
                f"{path}/pictures/conv",
            ):
                assert alice.get(address, headers={"Accept": "*/*"}).status_code == 200
                problem_of(bob.get(address), 404, "not-found")
            problem_of(bob.delete(path), 404, "not-found")
            problem_of(bob.post(f"{path}/cancel"), 404, "not-found")
            assert bob.get("/v1/jobs").json() == {"jobs": []}
            image = job["request"]["images"][0]["id"]
            problem_of(bob.post(MAPS, json={"image": {"id": image}}), 404, "not-found")

    def test_each_has_its_quota(self, guarded: Service) -> None:
        with self.as_(guarded, "alice") as alice, self.as_(guarded, "bob") as bob:
            held = submit(bob, HOLD)
            parts = [("image", ("a.png", png_bytes(value=101), "image/png"))]
            answer = bob.post(MAPS, files=parts, headers={"Cache-Control": "no-cache"})
            assert problem_of(answer, 429, "quota-exceeded")["limit"] == 1
            assert int(answer.headers["retry-after"]) >= 1
            policy = '"quick";q=1;qu="concurrent-requests", "long";q=1;qu="concurrent-requests"'
            assert answer.headers["ratelimit-policy"] == policy
            assert answer.headers["ratelimit"] == '"quick";r=0, "long";r=1'
            assert finished(alice, 41)["state"] == "succeeded"
            assert bob.delete(f"/v1/jobs/{held['id']}").status_code in (200, 202)
            wait_for(lambda: bob.get(f"/v1/jobs/{held['id']}").json()["state"] == "cancelled", "the cancellation")

    def test_keys_are_scoped_to_their_caller(self, guarded: Service) -> None:
        name = str(uuid.uuid4())
        with self.as_(guarded, "alice") as alice, self.as_(guarded, "bob") as bob:
            first = submit(alice, SLOW, **{"Idempotency-Key": name})
            second = submit(bob, SLOW, **{"Idempotency-Key": name})
            assert first["id"] != second["id"]
