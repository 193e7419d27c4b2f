"""What routes ask for before they begin."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from service.app import routers
from service.dependencies import no_repeats


def test_nothing_is_asked_of_a_thread_before_a_route_begins() -> None:
    """FastAPI runs a dependency that is a plain function in a thread, which costs more than most of them do."""

    def plain(dependant: Dependant) -> Iterator[str]:
        for each in dependant.dependencies:
            if not (inspect.iscoroutinefunction(each.call) or inspect.isclass(each.call)):
                yield str(each.call)
            yield from plain(each)

    routes = [route for router in routers() for route in router.routes if isinstance(route, APIRoute)]
    assert routes and [found for route in routes for found in plain(route.dependant)] == []
    assert inspect.iscoroutinefunction(no_repeats), "which every route has from the application"
