"""Images as their callers see them: a small record in Redis, the decoded pixels in the artifact store.

The original bytes are not kept: whoever needs the picture needs its pixels.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis

from convscope.queue.lua import Scripts
from convscope.store.artifacts import Artifacts
from convscope.store.room import store_full
from convscope.store.shelf import Shelf, ShelfRecord

Pixels = npt.NDArray[np.uint8]
Planes = npt.NDArray[np.float32]

# The format of a picture that a job made; it never was a file.
MADE = "pixels"
# Arrays larger than this are copied in a thread.
INLINE_BYTES = 1 << 20
# Less than this is stored as it is. Whether more can be packed is tried on so many samples of so many bytes.
LEAST_PACKED = 1 << 16
SAMPLES, SAMPLE_BYTES = 32, 4096
ZLIB_LEVEL = 1

T = TypeVar("T")


@dataclass(frozen=True)
class DecodedImage:
    """An uploaded file after decoding.

    Args:
        pixels: uint8, H×W×3, sRGB; of an array, what is drawn of it.
        format: name of the file format, PNG, JPEG, ….
        sha256: of the file's bytes, hex.
        notes: what was done to the pixels on the way, one short sentence each.
        planes: float32, H×W×C in [0, 1], where the file was an array.
    """

    pixels: Pixels
    format: str
    sha256: str
    notes: tuple[str, ...] = ()
    planes: Planes | None = None

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])


class ImageRecord(ShelfRecord):
    """What is known of an image; `pixels` is the artifact key of a uint8 H×W×3 .npy file.

    Where it came as an array, `planes` is the key of a float32 H×W×C .npy file, and `channels` is C.
    """

    width: int
    height: int
    format: str
    sha256: str
    pixels: str
    notes: tuple[str, ...] = ()
    planes: str | None = None
    channels: int = 3


class Images:
    """The images of all callers.

    Args:
        redis: where the records are.
        artifacts: where the pixels are.
        keep_s: lifetime of an image since it was last uploaded, seconds.
        share_bytes: of one caller in the store.
    """

    def __init__(self, redis: Redis, artifacts: Artifacts, keep_s: float, share_bytes: int = 2**50) -> None:
        self._artifacts = artifacts
        self._scripts = Scripts(redis)
        self._keep_ms = round(keep_s * 1000)
        self._share_bytes = share_bytes
        self._shelf = Shelf(redis, ImageRecord, ("image", "images"), "image", keep_s)

    async def add(self, caller: str, image: DecodedImage) -> ImageRecord:
        """Keep an uploaded image; the same file's bytes give the same id.

        Raises:
            ProblemError: `store-full`, `store-unavailable`, `queue-unavailable`, `queue-full`.
        """
        pixels = await _in_thread(stored_bytes, image.pixels)
        planes = None if image.planes is None else await asyncio.to_thread(planes_bytes, image.planes)
        await self._charge(caller, image.sha256, len(pixels) + len(planes or b""))
        kept = None if planes is None else await self._artifacts.put("images", planes)
        return await self._put(caller, await self._artifacts.put("images", pixels), image, kept)

    async def known(self, caller: str, sha256: str) -> ImageRecord | None:
        """The caller's image of a file with that SHA-256, kept for longer now; None unless it was stored just before.

        Pixels that were stored longer ago are due to be written again, so that the sweep takes them for young.

        Raises:
            ProblemError: `store-unavailable`, `queue-unavailable`, `queue-full`.
        """
        record = await self._shelf.find(caller, image_id(sha256))
        # A job's picture is named by its pixels, and these, sent as a file, would be of no known format.
        if record is None or record.sha256 != sha256 or record.format == MADE:
            return None
        for kept in (record.pixels, record.planes):
            if kept is not None and not await self._artifacts.is_fresh(kept):
                return None
        return await self._shelf.put(caller, record)

    async def grant(self, callers: Iterable[str], pixels: Pixels) -> str:
        """Make a picture that a job made (uint8, H×W×3, sRGB) an image of these callers; its id, the same for all.

        Raises:
            ProblemError: `store-full`, `store-unavailable`, `queue-unavailable`, `queue-full`.
        """
        image = DecodedImage(pixels, MADE, await _in_thread(_digest, pixels))
        data = await _in_thread(stored_bytes, pixels)
        for caller in callers:
            await self._charge(caller, image.sha256, len(data))
            await self._put(caller, await self._artifacts.put("images", data), image, None)
        return image_id(image.sha256)

    async def _charge(self, caller: str, digest: str, nbytes: int) -> None:
        """Put the bytes of an image on its caller's account."""
        status, total = await self._scripts.run(
            "charge",
            caller=caller,
            id=image_id(digest),
            bytes=nbytes,
            share=self._share_bytes,
            keep_ms=self._keep_ms,
        )
        if status == "full":
            raise store_full(
                f"The images of {caller} take {total / 2**20:,.1f} MiB in the store, and this one would take "
                f"{nbytes / 2**20:,.1f}; {self._share_bytes / 2**20:,.1f} MiB are allowed.",
                limit_bytes=self._share_bytes,
            )

    async def keep_pixels(self, pixels: Pixels) -> str:
        """Store pixels (uint8, H×W×3) without a record and return their artifact key.

        Raises:
            ValueError: other dimensions or another element type.
            ProblemError: `store-unavailable`.
        """
        return await self._artifacts.put("images", await _in_thread(stored_bytes, pixels))

    async def read_pixels(self, pixels: str) -> Pixels:
        """The pixels behind an artifact key, uint8 H×W×3.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        data = await self._artifacts.get(pixels)
        return npy_pixels(data) if _is_npy(data) else npy_pixels(await asyncio.to_thread(npy_file, data))

    async def read_planes(self, planes: str) -> Planes:
        """The planes behind an artifact key, float32 H×W×C.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        return npy_planes(await self._artifacts.get(planes))

    async def get(self, caller: str, image_id: str) -> ImageRecord:
        """The caller's image of that id.

        Raises:
            ProblemError: `not-found`, also for another caller's; `queue-unavailable`.
        """
        return await self._shelf.get(caller, image_id)

    async def page(
        self, caller: str, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[ImageRecord], str | None]:
        """The caller's images, last uploaded first, and the cursor of the next page, if there is one.

        Raises:
            ProblemError: `invalid-request` for a cursor that is none; `queue-unavailable`.
        """
        return await self._shelf.page(caller, limit=limit, cursor=cursor)

    async def delete(self, caller: str, image_id: str) -> None:
        """Forget the caller's image. Its pixels stay until the sweep, for jobs and sets that hold them still.

        Raises:
            ProblemError: `not-found`, also for another caller's; `queue-unavailable`.
        """
        await self._shelf.delete(caller, image_id)

    async def _put(self, caller: str, stored: str, image: DecodedImage, planes: str | None) -> ImageRecord:
        record = ImageRecord(
            id=image_id(image.sha256),
            width=image.width,
            height=image.height,
            format=image.format,
            sha256=image.sha256,
            pixels=stored,
            notes=image.notes,
            planes=planes,
            channels=3 if image.planes is None else int(image.planes.shape[2]),
        )
        return await self._shelf.put(caller, record)


