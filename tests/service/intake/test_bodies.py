"""Bodies as a stream: what a form says, however it is cut into pieces; and bodies that are meant to do harm.

The latter come over raw sockets into a running service, whose memory is looked at.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from convscope.protocol.problems import ProblemError
from convscope.settings import Settings
from service.intake.bodies import BodyLimits, Form, read_form, read_raw
from service.intake.spool import MEMORY_BYTES, Spool
from tests.service.support import Service, png_bytes

LIMITS = BodyLimits(body_bytes=4 << 20, pause_s=5.0, files=3, fields=4, field_bytes=1000)


async def read_bytes(request: Request, limits: BodyLimits) -> bytes:
    """A body that is one file, whole."""
    async with await read_raw(request, limits) as form:
        return await form.read(form.files[0])


def request(chunks: list[bytes], content_type: str = "multipart/form-data; boundary=B", **headers: str) -> Request:
    """A request whose body arrives in these pieces."""
    raw = [(b"content-type", content_type.encode())]
    raw += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    left = [*chunks]

    async def receive() -> Message:
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def part(name: str, data: bytes, filename: str | None = None, content_type: str | None = None) -> bytes:
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"'
    head += f'; filename="{filename}"' if filename is not None else ""
    head += f"\r\nContent-Type: {content_type}" if content_type else ""
    return head.encode() + b"\r\n\r\n" + data + b"\r\n"


async def contents(form: Form) -> tuple[list[tuple[str, str]], list[tuple[str, str, str, bytes]]]:
    files = [(each.name, each.filename, each.content_type, await form.read(each)) for each in form.files]
    return form.fields, files


async def problem(doing: object) -> str:
    with pytest.raises(ProblemError) as caught:
        await doing  # type: ignore[misc]
    return caught.value.name


WHOLE = (
    part("layer", "größe".encode())
    + part("image", b"\r\n--\r\n--Bx\0" * 20, "cät.png", "image/png")
    + part("layer", b"")
    + part("image", b"", "")
    + part("raw", b"\xff\x00", None, "application/octet-stream")
    + part("request", b"{}", None, "application/json")
    + b"--B--\r\n"
)
EXPECTED = (
    [("layer", "größe"), ("layer", ""), ("request", "{}")],
    [
        ("image", "cät.png", "image/png", b"\r\n--\r\n--Bx\0" * 20),
        ("image", "", "", b""),
        ("raw", "", "application/octet-stream", b"\xff\x00"),
    ],
)


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(1, len(WHOLE) - 1), max_size=12))
async def test_a_form_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted({*cuts}), len(WHOLE)]
    chunks = [WHOLE[begin:end] for begin, end in pairwise(edges)]
    async with await read_form(request(chunks), LIMITS) as form:
        assert await contents(form) == EXPECTED


async def test_byte_by_byte() -> None:
    async with await read_form(request([bytes([byte]) for byte in WHOLE]), LIMITS) as form:
        assert await contents(form) == EXPECTED


async def test_large_files_lie_on_disk_and_come_back_whole() -> None:
    files = [bytes([value]) * 700_000 for value in range(3)]
    body = b"".join(part("image", data, "a") for data in files) + b"--B--\r\n"
    chunks = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
    async with await read_form(request(chunks), LIMITS) as form:
        assert len(form.spool._memory) <= MEMORY_BYTES
        assert [await form.read(each) for each in form.files] == files
        view = form.view(form.files[1])
        view.seek(-5, 2)
        assert view.read() == files[1][-5:]
        assert view.read() == b""
        with pytest.raises(OSError, match="negative"):
            view.seek(-1)


async def test_raw_and_json_bodies() -> None:
    async with await read_raw(request([b"ab", b"", b"c"], "image/png"), LIMITS) as form:
        assert await contents(form) == ([], [("image", "", "image/png", b"abc")])
    assert await read_bytes(request([b"ab", b"c"]), LIMITS) == b"abc"


BROKEN = {
    "nothing": b"", "no boundary": b"hello", "another boundary": b"--C\r\n\r\n", "cut": WHOLE[:-8],
    "no name": b'--B\r\nContent-Disposition: form-data; filename="x"\r\n\r\na\r\n--B--\r\n',
    "no headers": b"--B\r\n\r\na\r\n--B--\r\n", "not a header": b"--B\r\nnonsense\r\n\r\na\r\n--B--\r\n",
    "endless header": b"--B\r\nA: " + b"x" * 10_000, "many headers": b"--B\r\n" + b"A: b\r\n" * 100,
    "not text": part("layer", b"\xff\xfe") + b"--B--\r\n", "fields": part("layer", b"x") * 5 + b"--B--\r\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
async def test_broken_forms(kind: str) -> None:
    assert await problem(read_form(request([BROKEN[kind]]), LIMITS)) == "malformed-body"


async def test_limits() -> None:
    assert await problem(read_form(request([WHOLE], "application/json"), LIMITS)) == "unsupported-media-type"
    assert await problem(read_form(request([WHOLE], "multipart/form-data"), LIMITS)) == "malformed-body"
    assert (
        await problem(read_form(request([WHOLE], f"multipart/form-data; boundary={'x' * 999}"), LIMITS))
        == "malformed-body"
    )
    assert await problem(read_form(request([part("a", bytes(1001))]), LIMITS)) == "body-too-large"
    assert await problem(read_form(request([part("a", b"", "f") * 4]), LIMITS)) == "too-many-images"
    assert await problem(read_raw(request([bytes(1 << 20)] * 5), LIMITS)) == "body-too-large"
    assert await problem(read_bytes(request([b""], content_length=str(5 << 20)), LIMITS)) == "body-too-large"


async def test_a_body_that_stops_or_drips_is_given_up() -> None:
    async def stops() -> Message:
        import asyncio

        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    limits = BodyLimits(100_000, pause_s=0.05)
    stopped = Request({"type": "http", "method": "POST", "headers": []}, stops)
    assert await problem(read_bytes(stopped, limits)) == "request-timeout"

    async def drips() -> Message:
        import asyncio

        await asyncio.sleep(0.01)  # never a pause, and never at an end
        return {"type": "http.request", "body": b"x", "more_body": True}

    dripping = Request({"type": "http", "method": "POST", "headers": []}, drips)
    assert await problem(read_bytes(dripping, limits)) == "request-timeout"


async def test_a_spool_that_cannot_be_written_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool()
    monkeypatch.setattr("tempfile.tempdir", "/dev/full")
    assert await problem(spool.write(bytes(MEMORY_BYTES + 1))) == "store-unavailable"


# Over the wire


@pytest.fixture(scope="module")
def strict(service_settings: Settings) -> Iterator[Service]:
    with Service(service_settings.model_copy(update={"body_mib": 2, "body_timeout_s": 1.0})) as running:
        yield running


class Wire:
    """A connection that says what it likes."""

    def __init__(self, service: Service) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=30)

    def send(self, data: bytes) -> bool:
        """Whether the other side still took it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def answer(self) -> tuple[int, dict[str, object]]:
        """Status and JSON of the answer; the connection must then be closed or usable, which is not looked at."""
        data = b""
        while b"\r\n\r\n" not in data and (piece := self.socket.recv(65_536)):
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(body) < length and (piece := self.socket.recv(65_536)):
            body += piece
        assert b"application/problem+json" in head, head
        return int(head.split()[1]), json.loads(body)


