"""The images that a request is about, kept and named as jobs name them: files of a form, base64, ids, and sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations.base import Operation
from convscope.protocol.operations.truth import FOLDERS
from convscope.protocol.problems import FieldError, ProblemError, invalid_field
from convscope.protocol.requests import CommonRequest, ImageRef
from convscope.queue.jobs import JobImage
from convscope.store.image_sets import ImageSetMember
from convscope.store.images import ImageRecord
from service.call import Call
from service.images.uploads import read_base64
from service.intake import bodies
from service.intake.forms import MASK
from service.intake.image_forms import keep_upload
from service.intake.limits import check_pixels

_BY_FOLDER = ("truth", "groups")
"""Properties that `folders` fills with the folder of each image of a set."""
UPLOADED = "upload:"
"""Prefix of the ids that stand for a form's files until these are decoded; no stored image has it."""


async def named_images(
    asked: CommonRequest, call: Call, form: bodies.Form | None, files: Sequence[bodies.FilePart]
) -> tuple[CommonRequest, list[JobImage]]:
    """The request with every image stored and named by its id."""
    refs: list[ImageRef] = asked.all_images() if hasattr(asked, "all_images") else []
    mask: ImageRef | None = getattr(asked, MASK, None)
    if mask is not None:
        refs = [*refs, mask]  # the worker finds it after the images
    records: list[ImageRecord] = []
    for number, ref in enumerate(refs):
        try:
            records.append(await _stored(ref, call, form, files))
        except ProblemError as error:
            if len(refs) > 1 and not error.errors:
                is_mask = mask is not None and number == len(refs) - 1
                error.errors = (FieldError(f"/{MASK}" if is_mask else f"/images/{number}", error.detail),)
            raise
    check_pixels(records, call.context.settings)
    if refs:
        known = [ImageRef(id=record.id) for record in records]
        named = {MASK: known.pop()} if mask is not None else {}
        asked = asked.model_copy(update={"image": None, "images": known, **named})
    return asked, [_of_job(record) for record in records]


async def set_images(
    asked: CommonRequest, call: Call, image_set: str, operation: Operation[Any]
) -> tuple[CommonRequest, list[JobImage], str | None]:
    """The images of a stored set that a request is about, and where these are listed; the request with their classes.

    A few for an operation that answers at once are listed nowhere: they travel as images do that are named one by one.
    """
    sets, settings = call.context.image_sets, call.context.settings
    record = await sets.get(call.caller, image_set)
    contents = await sets.contents(record)
    part = _part_of(asked, len(contents.members))
    images = [_of_job(member) for member in contents.members[part]]
    for name in _BY_FOLDER:
        if getattr(asked, name, None) in (FOLDERS, [FOLDERS]):
            asked = asked.model_copy(update={name: _folders(contents.members[part], name)})
    few = min(operation.max_images, settings.images_per_request)
    if operation.lane == "interactive" and len(images) <= few:
        check_pixels(images, settings)
        return asked, images, None
    _check_count(images, part, operation, few)
    whole = len(images) == len(contents.members)
    return asked, images, record.contents if whole else await sets.list_part(contents, part)


def _folders(members: Sequence[ImageSetMember], name: str) -> list[str]:
    """The folder of each image, as data sets of classes have them.

    Raises:
        ProblemError: `invalid-request` where one lies in none.
    """
    folders = [PurePosixPath(member.name.replace("\\", "/")).parent.name for member in members]
    bare = [member.name for member, folder in zip(members, folders, strict=True) if not folder]
    if bare:
        raise invalid_field(f"/{name}", f"{len(bare)} images of the set lie in no folder, as {bare[0][:80]!r}")
    return folders


def _part_of(asked: CommonRequest, there: int) -> slice:
    """The places of a set that a request asks for.

    Raises:
        ProblemError: `invalid-request` for a range that leaves the set, with what it has.
    """
    start, stop = getattr(asked, "image_range", None) or (0, there)
    if stop > there:
        raise invalid_field(
            "/image_range", f"the set has {there} images, which are 0:{there}; {start}:{stop} leaves it"
        )
    return slice(start, stop)


def _check_count(images: Sequence[JobImage], part: slice, operation: Operation[Any], few: int) -> None:
    """Refuse more images of a set than the operation takes in one request.

    Raises:
        ProblemError: `too-many-images`, with a range that is possible.
    """
    limit = operation.set_images if operation.sweeps else few
    if limit is not None and len(images) > limit:
        raise ProblemError(
            "too-many-images",
            f"{operation.name} takes {limit} image{'s' if limit > 1 else ''} of a set in one request, and these are "
            f"{len(images)}. Give image_range={part.start}:{part.start + limit}, and the next in further requests.",
            limit=limit,
        )


def _of_job(kept: ImageRecord | ImageSetMember) -> JobImage:
    """An image as a job names it."""
    return JobImage(
        id=kept.id,
        pixels=kept.pixels,
        width=kept.width,
        height=kept.height,
        planes=kept.planes,
        channels=kept.channels,
    )


async def _stored(ref: ImageRef, call: Call, form: bodies.Form | None, files: Sequence[bodies.FilePart]) -> ImageRecord:
    if ref.base64 is not None:
        data = await read_base64(ref.base64)
    elif form is not None and ref.id is not None and ref.id.startswith(UPLOADED):
        part = files[int(ref.id.removeprefix(UPLOADED))]
        async with call.context.memory.body(part.size):
            return await keep_upload(call, await form.read(part))
    else:
        assert ref.id is not None
        return await call.context.images.get(call.caller, ref.id)
    return await keep_upload(call, data)


def check_planes(images: Sequence[JobImage], cards: Sequence[ModelCard]) -> None:
    """Refuse images of other planes than the networks take; grey counts for all colours, colours make one grey.

    Raises:
        ProblemError: `not-applicable`, with what would be right.
    """
    for card in cards:
        wanted = card.preprocess.channels
        for image in images:
            if image.channels != wanted and {image.channels, wanted} != {1, 3}:
                has = "an image in colour" if image.planes is None else f"an array of {image.channels} planes"
                raise ProblemError(
                    "not-applicable",
                    f"{card.id} takes {wanted} planes, and {image.id} is {has}. Send a .npy or safetensors file with "
                    f"an array of H×W×{wanted} or {wanted}×H×W.",
                    planes=wanted,
                )
