"""What routes ask for: the context of the service, and who is calling. Imports no route.

A route module lies in service/routes, defines `router` and is found by that name; it takes these as dependencies:

    async def read(context: ContextDependency, caller: CallerDependency) -> …
"""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from service.context import Context


def context(request: Request) -> Context:
    """The parts of the running service."""
    return cast(Context, request.app.state.context)


def caller(request: Request) -> str:
    """The name of the caller, by the key in its Authorization header; `anonymous` where no keys are configured.

    Raises:
        ProblemError: `unauthenticated`.
    """
    return context(request).callers.identify(request.headers.get("authorization"))


ContextDependency = Annotated[Context, Depends(context)]
CallerDependency = Annotated[str, Depends(caller)]