HEAD = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n%s\r\n\r\n"
FORM = b"multipart/form-data; boundary=B"


def alive(service: Service) -> None:
    """The service answers others meanwhile."""
    with service.client() as client:
        assert client.get("/livez").status_code == 200
        assert client.post("/v1/images", content=png_bytes()).status_code == 201


def test_a_body_that_never_comes(strict: Service) -> None:
    wires = [Wire(strict) for _ in range(20)]
    for number, wire in enumerate(wires):
        wire.send(HEAD % (FORM, b"Content-Length: 100000"))
        wire.send(b"--B\r\nContent-"[: number % 12])
    alive(strict)
    for wire in wires:
        status, problem = wire.answer()
        assert (status, problem["type"]) == (408, "/problems/request-timeout")


def test_a_body_that_drips(strict: Service) -> None:
    wire = Wire(strict)
    wire.send(HEAD % (b"image/png", b"Content-Length: 100000"))
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.05) and wire.send(b"x"):
            pass

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        status, problem = wire.answer()
    finally:
        stop.set()
        dripping.join()
    assert (status, problem["type"]) == (408, "/problems/request-timeout")


@pytest.mark.parametrize("kind", [b"image/png", FORM, b"application/json"])
def test_chunks_without_end(strict: Service, kind: bytes) -> None:
    wire = Wire(strict)
    path = b"/v1/feature-maps" if kind == b"application/json" else b"/v1/images"
    wire.send((HEAD % (kind, b"Transfer-Encoding: chunked")).replace(b"/v1/images", path))
    if kind == FORM:
        start = part("image", b"x" * 1000, "a.png")
        wire.send(b"%x\r\n%s\r\n" % (len(start) - 2, start[:-2]))
    before = psutil.Process().memory_info().rss
    sent = 0
    while sent < 64 << 20 and wire.send(b"10000\r\n" + b"x" * 65_536 + b"\r\n"):
        sent += 65_536
        wire.socket.setblocking(False)
        try:
            if wire.socket.recv(1, socket.MSG_PEEK):
                break
        except BlockingIOError:
            continue
        except OSError:
            break
        finally:
            wire.socket.settimeout(30)
    assert sent < 64 << 20
    assert psutil.Process().memory_info().rss - before < 64 << 20
    status, problem = wire.answer()
    assert (status, problem["type"]) == (413, "/problems/body-too-large")
    alive(strict)


@pytest.mark.parametrize("filename", [None, "a.png"])
def test_a_million_parts(strict: Service, filename: str | None) -> None:
    wire = Wire(strict)
    block = part("a", b"", filename) * 100
    wire.send(HEAD % (FORM, b"Transfer-Encoding: chunked"))
    before = psutil.Process().memory_info().rss
    for _ in range(10_000):
        if not wire.send(b"%x\r\n%s\r\n" % (len(block), block)):
            break
    status, problem = wire.answer()
    expected = (400, "malformed-body") if filename is None else (413, "too-many-images")
    assert (status, problem["type"]) == (expected[0], f"/problems/{expected[1]}")
    assert psutil.Process().memory_info().rss - before < 64 << 20
    alive(strict)


def test_a_declared_size_is_refused_at_once(strict: Service) -> None:
    wire = Wire(strict)
    wire.send(HEAD % (b"image/png", b"Content-Length: 99999999999"))
    assert wire.answer()[0] == 413


def test_clients_that_leave_in_the_middle(strict: Service) -> None:
    for _ in range(20):
        wire = Wire(strict)
        wire.send(HEAD % (FORM, b"Content-Length: 100000"))
        wire.send(part("image", bytes(5000), "a.png"))
        wire.socket.close()
    alive(strict)
