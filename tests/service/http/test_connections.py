"""Requests that never begin: half a line, a head that drips or has no end. Raw sockets on a real service."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import Any

import httpx2
import pytest

from service.http import connections
from tests.service.http.test_methods import submitted
from tests.service.support import DEADLINE_S, HOLD, Service, png_bytes, wait_for

LIMIT_S = 2.0
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(autouse=True)
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", LIMIT_S)


@pytest.fixture
def line(service: Service) -> Iterator[socket.socket]:
    with closing(connected(service)) as made:
        yield made


def connected(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE_S)


def rest(line: socket.socket) -> bytes:
    """What comes until the other side hangs up; a socket that is held times out."""
    pieces = []
    while piece := line.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def answer(line: socket.socket) -> bytes:
    """One small answer."""
    got = b""
    while b"\r\n\r\n" not in got or not got.endswith(b"}"):
        piece = line.recv(65536)
        assert piece, got
        got += piece
    return got


def problem_in(raw: bytes) -> dict[str, Any]:
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    document: dict[str, Any] = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % document["status"])
    return document


def endless(line: socket.socket, what: bytes) -> None:
    """Send until the other side hangs up; 32 MB are more than kernels hold for it."""
    with pytest.raises(ConnectionError):
        for _ in range(4000):
            line.sendall(what)


def follow(line: socket.socket, path: str) -> None:
    """Begin to read the events of a job that goes on."""
    line.sendall(f"GET {path}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    got = b""
    while b"event: state" not in got:
        got += line.recv(65536)


@pytest.fixture
def held(client: httpx2.Client) -> Iterator[str]:
    """The address of a job that does not end."""
    path = submitted(client, HOLD, Prefer="respond-async")
    yield path
    client.delete(path)
    wait_for(lambda: client.get(path).json()["state"] == "cancelled", "the cancellation")


def test_a_head_that_stops_is_not_waited_for(service: Service, held: str) -> None:
    """On fresh connections, after a request that was answered, and amid an answer, where the connection ends without
    another; all at once, for the time it takes.
    """
    beginnings = [b"", b"GE", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Half: ", LIVEZ + b"GE", LIVEZ + b"\r\n"]
    with ExitStack() as stack:
        lines = [stack.enter_context(closing(connected(service))) for _ in beginnings]
        for line, begun in zip(lines, beginnings, strict=True):
            if begun.startswith(LIVEZ):
                line.sendall(LIVEZ)
                assert answer(line).startswith(b"HTTP/1.1 200")
            line.sendall(begun.removeprefix(LIVEZ))
        amid = stack.enter_context(closing(connected(service)))
        follow(amid, held)
        amid.sendall(b"GE")
        silent, *others = [rest(line) for line in lines]
        with suppress(ConnectionError):
            assert b"HTTP/1.1" not in rest(amid)
    assert silent == b""
    assert [problem_in(each)["type"] for each in others] == ["/problems/request-timeout"] * 4


def test_a_head_without_end_amid_an_answer(line: socket.socket, held: str) -> None:
    follow(line, held)
    line.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
    endless(line, b"X-More: " + b"y" * 8000 + b"\r\n")


@pytest.mark.parametrize("begun", [b"X-First: y\r\n", b"X-First: ", b""])
def test_trailers_without_end(line: socket.socket, begun: bytes) -> None:
    """What follows the last piece of a body is kept like a head, and bounded like one."""
    fields = b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    line.sendall(b"POST /v1/kernels HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n2\r\n{}\r\n0\r\n" + begun)
    endless(line, b"y" * 8000 if begun.endswith(b" ") else b"X-More: " + b"y" * 8000 + b"\r\n")


def test_a_head_that_drips_has_no_more_time(line: socket.socket) -> None:
    line.sendall(b"GET /livez HTTP/1.1\r\n")
    line.settimeout(LIMIT_S / 20)
    for _ in range(int(20 * DEADLINE_S / LIMIT_S)):
        try:
            line.sendall(b"X-Drip: y\r\n")
            if line.recv(1):
                return
        except TimeoutError:
            continue
    raise AssertionError("the connection is still held")


def test_a_head_without_end_is_refused(line: socket.socket) -> None:
    line.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
    try:
        for _ in range(1000):
            line.sendall(b"X-More: " + b"y" * 8000 + b"\r\n")
    except (BrokenPipeError, ConnectionResetError):
        return
    assert problem_in(rest(line))["type"] == "/problems/malformed-body"


def test_the_rest_of_a_body_that_was_refused_is_no_head(line: socket.socket) -> None:
    """It is thrown away, for as long as a head may take; there is no second answer."""
    line.sendall(b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n")
    for _ in range(20):
        line.sendall(bytes(10_000))
    assert problem_in(rest(line))["type"] == "/problems/not-found"


def test_the_last_of_a_body_that_was_refused_is_no_head(line: socket.socket) -> None:
    """However much of it comes at once, the connection stays good."""
    for _ in range(4):
        line.sendall(b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n")
        assert answer(line).startswith(b"HTTP/1.1 404")
        line.sendall(bytes(200_000))
        time.sleep(0.05)  # its last bytes and the next request are not to be read as one
        line.sendall(LIVEZ)
        assert answer(line).startswith(b"HTTP/1.1 200")


def test_what_is_no_request_gets_a_problem(line: socket.socket) -> None:
    line.sendall(b"\x16\x03\x01 hello\r\n\r\n")
    assert problem_in(rest(line))["type"] == "/problems/malformed-body"


def test_requests_that_have_begun_may_take_longer(
    service: Service, client: httpx2.Client, line: socket.socket, held: str
) -> None:
    """A held request; a second one on a line that was quiet for less than keep-alive; a stream, whose client sent an
    empty line after its request, as old ones do.
    """
    with closing(connected(service)) as followed:
        follow(followed, held)
        followed.sendall(b"\r\n")
        _hold(client, line)
        followed.setblocking(False)
        with pytest.raises(BlockingIOError):
            while followed.recv(65536):
                continue


def _hold(client: httpx2.Client, line: socket.socket) -> None:
    line.sendall(LIVEZ)
    assert answer(line).startswith(b"HTTP/1.1 200")
    parts = [("image", ("a.png", png_bytes(), "image/png")), ("seed", (None, str(HOLD).encode()))]
    answered = client.post("/v1/feature-maps", files=parts, headers={"Prefer": f"wait={2 * LIMIT_S:g}"})
    assert answered.status_code == 202, answered.text
    line.sendall(LIVEZ)
    assert answer(line).startswith(b"HTTP/1.1 200")
    path = answered.headers["location"]
    client.delete(path)
    wait_for(lambda: client.get(path).json()["state"] == "cancelled", "the cancellation")
