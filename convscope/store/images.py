"""Images as their callers see them: a small record in Redis, the decoded pixels in the artifact store.

The original bytes are not kept: whoever needs the picture needs its pixels.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from redis.asyncio import Redis

from convscope.store.artifacts import Artifacts
from convscope.store.shelf import Shelf, ShelfRecord

Pixels = npt.NDArray[np.uint8]
Planes = npt.NDArray[np.float32]

# The format of a picture that a job made; it never was a file.
MADE = "pixels"
# Arrays larger than this are copied in a thread.
INLINE_BYTES = 1 << 20


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
    """

    def __init__(self, redis: Redis, artifacts: Artifacts, keep_s: float) -> None:
        self._artifacts = artifacts
        self._shelf = Shelf(redis, ImageRecord, ("image", "images"), "image", keep_s)

    async def add(self, caller: str, image: DecodedImage) -> ImageRecord:
        """Keep an uploaded image; the same file's bytes give the same id.

        Raises:
            ProblemError: `store-unavailable`, `queue-unavailable`, `queue-full`.
        """
        pixels = await self.keep_pixels(image.pixels)
        planes = None
        if image.planes is not None:
            planes = await self._artifacts.put("images", await asyncio.to_thread(planes_bytes, image.planes))
        return await self._put(caller, pixels, image, planes)

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
            ProblemError: `store-unavailable`, `queue-unavailable`, `queue-full`.
        """
        stored = await self.keep_pixels(pixels)
        image = DecodedImage(pixels, MADE, stored.rpartition("/")[2])
        for caller in callers:
            await self._put(caller, stored, image, None)
        return image_id(image.sha256)

    async def keep_pixels(self, pixels: Pixels) -> str:
        """Store pixels (uint8, H×W×3) without a record and return their artifact key.

        Raises:
            ValueError: other dimensions or another element type.
            ProblemError: `store-unavailable`.
        """
        data = npy_bytes(pixels) if pixels.nbytes < INLINE_BYTES else await asyncio.to_thread(npy_bytes, pixels)
        return await self._artifacts.put("images", data)

    async def read_pixels(self, pixels: str) -> Pixels:
        """The pixels behind an artifact key, uint8 H×W×3.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        return npy_pixels(await self._artifacts.get(pixels))

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
