"""Images: upload once, use by id in as many requests as wanted."""

from __future__ import annotations

import asyncio
import io
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.responses import Response

from convscope.protocol.problems import FieldError, invalid_request
from convscope.store.images import ImageRecord, Pixels
from service import openapi
from service.answers.removing import remove_jobs_of_image
from service.answers.views import image_path, iso
from service.dependencies import CallDependency
from service.http.negotiation import JSON, PNG
from service.http.paging import PageQuery, page_headers
from service.http.problems import documented
from service.images.arrays import Range, parse_range
from service.intake.bodies import BodyLimits
from service.intake.image_forms import BINARY, RAW_TYPES, body_of, keep_upload, only_images, read_upload

router = APIRouter(prefix="/v1/images", tags=["images"])

# What a client sent is never shown as a page, whatever a browser takes it for.
INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-site",
}


class ImageView(BaseModel):
    """An image as its caller sees it."""

    id: str = Field(description="For `image.id` in requests.")
    width: int = Field(description="Pixels, after turning by EXIF.")
    height: int
    format: str = Field(
        description="PNG, JPEG, WEBP, GIF, BMP, TIFF, NPY or SAFETENSORS; `pixels` for one that a job made."
    )
    planes: int = Field(description="Planes that a network gets: 3 of a picture, those of an array.")
    sha256: str = Field(description="Of the uploaded bytes, hex.")
    notes: list[str] = Field(description="What was done to make it 8-bit sRGB, as laying transparency on white.")
    created_at: str | None
    expires_at: str | None
    href: str

    @classmethod
    def of(cls, record: ImageRecord) -> ImageView:
        """The view of a record."""
        return cls(
            id=record.id,
            width=record.width,
            height=record.height,
            format=record.format,
            planes=record.channels,
            sha256=record.sha256,
            notes=list(record.notes),
            created_at=iso(record.created_ms),
            expires_at=iso(record.expires_ms),
            href=image_path(record.id),
        )


class UploadQuery(BaseModel):
    """How an upload of more than 8 bits is read."""

    model_config = ConfigDict(extra="forbid")

    range: str | None = Field(
        None,
        description="`LOW,HIGH`: the numbers that are read as black and white (0 and 1), for files of more than 8 bits "
        "and for arrays; without it the range of the element type, or of safetensors metadata `range`.",
    )

    @field_validator("range")
    @classmethod
    def _check(cls, value: str | None) -> str | None:
        if value is not None:
            parse_range(value)
        return value

    @property
    def values(self) -> Range | None:
        """The range as numbers."""
        return None if self.range is None else parse_range(self.range)


class DeleteQuery(BaseModel):
    """What goes with an image."""

    model_config = ConfigDict(extra="forbid")

    jobs: Literal["keep", "delete"] = Field(
        "keep", description="Of jobs that were given the image: keep them, or cancel and remove them."
    )


class ImageList(BaseModel):
    """A page of images."""

    images: list[ImageView]


@router.post(
    "",
    operation_id="upload-image",
    status_code=201,
    response_class=Response,
    responses={
        201: {
            "description": "The image; the same bytes give the same id.",
            "model": ImageView,
            "headers": {"Location": {"description": "Address of the image.", "schema": {"type": "string"}}},
        },
        **documented(
            "malformed-body", "request-timeout", "body-too-large", "too-many-pixels", "too-many-images",
            "unsupported-media-type", "invalid-request", "unreadable-image", "unsupported-format", "queue-full",
            "store-full",
        ),
    },
    openapi_extra={
        "requestBody": body_of(
            {"type": "object", "required": ["image"], "properties": {"image": BINARY}, "additionalProperties": False},
            *RAW_TYPES,
        )
    },
)  # fmt: skip
async def upload_image(call: CallDependency, query: Annotated[UploadQuery, Query()]) -> Response:
    """Keep an image: a form with one file part `image`, or the file as the body.

    It is decoded to 8-bit sRGB at once; of an animation the first frame is kept, transparency lies on white. An array
    (.npy, or safetensors with one array), H×W, H×W×C or C×H×W, keeps all its planes and bits for the networks that take
    it, and is drawn where a picture is needed; `notes` say how.
    """
    async with await read_upload(call, BodyLimits.of(call.context.settings), RAW_TYPES) as form:
        only_images(form)
        if len(form.files) != 1:
            raise invalid_request([FieldError("/image", "one file is needed, with a file name")])
        async with call.context.memory.body(form.files[0].size):
            record = await keep_upload(call, await form.read(form.files[0]), query.values)
    view = ImageView.of(record)
    return Response(view.model_dump_json(), 201, {"Location": view.href, "Cache-Control": "no-cache"}, media_type=JSON)


@router.get(
    "",
    operation_id="list-images",
    response_class=Response,
    responses={
        200: {**openapi.answer("Images, last uploaded first.", None, ("Link",)), "model": ImageList},
        **documented("invalid-request"),
    },
)
async def list_images(call: CallDependency, query: Annotated[PageQuery, Query()]) -> Response:
    """The caller's images, last uploaded first."""
    records, cursor = await call.context.images.page(call.caller, limit=query.limit, cursor=query.cursor)
    body = ImageList(images=[ImageView.of(record) for record in records])
    return Response(body.model_dump_json(), 200, page_headers("/v1/images", query, cursor), media_type=JSON)


@router.get(
    "/{image_id}",
    operation_id="read-image",
    response_class=Response,
    responses={
        200: {
            **openapi.answer(
                "What is known of the image, or the decoded picture.", openapi.binary_content(PNG), ("ETag",)
            ),
            "model": ImageView,
        },
        304: openapi.UNCHANGED,
        **documented("not-found", "gone", "not-acceptable"),
    },
)
async def read_image(image_id: str, call: CallDependency) -> Response:
    """What is known of an image, or by `Accept: image/png` the decoded picture; the uploaded bytes are not kept."""
    media = call.accepted([JSON, PNG])
    record = await call.context.images.get(call.caller, image_id)
    headers = {**INERT, "Vary": "Accept, Authorization", "Cache-Control": "private, no-cache"}
    if media == JSON:
        return Response(ImageView.of(record).model_dump_json(), 200, headers, media_type=JSON)
    headers["ETag"] = f'"{record.pixels.rpartition("/")[2]}"'
    headers["Content-Disposition"] = f'attachment; filename="{record.id}.png"'
    if call.knows(headers["ETag"]):
        return Response(status_code=304, headers=headers)
    pixels = await call.context.images.read_pixels(record.pixels)
    return Response(await asyncio.to_thread(_png, pixels), 200, headers, media_type=PNG)


@router.delete(
    "/{image_id}",
    operation_id="delete-image",
    status_code=204,
    response_class=Response,
    responses=documented("not-found", "invalid-request"),
)
async def delete_image(image_id: str, call: CallDependency, query: Annotated[DeleteQuery, Query()]) -> Response:
    """Forget an image. Jobs that were given it, and sets that hold it, keep it as long as they need it.

    With `jobs=delete` these jobs go as well: unfinished ones are cancelled, finished ones removed with their results.
    """
    await call.context.images.get(call.caller, image_id)
    if query.jobs == "delete":
        await remove_jobs_of_image(call, image_id)
    await call.context.images.delete(call.caller, image_id)
    return Response(status_code=204)


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    # Little compression: six times as quick for a few percent of size.
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
