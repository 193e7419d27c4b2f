"""Cursors of listings: a place in an index, as the text that a page's `next` link carries."""

from __future__ import annotations

import base64
import binascii
import re

from convscope.protocol.problems import ProblemError, invalid_field

_POSITION = re.compile(r"([0-9]{1,15}):([0-9A-Za-z-]{0,100})")

Position = tuple[int, str]
"""Where a record stands in an index: a number (a creation time in ms, a place) and an id; the id may be empty."""


def write_cursor(position: Position) -> str:
    """The position as text that fits into a URL."""
    return base64.urlsafe_b64encode(f"{position[0]}:{position[1]}".encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> Position:
    """The position that `write_cursor` made a text of.

    Raises:
        ProblemError: `invalid-request` for any other text.
    """
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        text = ""
    parts = _POSITION.fullmatch(text)
    if parts is None:
        raise unknown_cursor()
    return int(parts[1]), parts[2]


def unknown_cursor() -> ProblemError:
    """The refusal of a cursor that no page gave."""
    return invalid_field("/query/cursor", "The cursor is not one that a listing gave: take it from the `next` link.")
