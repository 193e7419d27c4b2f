"""What routes ask for: the context of the service, and who is calling. Imports no route.

A route module lies in service/routes, defines `router` and is found by that name; it takes these as dependencies:

    async def read(context: ContextDependency, caller: CallerDependency) -> …
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, cast

from fastapi import Depends, Request

from convscope.protocol.problems import FieldError
from service.context import Context
from service.problems import invalid_request


def context(request: Request) -> Context:
    """The parts of the running service."""
    return cast(Context, request.app.state.context)


def caller(request: Request) -> str:
    """The name of the caller, by the key in its Authorization header; `anonymous` where no keys are configured.

    Raises:
        ProblemError: `unauthenticated`.
    """
    return context(request).callers.identify(request.headers.get("authorization"))


def no_repeats(request: Request) -> None:
    """Every query parameter takes one value.

    Raises:
        ProblemError: `invalid-request` for one that is given twice.
    """
    counts = Counter(name for name, _ in request.query_params.multi_items())
    errors = [
        FieldError(f"/query/{name[:80]}", "given more than once, and takes one value")
        for name, count in counts.items()
        if count > 1
    ]
    if errors:
        raise invalid_request(errors[:32])


ContextDependency = Annotated[Context, Depends(context)]
CallerDependency = Annotated[str, Depends(caller)]
