"""Request bodies: read as a stream within limits of size, parts, pauses and rate, and kept on disk past one MiB.

Knows HTTP and nothing of what a body means. Every way in which a body can be wrong is a ProblemError; nothing here
waits forever or keeps more in memory than `MEMORY_BYTES` and the text fields.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from convscope.protocol.problems import FieldError, ProblemError
from convscope.settings import Settings
from service.http.negotiation import refuse_encoding
from service.intake.spool import Spool, SpoolView

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MIB = 1 << 20
# Slower than this, after the first pause that is allowed, a body is taken for one that is never meant to end.
LEAST_BYTES_PER_S = 16 * 1024


@dataclass(frozen=True)
class BodyLimits:
    """What a body may be.

    Args:
        body_bytes: size of the whole.
        pause_s: longest time without a byte, seconds.
        files: most file parts.
        fields: most text parts.
        field_bytes: largest text part.
        fields_bytes: all text parts together; they are in memory while the body arrives.
    """

    body_bytes: int
    pause_s: float
    files: int = 64
    fields: int = 256
    field_bytes: int = MIB
    fields_bytes: int = 4 * MIB

    @classmethod
    def of(cls, settings: Settings) -> BodyLimits:
        """The limits of an ordinary request; one file more than images, for a `request` part."""
        return cls(settings.body_mib * MIB, settings.body_timeout_s, settings.images_per_request + 1)

    @classmethod
    def of_image_set(cls, settings: Settings) -> BodyLimits:
        """The limits of an upload of many images."""
        return cls(settings.image_set_mib * MIB, settings.body_timeout_s, settings.image_set_images, 16, 1024)


@dataclass(frozen=True)
class FilePart:
    """A file of a form: the field's name, what the client calls the file and its type, and where it lies."""

    name: str
    filename: str
    content_type: str
    offset: int
    size: int


@dataclass
class Form:
    """A form that was read: text fields in their order, files in theirs; to be closed."""

    spool: Spool
    fields: list[tuple[str, str]] = field(default_factory=list)
    files: list[FilePart] = field(default_factory=list)

    async def read(self, part: FilePart) -> bytes:
        """All bytes of a file."""
        return await asyncio.to_thread(self.spool.read_at, part.offset, part.size)

    def view(self, part: FilePart) -> SpoolView:
        """A file to read in pieces, outside the event loop."""
        return SpoolView(self.spool, part.offset, part.size)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.spool.close()


async def read_form(request: Request, limits: BodyLimits) -> Form:
    """The fields and files of a multipart/form-data body, to be used with `async with`.

    A part is a file when it has a file name, or a type that no text has (image/…, application/octet-stream).

    Raises:
        ProblemError: `unsupported-media-type`, `malformed-body`, `body-too-large`, `too-many-images`,
            `request-timeout`, `store-unavailable`.
    """
    content_type, options = parse_options_header(request.headers.get("content-type"))
    if content_type != b"multipart/form-data":
        raise ProblemError(
            "unsupported-media-type", "A form is sent as multipart/form-data.", possible=["multipart/form-data"]
        )
    boundary = options.get(b"boundary")
    if not boundary:
        raise ProblemError("malformed-body", "The Content-Type header gives no boundary.")
    form = Form(Spool())
    reader = _FormReader(form, limits)
    try:
        parser = MultipartParser(boundary, reader.callbacks(), max_header_count=16, max_header_size=4096)
        async for chunk in body_chunks(request, limits):
            parser.write(chunk)
            await reader.flush()
        parser.finalize()
        if not reader.ended:
            raise ProblemError("malformed-body", "The form ends before its last boundary.")
    except FormParserError as error:
        form.spool.close()
        raise ProblemError("malformed-body", "The body is no multipart form with that boundary.") from error
    except BaseException:
        form.spool.close()
        raise
    return form


async def read_raw(request: Request, limits: BodyLimits, name: str = "image") -> Form:
    """A body that is one file, as a form with that one file, to be used with `async with`.

    Raises:
        ProblemError: `body-too-large`, `request-timeout`, `store-unavailable`.
    """
    spool = Spool()
    try:
        async for chunk in body_chunks(request, limits):
            await spool.write(chunk)
    except BaseException:
        spool.close()
        raise
    content_type = parse_options_header(request.headers.get("content-type"))[0].decode("latin-1")
    return Form(spool, [], [FilePart(name, "", content_type, 0, spool.size)])


