"""Health, figures, pages, models, ids of requests; and the queue away."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from collections.abc import Iterator

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from convscope.protocol.problems import PROBLEMS
from convscope.settings import Settings
from service.app import create_app
from tests.servers import PrivateServer
from tests.service.support import Service, Worker, png_bytes, problem_of, wait_for

MAPS = "/v1/feature-maps"


def test_live_and_ready(client: httpx2.Client) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok", "redis": "ok", "store": "ok", "workers": 1}


def test_figures(client: httpx2.Client) -> None:
    client.post(MAPS, files=[("image", ("a.png", png_bytes(), "image/png"))])
    text = client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["convscope_queue_up"].samples[0].value == 1
    assert families["convscope_workers"].samples[0].value == 1
    assert {sample.labels["lane"] for sample in families["convscope_queue_depth"].samples} == {
        "quick",
        "interactive",
        "batch",
    }
    assert families["convscope_worker_batch_rows"].samples[0].value == 3
    counted = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"])
        for sample in families["convscope_http_request_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert ("POST", MAPS, "200") in counted
    # Addresses that a client makes up do not become labels.
    client.get("/no/such/thing")
    client.request("BREW", "/livez")
    text = client.get("/metrics").text
    assert "/no/such" not in text and "BREW" not in text and 'route="unmatched"' in text


def test_every_problem_has_its_page(client: httpx2.Client) -> None:
    for problem in PROBLEMS.values():
        page = client.get(problem.path)
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert problem.title in page.text.replace("&#x27;", "'")
    as_json = client.get("/problems/gone", headers={"Accept": "application/json"}).json()
    assert as_json["status"] == 410
    problem_of(client.get("/problems/none"), 404, "not-found")
    problem_of(client.get("/problems/gone", headers={"Accept": "image/png"}), 406, "not-acceptable")


def test_the_page_of_everything(client: httpx2.Client) -> None:
    page = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in page
    assert "<script" not in page and "<style" not in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses and all(address.startswith(("/", "#")) for address in addresses)


def test_ids_of_requests(client: httpx2.Client) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    for bad in ("a b", "x" * 65, "<script>"):
        made = client.get("/livez", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert made != bad and len(made) == 32
    problem = problem_of(client.get("/none", headers={"X-Request-ID": "mine"}), 404, "not-found")
    assert problem["request_id"] == "mine"


class TestModels:
    def test_the_catalogue(self, client: httpx2.Client) -> None:
        listed = client.get("/v1/models").json()
        assert listed["default"] == "toy"
        assert [model["id"] for model in listed["models"]] == ["broken", "toy", "toy-random"]
        assert listed["models"][1]["default"]

    def test_a_card(self, client: httpx2.Client) -> None:
        card = client.get("/v1/models/toy").json()
        assert card["classes"] == ["cat", "dog"] and card["preprocess"]["size"] == [8, 8]
        problem = problem_of(client.get("/v1/models/tooy"), 404, "not-found")
        assert "toy" in problem["near"]
        problem_of(client.get("/v1/models/broken"), 424, "weights-unavailable")

    def test_layers(self, client: httpx2.Client) -> None:
        table = client.get("/v1/models/toy/layers").json()
        assert [layer["name"] for layer in table["layers"]] == ["conv", "conv.relu#2", "wide", "huge", "fc"]
        usable = client.get("/v1/models/toy/layers?method=feature-maps").json()
        assert usable["method"] == "feature-maps" and "fc" not in [layer["name"] for layer in usable["layers"]]
        answer = client.get("/v1/models/toy/layers?method=feature-mops")
        assert "feature-maps" in problem_of(answer, 422, "invalid-request")["possible"]
        problem_of(client.get("/v1/models/none/layers"), 404, "not-found")


class TestQueueAway:
    @pytest.fixture
    def fragile(self, service_settings: Settings) -> Iterator[tuple[Service, PrivateServer, Worker]]:
        with PrivateServer(append_only=True) as server:
            settings = service_settings.model_copy(update={"redis_url": server.url})
            with Worker(settings) as worker, Service(settings) as running:
                yield running, server, worker

    def test_problems_while_it_is_away_and_none_after(self, fragile: tuple[Service, PrivateServer, Worker]) -> None:
        service, server, _ = fragile
        parts = [("image", ("a.png", png_bytes(), "image/png"))]
        with service.client() as client:
            wait_for(lambda: client.get("/readyz").json().get("workers"), "the worker")
            assert client.post(MAPS, files=parts).status_code == 200
            server.stop()
            assert client.get("/livez").status_code == 200
            for answer in (client.get("/readyz"), client.post(MAPS, files=parts), client.get("/v1/jobs")):
                problem_of(answer, 503, "queue-unavailable")
                assert int(answer.headers["retry-after"]) >= 1
            figures = client.get("/metrics")
            assert figures.status_code == 200 and "convscope_queue_up 0.0" in figures.text
            server.start()
            wait_for(lambda: client.get("/readyz").status_code == 200, "the return of the queue")
            assert len(client.get("/v1/jobs").json()["jobs"]) == 1

    def test_who_waits_meanwhile_hears_of_the_job(self, fragile: tuple[Service, PrivateServer, Worker]) -> None:
        service, server, worker = fragile
        parts = [("image", ("a.png", png_bytes(), "image/png"))]
        answers: list[httpx2.Response] = []
        with service.client() as client:
            wait_for(lambda: client.get("/readyz").json().get("workers"), "the worker")
            with worker.idle():
                asking = threading.Thread(target=lambda: answers.append(client.post(MAPS, files=parts)))
                asking.start()
                wait_for(lambda: service.app.state.context.metrics.waiting._value.get(), "the wait")
                server.stop()
                asking.join()
                server.start()
            (answer,) = answers
            assert answer.status_code == 202, answer.text
            assert answer.json()["workers_online"] == 1 and int(answer.headers["retry-after"]) >= 1
            path = answer.headers["location"]
            assert path == f"/v1/jobs/{answer.json()['id']}"
            wait_for(lambda: client.get(path).json().get("state") == "succeeded", "the job's end")


def test_a_store_that_cannot_be_written(client: httpx2.Client, service: Service) -> None:
    probes = service.settings.data / "artifacts" / "probes"
    shutil.rmtree(probes, ignore_errors=True)
    probes.write_text("a file where a folder should be")
    try:
        problem_of(client.get("/readyz"), 503, "store-unavailable")
    finally:
        probes.unlink()
    assert client.get("/readyz").status_code == 200


def test_an_error_of_ours_tells_nothing(
    service: Service, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret path /etc/shadow")

    monkeypatch.setattr(type(service.app.state.context.jobs), "page", broken)
    answer = client.get("/v1/jobs")
    assert "secret" not in answer.text
    problem_of(answer, 500, "internal-error")


def test_keys_must_make_sense(tmp_path: object, service_settings: Settings) -> None:
    path = service_settings.data / "keys.toml"
    for text in ("callers = 1", '[callers.a]\nkey_sha256 = "short"', '[callers."a b"]\nkey_sha256 = "x"', "["):
        path.write_text(text)
        with pytest.raises(ValueError, match=r".+"):
            create_app(service_settings.model_copy(update={"api_keys_file": path}))


def test_log_lines_are_json_with_ids(capfd: pytest.CaptureFixture[str], service_settings: Settings) -> None:
    import structlog

    from convscope import logs

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    defaults = structlog.get_config()
    try:
        logs.configure(service_settings.log_level, "json")
        structlog.contextvars.bind_contextvars(request_id="r1", job_id="j1")
        structlog.get_logger("service").info("something", value=1)
        logging.getLogger("library").warning("said %s", "this")
        logs.standard_error(True).end()
    finally:
        structlog.contextvars.clear_contextvars()
        root.handlers[:], root.level = handlers, level
        structlog.configure(**defaults)
    ours, theirs = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert (ours["event"], ours["value"], ours["request_id"], ours["job_id"]) == ("something", 1, "r1", "j1")
    assert theirs["event"] == "said this" and theirs["level"] == "warning"
