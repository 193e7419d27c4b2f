"""Uploads of images alone: as a form or as a raw body, and their schema."""

from __future__ import annotations

import asyncio
from typing import Any

from convscope.protocol.problems import FieldError, ProblemError
from convscope.store.images import ImageRecord
from service.call import Call
from service.images.arrays import Range
from service.images.image_formats import inspect
from service.images.uploads import keep_image
from service.intake.bodies import BodyLimits, Form, read_form, read_raw

PIXEL_BYTES = 9
"""As the file has it, as sRGB, and as it is stored."""
SMALL_BYTES = 64 * 1024
RAW_TYPES = (
    "application/octet-stream",
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "image/avif",
    "image/heic",
    "image/heif",
    "application/x-npy",
    "application/vnd.safetensors",
)


BINARY = {"type": "string", "format": "binary"}


def body_of(form: dict[str, Any], *raw: str) -> dict[str, Any]:
    """`requestBody` of an upload: a form, or the file itself."""
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    return {"required": True, "content": content | {media: {"schema": BINARY} for media in raw}}


async def read_upload(call: Call, limits: BodyLimits, possible: tuple[str, ...]) -> Form:
    """A form, or a body that is one file of one of the `possible` types, or of none that it says.

    Raises:
        ProblemError: as `read_form` and `read_raw`; `unsupported-media-type`.
    """
    kind = call.body_type
    if kind == "multipart/form-data":
        return await read_form(call.request, limits)
    if kind and kind not in possible and not (kind.startswith("image/") and possible == RAW_TYPES):
        types = ["multipart/form-data", *possible]
        raise ProblemError("unsupported-media-type", f"{kind[:100]} cannot be read here.", possible=types)
    return await read_raw(call.request, limits)


def only_images(form: Form) -> None:
    """Refuse a form that has more than files named `image`.

    Raises:
        ProblemError: `invalid-request`.
    """
    others = [name for name in (*(name for name, _ in form.fields), *(f.name for f in form.files)) if name != "image"]
    if others or form.fields:
        raise ProblemError(
            "invalid-request",
            "The form may have file parts `image` and nothing else.",
            errors=[FieldError(f"/{(others or ['image'])[0][:80]}", "not known here, or without a file name")],
        )


async def keep_upload(call: Call, data: bytes, value_range: Range | None = None) -> ImageRecord:
    """The image of a file that the caller sent, decoded and kept.

    Raises:
        ProblemError: as `keep_image`.
    """
    context = call.context
    await context.artifacts.check_room()
    limits = context.settings.megapixels
    async with context.memory.image(await _decoded_bytes(data, limits)):
        return await keep_image(context.images, call.caller, data, megapixels=limits, value_range=value_range)


async def _decoded_bytes(data: bytes, megapixels: float) -> int:
    """About how much memory a file takes while it is decoded, by its header."""
    try:
        size = (await asyncio.to_thread(inspect, data)).size if len(data) > SMALL_BYTES else inspect(data).size
    except ProblemError:
        return 0  # it is refused for that in a moment
    pixels = megapixels * 1e6 if size is None else min(size[0] * size[1], megapixels * 1e6)
    return round(PIXEL_BYTES * pixels)
