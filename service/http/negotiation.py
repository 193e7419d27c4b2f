"""What a client wants back and how long it waits: Accept (RFC 9110), Prefer (RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from convscope.protocol.problems import ProblemError

JSON = "application/json"
PNG = "image/png"
SAFETENSORS = "application/vnd.safetensors"
NPY = "application/x-npy"
HTML = "text/html"
WEBP, JPEG, SVG = "image/webp", "image/jpeg", "image/svg+xml"
PICTURES = (PNG, WEBP, JPEG, SVG)
"""What a picture can be answered as, the default first."""
FORMATS = {"json": JSON, "png": PNG, "webp": WEBP, "jpeg": JPEG, "svg": SVG, "safetensors": SAFETENSORS, "npy": NPY}
"""What `?format=` may say, for clients that cannot set headers; it goes before Accept."""

_QUALITY = re.compile(r"(0(\.[0-9]{0,3})?|1(\.0{0,3})?)")
_MOST_RANGES = 64


@dataclass(frozen=True)
class Preference:
    """What a request prefers: not to wait, or to wait so many seconds; neither where it does not say."""

    respond_async: bool = False
    wait_s: float | None = None

    @property
    def stated(self) -> bool:
        """Whether the request said anything about waiting."""
        return self.respond_async or self.wait_s is not None

    def applied(self, waited: bool) -> str | None:
        """The Preference-Applied header: what was done of it. `waited`: the answer came within the wait."""
        parts = []
        if self.respond_async and not (waited and self.wait_s is not None):
            parts.append("respond-async")
        if self.wait_s is not None:
            parts.append(f"wait={self.wait_s:g}")
        return ", ".join(parts) or None


def accepted(header: str | None, possible: Sequence[str], wanted: str | None = None) -> str:
    """The media type to answer with: `wanted`, else the best of `possible` (in our order of preference) by Accept.

    A browser that shows a page asks for text/html first and takes anything else as well: it gets a picture where one is
    possible, and not the JSON that stands before it for programs.

    Args:
        wanted: what `?format=` says, a name of FORMATS.

    Raises:
        ProblemError: `not-acceptable`, with the possible types.
    """
    if wanted is not None:
        if FORMATS[wanted] not in possible:
            raise _not_acceptable(possible)
        return FORMATS[wanted]
    if header is None or not header.strip():
        return possible[0]
    ranges = [_media_range(text) for text in header.split(",")[:_MOST_RANGES] if text.strip()]
    browser = HTML not in possible and any(given == HTML and quality > 0 for given, quality in ranges)
    # A browser that is shown a picture accepts more kinds than whoever saves it from there can use.
    kinds = [media for media in possible if media == PNG or media not in PICTURES] if browser else possible
    ordered = sorted(kinds, key=lambda media: media != PNG) if browser else possible
    scored = [(_quality(media, ranges), -place, media) for place, media in enumerate(ordered)]
    quality, _, media = max(scored)
    if quality <= 0:
        raise _not_acceptable(possible)
    return media


def media_type(header: str | None) -> str:
    """The media type of a Content-Type header, in lower case and without parameters; empty where none is given."""
    return (header or "").partition(";")[0].strip().lower()


def _not_acceptable(possible: Sequence[str]) -> ProblemError:
    return ProblemError("not-acceptable", f"Only {', '.join(possible)} can be made of this.", possible=list(possible))


def _media_range(text: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            # A malformed weight counts as none given, as servers commonly do.
            quality = float(value) if _QUALITY.fullmatch(value.strip()) else 1.0
    return media, quality


def _quality(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The weight of the most specific range that covers the media type; 0 where none does."""
    kind = media.partition("/")[0]
    for pattern in (media, f"{kind}/*", "*/*"):
        weights = [quality for given, quality in ranges if given == pattern]
        if weights:
            return max(weights)
    return 0.0


def preference(headers: Sequence[str], longest_wait_s: float) -> Preference:
    """What the Prefer headers say; of a preference given twice, the first counts, and unknown ones are ignored.

    A wait beyond the longest is cut to it, and Preference-Applied says so.

    Raises:
        ProblemError: `bad-preference`.
    """
    given: dict[str, str] = {}
    for part in ",".join(headers).split(","):
        token = part.partition(";")[0]
        name, _, value = token.partition("=")
        if name.strip():
            given.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait_s = None
    if "wait" in given:
        text = given["wait"]
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise ProblemError("bad-preference", f"wait takes whole seconds from 0, not {text[:40]!r}.")
        wait_s = min(float(text), longest_wait_s)
    if given.get("respond-async"):
        raise ProblemError("bad-preference", "respond-async takes no value.")
    return Preference("respond-async" in given, wait_s)


def etag_matches(header: str | None, etag: str, *, weak: bool = True) -> bool:
    """Whether an If-None-Match (weak comparison) or If-Match/If-Range (strong) header names this entity tag."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    candidates = [part.strip() for part in header.split(",")]
    if weak:
        candidates = [part.removeprefix("W/") for part in candidates]
    return etag in candidates


def refuse_encoding(header: str | None) -> None:
    """Refuse a body that is packed: how much it unpacks to is not known before it is unpacked.

    Raises:
        ProblemError: `unsupported-media-type`.
    """
    encoding = (header or "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ProblemError(
            "unsupported-media-type",
            f"A body is sent as it is, not with Content-Encoding {encoding[:50]}.",
            possible=["identity"],
        )


def idempotency_key(headers: Sequence[str]) -> str:
    """The Idempotency-Key, a quoted string (RFC 8941) or bare; empty where there is none.

    Raises:
        ProblemError: `invalid-request`, where it is empty, longer than 255, not printable ASCII, or there are several.
    """
    if not headers:
        return ""
    if len(headers) > 1:
        raise ProblemError("invalid-request", "Idempotency-Key is given more than once; a request has one.")
    text = headers[0].strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if not text or len(text) > 255 or not (text.isascii() and text.isprintable()):
        raise ProblemError("invalid-request", "Idempotency-Key takes 1 to 255 printable ASCII characters.")
    return text
