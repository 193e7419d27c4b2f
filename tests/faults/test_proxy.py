"""A proxy with TLS before the service, nginx, with the configuration that docs/operations.md shows."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from convscope.settings import Settings
from tests.contract.trees import ROOT
from tests.servers import PrivateServer
from tests.service.support import BIG, HOLD, SLOW, Service, Worker, noise_png, numbers_of, png_bytes, wait_for

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed; CI has it")

SHOWN = re.compile(r"```nginx\n(.*?)```", re.DOTALL)
AROUND = """
daemon off; master_process on; worker_processes 1; error_log {folder}/error.log; pid {folder}/pid; user root;
events {{ worker_connections 64; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {server}
}}
"""


def shown(port: int, service_port: int, folder: Path) -> str:
    """The server that the page shows, at a port of this test, before its service, with its certificate."""
    (block,) = SHOWN.findall((ROOT / "docs" / "operations.md").read_text(encoding="utf-8"))
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("http://127.0.0.1:8000", f"http://127.0.0.1:{service_port}"),
        ("/etc/ssl/lab.example.org.pem", f"{folder}/certificate.pem"),
        ("/etc/ssl/private/lab.example.org.key", f"{folder}/key.pem"),
    ):
        assert block.count(old) == 1, old
        block = block.replace(old, new)
    return AROUND.format(folder=folder, server=block)


class Proxy:
    """nginx in the foreground, with a certificate of its own for lab.example.org."""

    def __init__(self, service_port: int, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lab.example.org",
             "-addext", "subjectAltName=DNS:lab.example.org,IP:127.0.0.1",
             "-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")],
            check=True, capture_output=True,
        )  # fmt: skip
        self._config = folder / "nginx.conf"
        self._config.write_text(shown(self.port, service_port, folder), encoding="utf-8")
        self.trusts = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["nginx", "-c", str(self._config), "-e", "stderr"])
        wait_for(self._listens, "the start of nginx")
        return process

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def client(self) -> httpx2.Client:
        """A client that trusts the certificate and calls the service by its public name."""
        headers = {"Host": "lab.example.org"}
        return httpx2.Client(base_url=f"https://127.0.0.1:{self.port}", headers=headers, verify=self.trusts, timeout=20)

    def restart(self) -> None:
        """End at once, as a crash does, and begin again."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        self.process.kill()
        self.process.wait()
        for pid in children.stdout.split():
            subprocess.run(["kill", "-9", pid], check=False)
        wait_for(lambda: not self._listens(), "the end of nginx")
        self.process = self._started()

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


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


@pytest.fixture(scope="module")
def proxy(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    running = Proxy(service.port, tmp_path_factory.mktemp("nginx"))
    yield running
    running.close()


def submit(client: httpx2.Client, seed: int) -> str:
    form = {"model": "toy", "layer": "conv", "seed": str(seed)}
    files = {"image": ("a.png", png_bytes(value=seed % 251), "image/png")}
    answer = client.post("/v1/feature-maps", data=form, files=files, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"].startswith("/v1/jobs/")  # true under every name and scheme
    return str(answer.json()["id"])


def test_row_57_events_come_through_as_they_happen(proxy: Proxy) -> None:
    """Were they kept in the proxy's buffer, the first would come with the last."""
    with proxy.client() as client:
        job = submit(client, HOLD)
        with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            for line in lines:
                if '"running"' in line:
                    break
            assert client.get(f"/v1/jobs/{job}").json()["state"] == "running"
            assert client.post(f"/v1/jobs/{job}/cancel").status_code in {200, 202}
            assert any(line == "event: done" for line in lines)


def test_row_57_a_proxy_that_dies_costs_a_stream_and_no_event(proxy: Proxy) -> None:
    with proxy.client() as client:
        job = submit(client, HOLD)
        seen: list[str] = []
        with pytest.raises(httpx2.TransportError), client.stream("GET", f"/v1/jobs/{job}/events") as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    seen.append(line.removeprefix("id: "))
                if '"running"' in line:
                    proxy.restart()
    with proxy.client() as client:
        client.post(f"/v1/jobs/{job}/cancel")
        answer = client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": seen[-1]})
        seen += re.findall(r"^id: (\d+)", answer.text, re.MULTILINE)
        assert "event: done" in answer.text
        assert seen == [str(number) for number in range(1, len(seen) + 1)]


def test_row_57_waits_uploads_and_results_are_as_without_it(proxy: Proxy, service: Service) -> None:
    with proxy.client() as client, service.client() as direct:
        began = time.monotonic()
        held = submit(client, HOLD)
        waited = client.get(f"/v1/jobs/{held}", params={"wait": "1"})
        assert waited.status_code == 200 and time.monotonic() - began >= 1
        client.post(f"/v1/jobs/{held}/cancel")
        # An upload far beyond nginx's own bound of a megabyte.
        large = noise_png(1500, 1000)
        assert len(large) > 4_000_000
        stored = client.post("/v1/images", files={"image": ("a.png", large, "image/png")})
        assert stored.status_code == 201, stored.text
        big = submit(client, BIG)
        client.get(f"/v1/jobs/{big}", params={"wait": "20"})
        path = f"/v1/jobs/{big}/result?format=safetensors"
        through, straight = client.get(path), direct.get(path)
        assert through.status_code == 200 and through.content == straight.content
        assert np.frombuffer(numbers_of(through.content), np.float32).size > 0
        etag = straight.headers["etag"]
        assert client.get(path, headers={"If-None-Match": etag}).status_code == 304


def test_row_57_a_page_of_its_own_name_may_change_and_anothers_may_not(proxy: Proxy) -> None:
    form = {"model": "toy", "layer": "conv"}
    files = {"image": ("a.png", png_bytes(value=57), "image/png")}
    with proxy.client() as client:
        own = {"Origin": "https://lab.example.org", "Sec-Fetch-Site": "same-origin"}
        assert client.post("/v1/feature-maps", data=form, files=files, headers=own).status_code == 200
        other = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert client.post("/v1/feature-maps", data=form, files=files, headers=other).status_code == 403
        assert client.get("/v1/jobs", headers={"Host": "evil.example"}).status_code == 421


async def test_row_57_many_follow_at_once(proxy: Proxy) -> None:
    headers = {"Host": "lab.example.org"}
    base = f"https://127.0.0.1:{proxy.port}"
    with proxy.client() as client:
        jobs = [submit(client, SLOW) for _ in range(1)]
    async with httpx2.AsyncClient(base_url=base, headers=headers, verify=proxy.trusts, timeout=20) as client:
        told = await asyncio.gather(*(client.get(f"/v1/jobs/{jobs[0]}/events") for _ in range(20)))
    assert {answer.text.count("event: done") for answer in told} == {1}
