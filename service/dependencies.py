"""What routes ask for: the context of the service, and who is calling.

A route module lies in service/routes, defines `router` and is found by that name; it takes these as dependencies:

    async def read(context: ContextDependency, caller: CallerDependency) -> …

They are coroutines, though none waits: FastAPI would run a plain function in a thread, at each request.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, cast

from fastapi import Depends, Request

from convscope.protocol.problems import FieldError
from service.context import Context
from service.http.problems import invalid_request


async def context(request: Request) -> Context:
    """The parts of the running service."""
    return cast(Context, request.app.state.context)


ContextDependency = Annotated[Context, Depends(context)]


async def caller(request: Request, context: ContextDependency) -> str:
    """The name of the caller, by the key in its Authorization header; `anonymous` where no keys are configured.

    Raises:
        ProblemError: `unauthenticated`.
    """
    return context.callers.identify(request.headers.get("authorization"))


async def no_repeats(request: Request) -> None:
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


CallerDependency = Annotated[str, Depends(caller)]
