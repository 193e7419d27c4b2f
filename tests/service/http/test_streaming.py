"""Large answers and readers that leave or stop reading: the work for them ends, and so does their connection."""

from __future__ import annotations

import logging
import socket
from contextlib import closing
from typing import Any

import httpx2
import psutil
import pytest
from numpy.typing import NDArray

from service.http import connections, streaming
from service.results import arrays as results
from tests.service.support import Service, png_bytes, wait_for

ROUTE = 'method="GET",route="/v1/jobs/{job_id}/arrays/{name}"'


@pytest.fixture
def large(client: httpx2.Client) -> str:
    """The address of an array of 20 MB."""
    parts = [("image", (f"{value}.png", png_bytes(value=value), "image/png")) for value in (31, 32)]
    fields = [("layers", (None, b"huge")), ("channels", (None, b"all"))]
    answer = client.post("/v1/feature-maps", files=[*parts, *fields])
    assert answer.status_code == 200, answer.text
    return f"{answer.headers['location']}/arrays/maps/huge"


def asked(service: Service, path: str, accept: str) -> socket.socket:
    """A connection that has asked for something and takes little of it into its buffers."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", service.port))
    made.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode())
    return made


def given_up(client: httpx2.Client) -> float:
    """How many readers of arrays left before they had all."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("convscope_http_request_seconds_count{") and ROUTE in line and 'status="499"' in line:
            return float(line.split()[-1])
    return 0.0


def test_what_nobody_reads_any_more_is_not_written_to_its_end(
    client: httpx2.Client, service: Service, large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = given_up(client)
    written: list[int] = []
    rows_text = results._rows_text

    def counted(block: NDArray[Any], first: int, blocks: list[int]) -> bytes:
        written.append(first)
        return rows_text(block, first, blocks)

    monkeypatch.setattr(results, "_rows_text", counted)
    with closing(asked(service, large, "application/json")) as reader:
        assert reader.recv(12) == b"HTTP/1.1 200"
    wait_for(lambda: given_up(client) > before, "the end of the answer")
    assert len(written) < 20  # of 80


def test_a_reader_that_stalls_is_let_go_and_no_error_of_ours(
    client: httpx2.Client,
    service: Service,
    large: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(streaming, "SEND_TIMEOUT_S", 0.3)
    monkeypatch.setattr(connections, "READ_TIMEOUT_S", 0.5)
    before = given_up(client)
    with closing(asked(service, large, "application/x-npy")) as reader, caplog.at_level(logging.INFO):
        port = reader.getsockname()[1]
        wait_for(lambda: given_up(client) > before, "the end of patience")
        wait_for(lambda: port not in _served(service), "the end of the connection")
    assert "request_failed" not in caplog.text and "Traceback" not in caplog.text


def _served(service: Service) -> set[int]:
    """The ports of the clients whose connections the service holds."""
    found = psutil.Process().net_connections("tcp4")
    return {one.raddr.port for one in found if one.laddr.port == service.port and one.raddr}
