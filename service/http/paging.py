"""Pages of a listing: which one is asked for, and the link to the next."""

from __future__ import annotations

from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field


class PageQuery(BaseModel):
    """Which page to list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Most entries in one answer.")
    cursor: str | None = Field(None, max_length=200, description="From the Link header of the page before.")


def page_headers(path: str, query: PageQuery, cursor: str | None) -> dict[str, str]:
    """Headers of a page: the link to the next, if there is one, with everything else that was asked for."""
    headers = {"Cache-Control": "no-cache"}
    if cursor is not None:
        given = query.model_dump(mode="json", exclude_none=True, exclude={"cursor"})
        headers["Link"] = f'<{path}?{urlencode({**given, "cursor": cursor})}>; rel="next"'
    return headers
