"""One call of the interface: the request, the parts of the service, who calls, and what its headers say.

A route takes one as `CallDependency`, and what it hands on takes it whole. May import what service.context may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fastapi import Request

from service.context import Context
from service.http.auth import Identity, Scope
from service.http.negotiation import Preference, accepted, etag_matches, idempotency_key, media_type, preference


@dataclass(frozen=True)
class Call:
    """A request on its way through the service. Each header is read once, when it is first asked for.

    Args:
        request: as the framework has it.
        context: the parts of the running service.
        identity: who calls, and what for.
    """

    request: Request
    context: Context
    identity: Identity

    @property
    def caller(self) -> str:
        """The name of who calls."""
        return self.identity.caller

    def check_scope(self, scope: Scope) -> None:
        """See that who calls may do that.

        Raises:
            ProblemError: `forbidden`.
        """
        self.context.callers.check(self.identity, scope)

    def accepted(self, possible: Sequence[str], wanted: str | None = None) -> str:
        """The media type to answer with: what `?format=` says, else the best of `possible`.

        Raises:
            ProblemError: `not-acceptable`.
        """
        return accepted(self.request.headers.get("accept"), possible, wanted)

    @cached_property
    def body_type(self) -> str:
        """The media type of the body, in lower case and without parameters; empty where none is given."""
        return media_type(self.request.headers.get("content-type"))

    @cached_property
    def preference(self) -> Preference:
        """How long the client would wait.

        Raises:
            ProblemError: `bad-preference`.
        """
        return preference(self.request.headers.getlist("prefer"), self.context.settings.longest_wait_s)

    @cached_property
    def idempotency_key(self) -> str:
        """The Idempotency-Key; empty where there is none.

        Raises:
            ProblemError: `invalid-request`.
        """
        return idempotency_key(self.request.headers.getlist("idempotency-key"))

    @cached_property
    def repeatable(self) -> bool:
        """Whether the client can ask for the job again, with an Idempotency-Key."""
        return self.request.headers.get("idempotency-key") is not None

    @cached_property
    def no_cache(self) -> bool:
        """Whether the answer is to be computed afresh."""
        return "no-cache" in self.request.headers.get("cache-control", "").lower()

    @cached_property
    def last_event_id(self) -> str:
        """The last event that the client received; empty where it received none."""
        return self.request.headers.get("last-event-id", "").strip()

    @property
    def known_tag(self) -> str | None:
        """The If-None-Match header."""
        return self.request.headers.get("if-none-match")

    def knows(self, tag: str) -> bool:
        """Whether If-None-Match names this entity tag."""
        return etag_matches(self.known_tag, tag)
