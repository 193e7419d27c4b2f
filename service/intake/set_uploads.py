"""Many images at once: the parts of a form or the entries of a zip archive, one after the other into the store.

Nothing of an archive is written to disk under its own name, no entry is believed about its size, and a bad entry costs
only itself.
"""

from __future__ import annotations

import asyncio
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from convscope.protocol.problems import ProblemError
from convscope.settings import Settings
from convscope.store.image_sets import ImageSetMember, RejectedEntry
from convscope.store.images import ImageRecord
from service.intake.bodies import MIB, FilePart, Form
from service.intake.spool import SpoolView
from service.intake.zip_directory import directory_size

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
# Deflate reaches 1032; pictures are packed already, and a drawing in BMP reaches a hundred.
MOST_RATIO = 200
# The directory of an archive is read whole; a name has 65,535 bytes at most and 100 as a rule.
DIRECTORY_BYTES_PER_ENTRY = 1024
# Two at once, so that one is stored while the next is decoded.
AT_ONCE = 2


@dataclass(frozen=True)
class UploadEntry:
    """A file of an upload: its name, and how to get its bytes (which may raise a ProblemError)."""

    name: str
    read: Callable[[], Awaitable[bytes]]


async def entries_of(form: Form, settings: Settings) -> list[UploadEntry]:
    """The files of a form; of the one file that is a zip archive, its entries.

    Raises:
        ProblemError: `malformed-body` for a broken archive, `too-many-images`, `body-too-large`.
    """
    if len(form.files) == 1:
        part = form.files[0]
        head = await asyncio.to_thread(form.spool.read_at, part.offset, 4)
        if head in ZIP_MAGIC:
            return await asyncio.to_thread(_zip_entries, form.view(part), settings)
    largest = settings.body_mib * MIB
    return [
        UploadEntry(_label(part.filename) or f"{part.name}-{number}", partial(_read_part, form, part, largest))
        for number, part in enumerate(form.files)
    ]


async def store_entries(
    entries: list[UploadEntry], keep: Callable[[bytes], Awaitable[ImageRecord]], settings: Settings
) -> tuple[list[ImageSetMember], list[RejectedEntry]]:
    """Decode and keep every entry, a few at once; what cannot be decoded is listed and costs nothing else.

    Args:
        entries: the files.
        keep: decodes and keeps one file.
        settings: where the limits are.

    Raises:
        ProblemError: `store-unavailable`, `queue-unavailable`, `queue-full`; `body-too-large` when the entries of an
            archive unpack to more than it may hold; `too-many-pixels` when all images have more than a set may.
    """
    pixels, most = 0.0, settings.image_set_megapixels
    members: list[ImageSetMember] = []
    rejected: list[RejectedEntry] = []
    async for outcome in _in_order(entries, partial(_store_entry, keep)):
        if isinstance(outcome, ImageSetMember):
            members.append(outcome)
            pixels += outcome.plane_pixels
            if pixels > most * 1e6:
                raise ProblemError(
                    "too-many-pixels",
                    f"The images of the set have more than {most:g} million pixels together.",
                    limit_megapixels=most,
                )
        else:
            rejected.append(outcome)
    return members, rejected


async def _store_entry(
    keep: Callable[[bytes], Awaitable[ImageRecord]], entry: UploadEntry
) -> ImageSetMember | RejectedEntry:
    try:
        record = await keep(await entry.read())
    except ProblemError as error:
        if error.status >= 500 or error.name == "body-too-large":
            raise
        return RejectedEntry(name=entry.name, problem=error.name, detail=error.detail)
    return ImageSetMember.of(entry.name, record)


