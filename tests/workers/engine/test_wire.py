"""Frames: whatever goes in comes out at the other end, whole; nonsense and excess are refused."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import wire
from workers.wire import Channel, Frame, WireError, read_frame, write_frame

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
headers = st.dictionaries(st.text().filter(lambda name: name not in ("type", "blobs")), values, max_size=4)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair()
    pair = Channel(left), Channel(right)
    yield pair
    for end in pair:
        end.close()


@settings(max_examples=100, deadline=None)
@given(headers, st.lists(st.binary(max_size=200), max_size=4))
def test_a_frame_comes_out_as_it_went_in(header, blobs):
    left, right = socket.socketpair()
    one, other = Channel(left), Channel(right)
    one.send(Frame({"type": "anything", **header}, blobs))
    one.close()
    got = other.receive()
    assert got is not None
    assert got.header == {"type": "anything", **header}
    assert [bytes(blob) for blob in got.blobs] == blobs
    assert other.receive() is None
    other.close()


def test_large_blobs_pass_while_both_sides_write(ends: tuple[Channel, Channel]):
    blob = bytes(range(256)) * 40_000
    received: list[Frame | None] = []
    reader = threading.Thread(target=lambda: received.extend(ends[1].receive() for _ in range(3)))
    reader.start()
    writers = [threading.Thread(target=ends[0].send, args=(Frame({"type": str(n)}, (blob, b"x")),)) for n in range(3)]
    for writer in writers:
        writer.start()
    for thread in (*writers, reader):
        thread.join()
    assert sorted(frame.type for frame in received if frame) == ["0", "1", "2"]
    assert all(bytes(frame.blobs[0]) == blob and bytes(frame.blobs[1]) == b"x" for frame in received if frame)


async def test_the_asyncio_end_speaks_with_the_blocking_end():
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    channel = Channel(theirs)
    blob = memoryview(b"ab" * 500_000)
    echo = asyncio.create_task(asyncio.to_thread(lambda: channel.send(channel.receive() or Frame({"type": "none"}))))
    await write_frame(writer, Frame({"type": "there and back", "n": 1}, (blob, b"")))
    got = await read_frame(reader)
    await echo
    assert got is not None and got.header == {"type": "there and back", "n": 1}
    assert [bytes(part) for part in got.blobs] == [bytes(blob), b""]
    channel.close()
    assert await read_frame(reader) is None
    writer.close()


def test_the_end_of_the_stream_within_a_frame_is_an_end(ends: tuple[Channel, Channel]):
    ends[0]._sock.sendall(b"CVS1\x00\x00")
    ends[0].close()
    assert ends[1].receive() is None


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("!4sIQ", b"HTTP", 2, 0) + b"{}",
        struct.pack("!4sIQ", b"CVS1", wire.HEADER_LIMIT + 1, 0),
        struct.pack("!4sIQ", b"CVS1", 2, wire.BLOBS_LIMIT + 1),
        struct.pack("!4sIQ", b"CVS1", 2, 0) + b"{]",
        struct.pack("!4sIQ", b"CVS1", 2, 0) + b"[]",
        *(
            struct.pack("!4sIQ", b"CVS1", len(header), 2) + header + b"xy"
            for header in (
                json.dumps(value).encode()
                for value in (
                    {"type": "a", "blobs": [3]},
                    {"type": "a", "blobs": [-1, 3]},
                    {"type": "a", "blobs": ["2"]},
                    {"type": "a"},
                    {"type": 5, "blobs": [2]},
                    {"blobs": [2]},
                )
            )
        ),
    ],
)
def test_nonsense_is_refused(ends: tuple[Channel, Channel], sent: bytes):
    ends[0]._sock.sendall(sent)
    with pytest.raises(WireError):
        ends[1].receive()


def test_what_is_beyond_the_limits_is_not_sent(ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire, "BLOBS_LIMIT", 10)
    monkeypatch.setattr(wire, "HEADER_LIMIT", 100)
    for frame in (Frame({"type": "a"}, (b"x" * 11,)), Frame({"type": "a" * 200})):
        with pytest.raises(WireError):
            ends[0].send(frame)
    ends[0].send(Frame({"type": "small"}))
    got = ends[1].receive()
    assert got is not None and got.type == "small"


def test_numbers_that_are_not_finite_are_not_sent(ends: tuple[Channel, Channel]):
    with pytest.raises(ValueError, match="JSON"):
        ends[0].send(Frame({"type": "a", "loss": float("nan")}))
