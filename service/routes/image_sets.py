"""Image sets: many images uploaded at once, for methods that compare over a population."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from convscope.protocol.problems import FieldError, ProblemError
from convscope.queue.cursors import read_cursor, write_cursor
from convscope.store.image_sets import ImageSetContents, ImageSetRecord, RejectedEntry
from service import openapi
from service.answers.views import image_path, iso
from service.dependencies import CallDependency
from service.http.negotiation import JSON
from service.http.paging import PageQuery, page_headers
from service.http.problems import documented
from service.intake.bodies import BodyLimits
from service.intake.image_forms import BINARY, body_of, keep_upload, only_images, read_upload
from service.intake.set_uploads import entries_of, store_entries

router = APIRouter(prefix="/v1/image-sets", tags=["image sets"])

ARCHIVE_TYPES = ("application/zip", "application/x-zip-compressed", "application/octet-stream")


class MemberView(BaseModel):
    """One image of a set."""

    name: str = Field(description="The file's name in the upload.")
    id: str
    width: int
    height: int
    channels: int = Field(description="Planes: 3 of a picture, those of an array.")
    href: str


class ImageSetView(BaseModel):
    """A set as its caller sees it."""

    id: str = Field(description="For `image_set` in requests.")
    images: int = Field(description="How many images it has.")
    rejected: int = Field(description="How many files of the upload are not in it.")
    created_at: str | None
    expires_at: str | None
    href: str

    @classmethod
    def of(cls, record: ImageSetRecord) -> ImageSetView:
        """The view of a record."""
        return cls(
            id=record.id,
            images=record.images,
            rejected=record.rejected,
            created_at=iso(record.created_ms),
            expires_at=iso(record.expires_ms),
            href=f"/v1/image-sets/{record.id}",
        )


class ImageSetDetail(ImageSetView):
    """A set with a page of its members."""

    members: list[MemberView] = Field(description="In the order of the upload; further ones by the Link header.")
    rejected_entries: list[RejectedEntry] = Field(description="On the first page, 1000 at most.")


class ImageSetList(BaseModel):
    """A page of sets."""

    image_sets: list[ImageSetView]


def _detail(record: ImageSetRecord, contents: ImageSetContents, start: int, limit: int) -> ImageSetDetail:
    return ImageSetDetail(
        **ImageSetView.of(record).model_dump(),
        members=[
            MemberView(href=image_path(member.id), **member.model_dump(exclude={"pixels", "planes"}))
            for member in contents.members[start : start + limit]
        ],
        rejected_entries=contents.rejected if start == 0 else [],
    )


def _following(record: ImageSetRecord, start: int, limit: int) -> str | None:
    """The cursor of the page after this one; None where there is none."""
    return write_cursor((start + limit, "")) if start + limit < record.images else None


@router.post(
    "",
    operation_id="upload-image-set",
    status_code=201,
    response_class=Response,
    responses={
        201: {
            "description": "The set; files that are no images are left out and listed.",
            "model": ImageSetDetail,
            "headers": {"Location": {"description": "Address of the set.", "schema": {"type": "string"}}},
        },
        **documented(
            "malformed-body", "request-timeout", "body-too-large", "too-many-pixels", "too-many-images",
            "unsupported-media-type", "invalid-request", "unreadable-image", "queue-full", "store-full",
        ),
    },
    openapi_extra={
        "requestBody": body_of(
            {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": BINARY, "minItems": 1}},
                "additionalProperties": False,
            },
            *ARCHIVE_TYPES[:1],
        )
    },
)  # fmt: skip
async def upload_image_set(call: CallDependency) -> Response:
    """Keep many images: a form with many parts `image`, or one zip archive as such a part or as the body.

    Answers when every file was looked at. The same files in the same order give the same id.
    """
    settings = call.context.settings
    async with await read_upload(call, BodyLimits.of_image_set(settings), ARCHIVE_TYPES) as form:
        only_images(form)
        entries = await entries_of(form, settings)
        members, rejected = await store_entries(entries, partial(keep_upload, call), settings)
    if not members:
        raise ProblemError(
            "unreadable-image" if rejected else "invalid-request",
            f"None of the {len(rejected)} files is an image that can be read." if rejected else "There is no file.",
            errors=[
                FieldError(f"/image/{number}", f"{each.name}: {each.detail}")
                for number, each in enumerate(rejected[:32])
            ],
        )
    record = await call.context.image_sets.add(call.caller, members, rejected)
    view = _detail(record, ImageSetContents(members=members, rejected=rejected[:1000]), 0, 100)
    headers = {
        "Location": view.href,
        **page_headers(view.href, PageQuery(limit=100), _following(record, 0, 100)),
    }
    return Response(view.model_dump_json(), 201, headers, media_type=JSON)


@router.get(
    "",
    operation_id="list-image-sets",
    response_class=Response,
    responses={
        200: {**openapi.answer("Sets, last uploaded first.", None, ("Link",)), "model": ImageSetList},
        **documented("invalid-request"),
    },
)
async def list_image_sets(call: CallDependency, query: Annotated[PageQuery, Query()]) -> Response:
    """The caller's image sets, last uploaded first."""
    records, cursor = await call.context.image_sets.page(call.caller, limit=query.limit, cursor=query.cursor)
    body = ImageSetList(image_sets=[ImageSetView.of(record) for record in records])
    return Response(body.model_dump_json(), 200, page_headers("/v1/image-sets", query, cursor), media_type=JSON)


@router.get(
    "/{set_id}",
    operation_id="read-image-set",
    response_class=Response,
    responses={
        200: {**openapi.answer("The set and a page of its members.", None, ("Link",)), "model": ImageSetDetail},
        **documented("invalid-request", "not-found", "gone"),
    },
)
async def read_image_set(set_id: str, call: CallDependency, query: Annotated[PageQuery, Query()]) -> Response:
    """A set and a page of its members."""
    start = read_cursor(query.cursor)[0] if query.cursor else 0
    sets = call.context.image_sets
    record = await sets.get(call.caller, set_id)
    view = _detail(record, await sets.contents(record), start, query.limit)
    headers = page_headers(view.href, query, _following(record, start, query.limit))
    return Response(view.model_dump_json(), 200, headers, media_type=JSON)


@router.delete(
    "/{set_id}",
    operation_id="delete-image-set",
    status_code=204,
    response_class=Response,
    responses=documented("not-found"),
)
async def delete_image_set(set_id: str, call: CallDependency) -> Response:
    """Forget a set; its images have lives of their own."""
    await call.context.image_sets.delete(call.caller, set_id)
    return Response(status_code=204)