def image_id(sha256: str) -> str:
    """The id of an image by the SHA-256 of its file, or of its .npy file when a job made it."""
    return f"img-{sha256[:32]}"


async def _in_thread(make: Callable[[Pixels], T], pixels: Pixels) -> T:
    """What is made of pixels, in a thread where they are many."""
    return make(pixels) if pixels.nbytes < INLINE_BYTES else await asyncio.to_thread(make, pixels)


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(npy_bytes(pixels)).hexdigest()


def stored_bytes(pixels: Pixels) -> bytes:
    """Pixels as they are stored: a .npy file, by zlib where that halves it (flat pictures; no photographs).

    Raises:
        ValueError: other dimensions or another element type.
    """
    data = npy_bytes(pixels)
    if len(data) < LEAST_PACKED:
        return data
    step = max(1, len(data) // SAMPLES)
    sample = b"".join(data[start : start + SAMPLE_BYTES] for start in range(0, len(data), step))
    if len(zlib.compress(sample, ZLIB_LEVEL)) > len(sample) / 2:
        return data
    packed = zlib.compress(data, ZLIB_LEVEL)
    return packed if len(packed) <= len(data) / 2 else data


def npy_file(data: bytes) -> bytes:
    """The .npy file in what `stored_bytes` gave."""
    return data if _is_npy(data) else zlib.decompress(data)


def _is_npy(data: bytes) -> bool:
    return data.startswith(np.lib.format.MAGIC_PREFIX)


def npy_bytes(pixels: Pixels) -> bytes:
    """Pixels (uint8, H×W×3) as a .npy file.

    Raises:
        ValueError: other dimensions or another element type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels must be uint8 H×W×3, not {pixels.dtype} {pixels.shape}")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(pixels), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def npy_pixels(data: bytes) -> Pixels:
    """The pixels in a .npy file that `npy_bytes` wrote; a view of the bytes, not to be written to."""
    buffer = io.BytesIO(data)
    np.lib.format.read_magic(buffer)
    shape, _, _ = np.lib.format.read_array_header_1_0(buffer)
    return np.frombuffer(data, np.uint8, offset=buffer.tell()).reshape(shape)


def planes_bytes(planes: Planes) -> bytes:
    """Planes (float32, H×W×C) as a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(planes, "<f4"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def npy_planes(data: bytes) -> Planes:
    """The planes in a .npy file that `planes_bytes` wrote; a view of the bytes, not to be written to."""
    buffer = io.BytesIO(data)
    np.lib.format.read_magic(buffer)
    shape, _, _ = np.lib.format.read_array_header_1_0(buffer)
    return np.frombuffer(data, np.float32, offset=buffer.tell()).reshape(shape)
