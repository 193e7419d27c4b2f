"""Pages of other sites, and names that are not the service's: a browser of somebody here is what they have."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from convscope.settings import Settings
from tests.servers import PrivateServer
from tests.service.support import Service, Worker, png_bytes, problem_of

IMAGE = [("image", ("a.png", png_bytes(value=54), "image/png"))]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with PrivateServer() as queue:
        made = Settings(redis_url=queue.url, data=tmp_path_factory.mktemp("data"), hosts="lab.example.org")
        with Worker(made):
            yield made


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[Service]:
    with Service(settings) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx2.Client]:
    with service.client() as made:
        yield made


def said(service: Service, head: str) -> tuple[int, dict[str, object]]:
    """Status and document of the answer to a request whose head is given as it is."""
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost:8000", "LOCALHOST", "localhost.", "box.localhost", "[::1]:8000", "192.168.7.20:9000",
     "lab.example.org", "Lab.Example.org:443", socket.gethostname()],
)  # fmt: skip
def test_row_54_the_service_answers_to_its_own_names(client: httpx2.Client, host: str) -> None:
    assert client.get("/v1/images", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "lab.example.org.evil.example", "127.0.0.1.nip.io"]
)
def test_row_54_a_page_whose_name_resolves_to_us_reads_and_changes_nothing(client: httpx2.Client, host: str) -> None:
    for path in ("/v1/jobs", "/v1/images", "/", "/docs", "/metrics"):
        problem_of(client.get(path, headers={"Host": host}), 421, "misdirected")
    problem_of(client.post("/v1/feature-maps", files=IMAGE, headers={"Host": host}), 421, "misdirected")
    assert client.get("/v1/jobs").json() == {"jobs": []}


def test_row_54_a_request_names_one_host(service: Service) -> None:
    for head, name in (
        ("GET /livez HTTP/1.1", "no host"),
        ("GET /livez HTTP/1.0", "no host"),
        ("GET /livez HTTP/1.1\nHost: localhost\nHost: evil.example", "two"),
        ("GET /livez HTTP/1.1\nHost: localhost\nHost: localhost", "the same twice"),
        ("GET /livez HTTP/1.1\nHost: localhost, evil.example", "two in one"),
        ("GET /livez HTTP/1.1\nHost: ", "an empty one"),
        ("GET /livez HTTP/1.1\nHost: evil.example/@localhost", "a path"),
    ):
        status, document = said(service, head)
        assert (status, document["type"]) == (400, "/problems/bad-host"), name
    assert said(service, "GET /livez HTTP/1.1\nHost: localhost") == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost:8000"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_row_54_a_form_of_another_site_changes_nothing(client: httpx2.Client, headers: dict[str, str]) -> None:
    image = client.post("/v1/images", files=IMAGE).json()["id"]
    problem_of(client.post("/v1/feature-maps", files=IMAGE, headers=headers), 403, "cross-site")
    problem_of(client.post("/v1/images", files=IMAGE, headers=headers), 403, "cross-site")
    problem_of(client.delete(f"/v1/images/{image}", headers=headers), 403, "cross-site")
    assert client.get(f"/v1/images/{image}", headers=headers).status_code == 200, "browsers let no page read it"
    assert client.get("/v1/jobs").json() == {"jobs": []}


def test_row_54_our_own_pages_and_programs_may(service: Service, client: httpx2.Client) -> None:
    for headers in (
        {},
        {"Origin": service.url, "Sec-Fetch-Site": "same-origin"},
        {"Origin": service.url},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://lab.example.org", "Host": "lab.example.org"},  # a proxy took TLS off
    ):
        assert client.post("/v1/images", files=IMAGE, headers=headers).status_code == 201, headers


def test_row_54_a_site_that_the_operator_names_may(settings: Settings) -> None:
    changed = settings.model_copy(update={"cors_origins": "https://friend.example"})
    with Service(changed) as running, running.client() as client:
        for origin, status in (("https://friend.example", 201), ("https://evil.example", 403)):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            assert client.post("/v1/images", files=IMAGE, headers=headers).status_code == status


def test_row_54_with_keys_any_name_does_as_no_page_has_one(settings: Settings, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[callers.ann]\nkey_sha256 = "{hashlib.sha256(b"ann-key").hexdigest()}"\n')
    changed = settings.model_copy(update={"api_keys_file": keys, "hosts": ""})
    with Service(changed) as running, running.client() as client:
        assert client.get("/livez", headers={"Host": "api.cluster.internal:8000"}).status_code == 200
        problem_of(client.get("/v1/jobs", headers={"Host": "evil.example"}), 401, "unauthenticated")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_row_54_nobody_listens_for_others_by_accident(settings: Settings, tmp_path: Path, host: str) -> None:
    environment = {**os.environ, "CONVSCOPE_REDIS_URL": str(settings.redis_url), "CONVSCOPE_DATA": str(tmp_path)}
    environment |= {"CONVSCOPE_HOST": host, "CONVSCOPE_PORT": "0"}
    for command in ([sys.executable, "-m", "service"], [sys.executable, "-m", "convscope.cli", "serve"]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        words = " ".join((done.stdout + done.stderr).split())
        assert done.returncode in (1, 2) and "--api-keys-file" in words and "--allow-anonymous" in words, words
    assert not (tmp_path / "valkey").exists(), "nothing was started"


def test_row_54_unless_the_operator_says_so(settings: Settings, tmp_path: Path) -> None:
    environment = {**os.environ, "CONVSCOPE_REDIS_URL": str(settings.redis_url), "CONVSCOPE_DATA": str(tmp_path)}
    environment |= {"CONVSCOPE_HOST": "0.0.0.0", "CONVSCOPE_PORT": "0", "CONVSCOPE_ALLOW_ANONYMOUS": "true"}
    environment |= {"CONVSCOPE_LOG_FORMAT": "json"}
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "listening on" in line)
        address = json.loads(line)["address"].replace("0.0.0.0", "127.0.0.1")
        assert httpx2.get(f"{address}/livez", trust_env=False).status_code == 200
    finally:
        process.terminate()
        process.communicate(timeout=15)
