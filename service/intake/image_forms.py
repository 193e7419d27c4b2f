"""Uploads of images alone: as a form or as a raw body, and their schema."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from convscope.protocol.problems import FieldError, ProblemError
from service.intake.bodies import BodyLimits, Form, read_form, read_raw

RAW_TYPES = (
    "application/octet-stream",
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
)


_BINARY = {"type": "string", "format": "binary"}


def body_of(form: dict[str, Any], *raw: str) -> dict[str, Any]:
    """`requestBody` of an upload: a form, or the file itself."""
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    return {"required": True, "content": content | {media: {"schema": _BINARY} for media in raw}}


async def read_upload(request: Request, limits: BodyLimits, possible: tuple[str, ...]) -> Form:
    """A form, or a body that is one file of one of the `possible` types, or of none that it says.

    Raises:
        ProblemError: as `read_form` and `read_raw`; `unsupported-media-type`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await read_form(request, limits)
    if kind and kind not in possible and not (kind.startswith("image/") and possible == RAW_TYPES):
        types = ["multipart/form-data", *possible]
        raise ProblemError("unsupported-media-type", f"{kind[:100]} cannot be read here.", possible=types)
    return await read_raw(request, limits)


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
