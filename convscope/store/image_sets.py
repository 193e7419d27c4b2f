"""Sets of images as their callers see them: a small record in Redis, the list of members in the artifact store."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, Field
from redis.asyncio import Redis

from convscope.store.artifacts import Artifacts
from convscope.store.images import ImageRecord
from convscope.store.shelf import Shelf, ShelfRecord

# Rejected entries beyond these are counted, not listed.
MOST_REJECTED_LISTED = 1000


class ImageSetMember(BaseModel):
    """One image of a set; `pixels` is the artifact key of a uint8 H×W×3 .npy file.

    Where it came as an array, `planes` is the key of a float32 H×W×C .npy file, and `channels` is C.
    """

    name: str = Field(description="The file's name in the upload.")
    id: str
    width: int
    height: int
    pixels: str
    planes: str | None = None
    channels: int = 3

    @classmethod
    def of(cls, name: str, image: ImageRecord) -> ImageSetMember:
        """A stored image under the name that it came with."""
        return cls(
            name=name,
            id=image.id,
            width=image.width,
            height=image.height,
            pixels=image.pixels,
            planes=image.planes,
            channels=image.channels,
        )

    @property
    def plane_pixels(self) -> float:
        """Its pixels, counted by the bytes that they take: three for each of a picture, four a plane for an array's."""
        return self.width * self.height * (1.0 if self.planes is None else 4 * self.channels / 3)


class RejectedEntry(BaseModel):
    """A file of the upload that is not in the set, and why."""

    name: str = Field(description="The file's name in the upload.")
    problem: str = Field(description="Name of the problem, as under /problems.")
    detail: str


class ImageSetContents(BaseModel):
    """What the artifact of a set holds, in the order of the upload."""

    members: list[ImageSetMember]
    rejected: list[RejectedEntry]


class ImageSetRecord(ShelfRecord):
    """What is known of a set; `contents` is the artifact key of its ImageSetContents as JSON."""

    images: int
    rejected: int
    contents: str


class ImageSets:
    """The image sets of all callers.

    Args:
        redis: where the records are.
        artifacts: where members and pixels are.
        keep_s: lifetime of a set since it was last uploaded, seconds.
    """

    def __init__(self, redis: Redis, artifacts: Artifacts, keep_s: float) -> None:
        self._artifacts = artifacts
        self._shelf = Shelf(redis, ImageSetRecord, ("image_set", "image_sets"), "image set", keep_s)

    async def add(self, caller: str, members: list[ImageSetMember], rejected: list[RejectedEntry]) -> ImageSetRecord:
        """Keep a set; the same names and images in the same order give the same id.

        Raises:
            ProblemError: `store-unavailable`, `queue-unavailable`, `queue-full`.
        """
        contents = ImageSetContents(members=members, rejected=rejected[:MOST_REJECTED_LISTED])
        stored = await self._artifacts.put("images", contents.model_dump_json().encode())
        named = "\n".join(f"{member.id} {member.name}" for member in members)
        record = ImageSetRecord(
            id=f"set-{hashlib.sha256(named.encode()).hexdigest()[:32]}",
            images=len(members),
            rejected=len(rejected),
            contents=stored,
        )
        return await self._shelf.put(caller, record)

    async def get(self, caller: str, set_id: str) -> ImageSetRecord:
        """The caller's set of that id.

        Raises:
            ProblemError: `not-found`, also for another caller's; `queue-unavailable`.
        """
        return await self._shelf.get(caller, set_id)

    async def contents(self, record: ImageSetRecord) -> ImageSetContents:
        """The members of a set, and what was rejected.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        return ImageSetContents.model_validate_json(await self._artifacts.get(record.contents))

    async def list_part(self, contents: ImageSetContents, part: slice) -> str:
        """Keep the list of a part of a set's members; its artifact key.

        Raises:
            ProblemError: `store-unavailable`.
        """
        own = ImageSetContents(members=contents.members[part], rejected=[])
        return await self._artifacts.put("images", own.model_dump_json().encode())

    async def page(
        self, caller: str, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[ImageSetRecord], str | None]:
        """The caller's sets, last uploaded first, and the cursor of the next page, if there is one.

        Raises:
            ProblemError: `invalid-request` for a cursor that is none; `queue-unavailable`.
        """
        return await self._shelf.page(caller, limit=limit, cursor=cursor)

    async def delete(self, caller: str, set_id: str) -> None:
        """Forget the caller's set; its images have lives of their own.

        Raises:
            ProblemError: `not-found`, also for another caller's; `queue-unavailable`.
        """
        await self._shelf.delete(caller, set_id)
