"""What routes ask for: a call, or the context alone where nobody has to say who calls.

A route module lies in service/routes, defines `router` and is found by that name; it takes these as dependencies:

    async def read(call: CallDependency) -> …

They are coroutines, though none waits: FastAPI would run a plain function in a thread, at each request.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, cast

from fastapi import Depends, Request

from convscope.protocol.problems import FieldError, invalid_request
from service.call import Call
from service.context import Context

_READING = frozenset({"GET", "HEAD"})
_NETWORKS = "/v1/models/"


async def context(request: Request) -> Context:
    """The parts of the running service."""
    return cast(Context, request.app.state.context)


ContextDependency = Annotated[Context, Depends(context)]


async def call(request: Request, context: ContextDependency) -> Call:
    """The call of a request; its caller by the key in the Authorization header, `anonymous` where there are no keys.

    To read needs the scope `read`, all else `submit`; to bring networks `models` instead, which those routes check.

    Raises:
        ProblemError: `unauthenticated`, `forbidden`.
    """
    made = Call(request, context, await context.callers.identify(request.headers.get("authorization")))
    if request.method in _READING:
        made.check_scope("read")
    elif request.method == "POST" or not request.url.path.startswith(_NETWORKS):
        made.check_scope("submit")
    return made


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


CallDependency = Annotated[Call, Depends(call)]