async def body_chunks(request: Request, limits: BodyLimits) -> AsyncIterator[bytes]:
    """The body as it arrives, cut off where it breaks a limit.

    Raises:
        ProblemError: `body-too-large`, `request-timeout`, `unsupported-media-type`.
        ClientDisconnect: the client went away.
    """
    refuse_encoding(request.headers.get("content-encoding"))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise _too_large(limits)
    received, begun = 0, time.monotonic()
    stream = aiter(request.stream())
    while True:
        patience_s = begun + limits.pause_s + received / LEAST_BYTES_PER_S - time.monotonic()
        try:
            async with asyncio.timeout(min(limits.pause_s, max(0.0, patience_s))):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise ProblemError(
                "request-timeout",
                f"The body stopped or came at less than {LEAST_BYTES_PER_S // 1024} KiB a second; "
                f"{received} bytes had arrived.",
            ) from error
        if chunk is None:
            return
        received += len(chunk)
        if received > limits.body_bytes:
            raise _too_large(limits)
        if chunk:
            yield chunk


def _too_large(limits: BodyLimits) -> ProblemError:
    mib = limits.body_bytes / MIB
    return ProblemError("body-too-large", f"The body may have {mib:g} MiB at most.", limit_bytes=limits.body_bytes)


class _FormReader:
    """Collects what the parser finds; the parser calls it synchronously, `flush` then writes files to the spool."""

    def __init__(self, form: Form, limits: BodyLimits) -> None:
        self.ended = False
        self._form = form
        self._limits = limits
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._text_bytes = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._begin()

    def callbacks(self) -> MultipartCallbacks:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    async def flush(self) -> None:
        """Write the file bytes of the last chunk."""
        if self._pending:
            data = b"".join(self._pending)
            self._pending, self._pending_bytes = [], 0
            await self._form.spool.write(data)

    def _begin(self) -> None:
        self._name = ""
        self._filename: str | None = None
        self._content_type = ""
        self._disposition = b""
        self._text = bytearray()
        self._offset = self._size = 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name, value = self._header_name.lower(), bytes(self._header_value)
        if name == b"content-disposition":
            self._disposition = value
        elif name == b"content-type":
            self._content_type = parse_options_header(value)[0].decode("latin-1")
        self._header_name, self._header_value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise ProblemError("malformed-body", "A part of the form has no name in its Content-Disposition.")
        self._name = _text(options[b"name"], "a part's name")
        if b"filename" in options:
            self._filename = options[b"filename"].decode("utf-8", "replace")
        elif self._content_type.startswith("image/") or self._content_type == "application/octet-stream":
            self._filename = ""
        if self._filename is not None:
            if len(self._form.files) >= self._limits.files:
                raise ProblemError(
                    "too-many-images",
                    f"A form may carry {self._limits.files} files at most.",
                    limit=self._limits.files,
                )
            self._offset = self._form.spool.size + self._pending_bytes
        elif len(self._form.fields) >= self._limits.fields:
            raise ProblemError("malformed-body", f"A form may have {self._limits.fields} fields at most.")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._filename is not None:
            self._pending.append(data[start:end])
            self._pending_bytes += end - start
            self._size += end - start
            return
        self._text_bytes += end - start
        if self._text_bytes > self._limits.fields_bytes:
            limit = self._limits.fields_bytes
            raise ProblemError(
                "body-too-large",
                f"All fields together may have {limit} bytes at most; send long JSON as a file part.",
                limit_bytes=limit,
            )
        if len(self._text) + end - start > self._limits.field_bytes:
            limit = self._limits.field_bytes
            raise ProblemError(
                "body-too-large",
                f"The field {self._name[:100]!r} may have {limit} bytes at most; send long JSON as a file part.",
                errors=[FieldError(f"/{self._name[:100]}", f"more than {limit} bytes")],
                limit_bytes=limit,
            )
        self._text += data[start:end]

    def _on_part_end(self) -> None:
        if self._filename is not None:
            part = FilePart(self._name, self._filename, self._content_type, self._offset, self._size)
            self._form.files.append(part)
        else:
            self._form.fields.append((self._name, _text(bytes(self._text), f"the field {self._name[:100]!r}")))

    def _on_end(self) -> None:
        self.ended = True


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProblemError("malformed-body", f"The text of {what} is not UTF-8.") from error
