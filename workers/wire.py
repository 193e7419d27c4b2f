"""Frames between a supervisor and its engine: a JSON header and binary blobs over a stream socket, bounded both ways.

A frame is a prefix (magic, length of the header, length of all blobs), the header as JSON, and the blobs one after
another; the header's `blobs` lists their lengths. Nothing is unpickled.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HEADER_LIMIT = 64 * 1024**2
BLOBS_LIMIT = 4 * 1024**3

_MAGIC = b"CVS1"
_PREFIX = struct.Struct("!4sIQ")

Blob = bytes | bytearray | memoryview


class WireError(Exception):
    """The stream carries something that is no frame, or a frame beyond the limits."""


@dataclass(frozen=True)
class Frame:
    """One message: `header` with its `type` and JSON values, and any number of blobs."""

    header: dict[str, Any]
    blobs: Sequence[Blob] = ()

    @property
    def type(self) -> str:
        """What the message is about."""
        return str(self.header["type"])


def _encode_head(frame: Frame) -> bytes:
    sizes = [memoryview(blob).nbytes for blob in frame.blobs]
    header = json.dumps({**frame.header, "blobs": sizes}, allow_nan=False, separators=(",", ":")).encode()
    if len(header) > HEADER_LIMIT or sum(sizes) > BLOBS_LIMIT:
        raise WireError(f"a frame of {len(header)} header bytes and {sum(sizes)} blob bytes is beyond the limits")
    return _PREFIX.pack(_MAGIC, len(header), sum(sizes)) + header


def _decode_prefix(prefix: bytes) -> tuple[int, int]:
    magic, header_bytes, blob_bytes = _PREFIX.unpack(prefix)
    if magic != _MAGIC or header_bytes > HEADER_LIMIT or blob_bytes > BLOBS_LIMIT:
        raise WireError("not a frame, or a frame beyond the limits")
    return header_bytes, blob_bytes


def _decode(header_json: bytes, body: bytes | bytearray) -> Frame:
    try:
        header = json.loads(header_json)
        sizes = header.pop("blobs")
        fits = all(isinstance(size, int) and size >= 0 for size in sizes) and sum(sizes) == len(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"the header of a frame cannot be read: {error}") from error
    if not fits or not isinstance(header.get("type"), str):
        raise WireError("the header of a frame does not describe its body")
    view, blobs, at = memoryview(body), [], 0
    for size in sizes:
        blobs.append(view[at : at + size])
        at += size
    return Frame(header, tuple(blobs))


class Channel:
    """The engine's end: blocking, one reader thread and any number of writers.

    Args:
        sock: a connected stream socket, owned by the channel from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._write_lock = threading.Lock()

    def send(self, frame: Frame) -> None:
        """Write a frame, waiting while the other side is slow to read.

        Raises:
            WireError: the frame is beyond the limits; nothing was written.
            OSError: the other side is gone.
        """
        head = _encode_head(frame)
        with self._write_lock:
            self._sock.sendall(head)
            for blob in frame.blobs:
                self._sock.sendall(blob)

    def receive(self) -> Frame | None:
        """The next frame; None when the other side has closed.

        Raises:
            WireError: what came is no frame.
        """
        prefix = self._read(_PREFIX.size)
        if prefix is None:
            return None
        header_bytes, blob_bytes = _decode_prefix(bytes(prefix))
        header, body = self._read(header_bytes), self._read(blob_bytes)
        if header is None or body is None:
            return None
        return _decode(bytes(header), body)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _read(self, count: int) -> bytearray | None:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            got = self._sock.recv_into(view)
            if got == 0:
                return None
            view = view[got:]
        return buffer


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame of an asyncio stream; None when the other side has closed.

    Raises:
        WireError: what came is no frame.
    """
    try:
        header_bytes, blob_bytes = _decode_prefix(await reader.readexactly(_PREFIX.size))
        header = await reader.readexactly(header_bytes)
        body = await reader.readexactly(blob_bytes)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return _decode(header, body)


async def write_frame(writer: asyncio.StreamWriter, frame: Frame) -> None:
    """Write a frame to an asyncio stream and wait until the other side keeps up.

    One writer at a time: the caller holds a lock.

    Raises:
        WireError: the frame is beyond the limits; nothing was written.
        ConnectionError: the other side is gone.
    """
    writer.write(_encode_head(frame))
    for blob in frame.blobs:
        writer.write(blob)
        await writer.drain()
    await writer.drain()
