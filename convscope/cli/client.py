"""A running service as the command line reaches it, by the same client as everybody, and its refusals in words."""

from __future__ import annotations

from collections.abc import Iterator

from convscope.cli.flags import Chosen
from convscope.cli.serve import address_of
from convscope.protocol.problems import PROBLEMS
from convscope_client import Client, ConvscopeError, ProblemError, UnreachableError


def client_of(chosen: Chosen) -> Client:
    """A client of the service that the settings name."""
    settings = chosen.settings
    return Client(settings.url or address_of(settings.host, settings.port), settings.api_key)


def lines_of(error: ConvscopeError) -> Iterator[str]:
    """What went wrong, for a person to read: what, where, and what to do."""
    if isinstance(error, UnreachableError):
        yield f"{error}; `convscope serve` starts one, --url names another"
    elif not isinstance(error, ProblemError):
        yield str(error)
    else:
        yield from _problem_lines(error)


def _problem_lines(error: ProblemError) -> Iterator[str]:
    yield f"{error.title} ({error.name or error.status})"
    if error.detail:
        yield error.detail
    for place in error.errors:
        yield f"  {place.get('pointer', '')}: {place.get('detail', '')}"
    known = PROBLEMS.get(error.name)
    if known is not None:
        yield known.advice
    for label, value in (("request", error.request_id), ("job", error.job_id)):
        if value:
            yield f"{label} {value}"
