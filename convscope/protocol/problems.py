"""Every way a request can fail: one table of names, statuses and advice, and the exception that carries one.

The service answers with it (RFC 9457), a worker fails a job with it, the command line prints it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProblemType:
    """One kind of failure: its stable name, HTTP status, title, and what a caller should do about it."""

    name: str
    status: int
    title: str
    advice: str
    passing: bool = False
    """Whether the same request may succeed when it is sent again: then its Idempotency-Key does not stand for it."""

    @property
    def path(self) -> str:
        """The `type` of a problem document, also the address of its help page."""
        return f"/problems/{self.name}"


_TABLE: tuple[tuple[int, str, str, str], ...] = (
    (400, "malformed-body", "The body cannot be read", "Send multipart/form-data or application/json as the OpenAPI document describes."),
    (400, "bad-preference", "The Prefer header cannot be understood", "Send `Prefer: wait=N` with N seconds from 0 to 60, or `Prefer: respond-async`."),
    (400, "bad-host", "The request does not name one host", "Send one Host header with the service's name, as every HTTP/1.1 client does."),
    (421, "misdirected", "This service does not answer to that name", "Use its machine's name or address, or let the operator name yours with CONVSCOPE_HOSTS."),
    (403, "cross-site", "A page of another site may not do that", "Send it from a program or the service's own pages, or let the operator name the site with CONVSCOPE_CORS_ORIGINS."),
    (401, "unauthenticated", "A key is needed", "Send `Authorization: Bearer KEY` with a key from the operator's key file."),
    (403, "forbidden", "This key may not do that", "Ask the operator for a key with the right."),
    (404, "not-found", "Nothing here by that name", "Check the address; jobs and images of other callers do not exist for you."),
    (410, "gone", "It is not here any more", "Submit the request again."),
    (405, "method-not-allowed", "That method is not possible here", "Use one of the methods in the Allow header."),
    (406, "not-acceptable", "No representation that was accepted can be made", "Accept one of the media types listed in `possible`."),
    (415, "unsupported-media-type", "That content type cannot be read here", "Send one of the content types listed in `possible`."),
    (416, "range-not-satisfiable", "That range lies outside of it", "Ask for bytes within the length in Content-Range."),
    (408, "request-timeout", "The body came too slowly", "Send the body at once, or raise CONVSCOPE_BODY_TIMEOUT_S."),
    (409, "already-finished", "The job has already finished", "Read its result; a finished job never changes."),
    (412, "precondition-failed", "It is not what the request expects", "Read it again, and send what it is now in If-Match, or nothing."),
    (413, "body-too-large", "The body is too large", "Send less at once; the limit is in the detail."),
    (413, "too-many-pixels", "The image has too many pixels", "Scale it down; the limit is in the detail."),
    (413, "too-many-images", "Too many images in one request", "Send fewer images at once; the limit is in the detail."),
    (422, "invalid-request", "The request does not fit its schema", "Mend the fields listed in `errors`."),
    (422, "unknown-model", "No such network in the catalogue", "GET /v1/models lists the catalogue."),
    (422, "unknown-layer", "The network has no such layer", "GET /v1/models/{id}/layers lists the layers."),
    (422, "channel-out-of-range", "The layer has no such channel", "Choose channels within the range in the detail."),
    (422, "not-applicable", "The method cannot be used there", "The detail says why, and what would be possible."),
    (422, "unreadable-image", "The image cannot be decoded", "Send a whole, valid image file."),
    (422, "unsupported-format", "That image format is not accepted", "Send one of the formats listed in the detail."),
    (422, "too-expensive", "The request costs more than the limit", "Ask for less; the cost and the limit are in the detail."),
    (422, "idempotency-mismatch", "This key was used for another request", "Use a new Idempotency-Key for a new request."),
    (422, "numerical-error", "The computation left the finite numbers", "Change the parameters, usually a smaller learning rate."),
    (422, "out-of-memory", "The device has too little memory for this", "Ask for fewer channels, images or pixels."),
    (424, "weights-unavailable", "The network's weights cannot be had", "Run `convscope models pull` where the weights can be fetched, or use the `-random` network."),
    (422, "network-does-not-run", "The network does not run on its input", "Mend the network, or what its entry in the catalogue says of it; the detail has the reason that torch gave."),
    (429, "quota-exceeded", "Too many unfinished jobs for this caller", "Wait for jobs to finish, or cancel some."),
    (500, "worker-crashed", "The worker died on this job, repeatedly", "This is a fault of ours or of the machine; report the job id."),
    (500, "internal-error", "An error of ours", "Report the request id."),
    (503, "queue-full", "The service has too much work queued", "Try again after Retry-After."),
    (503, "queue-unavailable", "The queue cannot be reached", "Try again after Retry-After."),
    (503, "identity-unavailable", "The identity provider cannot be reached", "Try again after Retry-After, or send a key of the operator's key file."),
    (503, "store-unavailable", "The artifact store cannot be reached", "Try again after Retry-After."),
    (507, "store-full", "There is no room for this in the artifact store", "Send fewer or smaller images, wait until older ones expire, or ask the operator for more room."),
    (504, "deadline-exceeded", "The deadline passed before the job finished", "Allow more time with deadline_s."),
)  # fmt: skip

_PASSING = frozenset({
    "gone", "request-timeout", "weights-unavailable", "quota-exceeded", "worker-crashed", "internal-error", "queue-full",
    "queue-unavailable", "identity-unavailable", "store-unavailable", "store-full", "deadline-exceeded",
})  # fmt: skip
"""Those that lie in the moment: the machine, the load, what is at hand now. All others lie in the request, and last."""

PROBLEMS: dict[str, ProblemType] = {
    name: ProblemType(name, status, title, advice, name in _PASSING) for status, name, title, advice in _TABLE
}


@dataclass(frozen=True)
class FieldError:
    """One wrong place in a request: a JSON pointer to it and what is wrong there."""

    pointer: str
    detail: str


class ProblemError(Exception):
    """A failure that a caller is told about.

    Args:
        name: a key of PROBLEMS.
        detail: one sentence about this occurrence: what was wrong and what would have been right.
        errors: the wrong fields, where there are any.
        retry_after_s: seconds after which another try makes sense.
        extra: further members of the problem document (`possible`, `limit`, …), JSON values.
    """

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: float | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(f"{name}: {detail}")
        self.type = PROBLEMS[name]
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s
        self.extra = extra

    @property
    def name(self) -> str:
        """The stable name of the problem."""
        return self.type.name

    @property
    def status(self) -> int:
        """The HTTP status that goes with the name."""
        return self.type.status


def is_passing(name: str) -> bool:
    """Whether the same request may succeed when it is sent again after a problem of that name."""
    return name in PROBLEMS and PROBLEMS[name].passing


def invalid_field(pointer: str, sentence: str, **extra: Any) -> ProblemError:
    """The problem `invalid-request` of one wrong field; the sentence is also the problem's detail."""
    return ProblemError("invalid-request", sentence, errors=[FieldError(pointer, sentence)], **extra)


def invalid_request(errors: Sequence[FieldError]) -> ProblemError:
    """The problem of a request that does not fit its schema; its detail repeats the first place."""
    if not errors:
        return ProblemError("invalid-request", "The request does not fit its schema.")
    first = errors[0]
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return ProblemError("invalid-request", f"{first.pointer or 'The body'}: {first.detail}.{more}", errors=errors)