async def _in_order(
    entries: list[UploadEntry], work: Callable[[UploadEntry], Awaitable[ImageSetMember | RejectedEntry]]
) -> AsyncIterator[ImageSetMember | RejectedEntry]:
    """The outcomes in the entries' order, with AT_ONCE entries being worked on."""
    running: list[asyncio.Task[ImageSetMember | RejectedEntry]] = []
    try:
        for entry in entries:
            running.append(asyncio.ensure_future(work(entry)))
            if len(running) >= AT_ONCE:
                yield await running.pop(0)
        while running:
            yield await running.pop(0)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _read_part(form: Form, part: FilePart, largest: int) -> bytes:
    if part.size > largest:
        raise _too_large_entry(largest)
    return await form.read(part)


def _too_large_entry(largest: int) -> ProblemError:
    return ProblemError("unreadable-image", f"The file has more than {largest // MIB} MiB.", limit_bytes=largest)


def _label(name: str) -> str:
    return re.sub(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]", "�", name)[:200]


class _Unpacked:
    """How much the entries of an archive have unpacked to so far."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0

    def count(self, size: int) -> None:
        """Add.

        Raises:
            ProblemError: `body-too-large`.
        """
        self.total += size
        if self.total > self.limit:
            raise ProblemError(
                "body-too-large",
                f"The archive unpacks to more than {self.limit // MIB} MiB.",
                limit_bytes=self.limit,
            )


def _zip_entries(view: SpoolView, settings: Settings) -> list[UploadEntry]:
    most = settings.image_set_images
    _check_directory(view, most)
    try:
        archive = zipfile.ZipFile(io.BufferedReader(view))
        infos = [info for info in archive.infolist() if not info.is_dir() and not _is_clutter(info.filename)]
    except (zipfile.BadZipFile, struct.error, RuntimeError, ValueError, OverflowError, OSError) as error:
        raise ProblemError("malformed-body", "The zip archive is damaged.") from error
    if len(infos) > most:
        raise ProblemError("too-many-images", f"An image set may have {most} images at most.", limit=most)
    unpacked = _Unpacked(settings.image_set_mib * MIB)
    largest = settings.body_mib * MIB

    def entry(info: zipfile.ZipInfo) -> UploadEntry:
        async def read() -> bytes:
            return await asyncio.to_thread(_read_entry, archive, info, largest, unpacked)

        return UploadEntry(_label(info.filename), read)

    return [entry(info) for info in infos]


def _check_directory(view: SpoolView, most: int) -> None:
    """Look at the archive's end before its directory is read, which could name millions of entries.

    Raises:
        ProblemError: `malformed-body`, `too-many-images`.
    """
    if directory_size(view) > (most + 64) * DIRECTORY_BYTES_PER_ENTRY:
        raise ProblemError("too-many-images", f"An image set may have {most} images at most.", limit=most)


def _is_clutter(name: str) -> bool:
    """What desktop systems put into archives beside what their user meant."""
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name in (".DS_Store", "Thumbs.db", "desktop.ini")


def _read_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, largest: int, unpacked: _Unpacked) -> bytes:
    reason = _refused(info)
    if reason:
        raise ProblemError("unreadable-image", reason)
    if info.file_size > largest:
        raise _too_large_entry(largest)
    try:
        with archive.open(info) as file:
            data = file.read(largest + 1)
    except (
        zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError, OSError, struct.error,
    ) as error:  # fmt: skip
        raise ProblemError("unreadable-image", "The entry of the archive is damaged.") from error
    unpacked.count(len(data))
    if len(data) > largest:
        raise _too_large_entry(largest)
    return data


def _refused(info: zipfile.ZipInfo) -> str:
    """Why an entry is not even read, or nothing."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", info.filename):
        return "The entry's path leads out of the archive."
    if info.create_system == 3 and stat.S_ISLNK(info.external_attr >> 16):
        return "The entry is a link."
    if info.flag_bits & 1:
        return "The entry is encrypted."
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "The entry is packed in another way than deflate."
    if info.file_size > MIB and info.file_size > MOST_RATIO * info.compress_size:
        return f"The entry unpacks to more than {MOST_RATIO} times its size."
    return ""
