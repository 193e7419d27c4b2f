"""The browser, and pages in it on which nothing went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser

from tests import browser as browsers
from tests.browser import Visit

Visitor = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file: while it runs, an event loop of Playwright's does, beside which no other test's can."""
    with browsers.running() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visitor]:
    """Makes visits; at the end nothing may have gone wrong on any page."""
    made: list[Visit] = []

    def make(at: str = address, **context: Any) -> Visit:
        made.append(Visit(browser, at, **{"viewport": {"width": 1280, "height": 800}, **context}))
        return made[-1]

    yield make
    troubles = [trouble for one in made for trouble in one.troubles]
    for one in made:
        one.close()
    assert not troubles


@pytest.fixture(scope="session")
def cat(client: httpx2.Client, chelsea: bytes) -> str:
    """The id of the cat's photograph."""
    made = client.post("/v1/images", files={"image": ("cat.png", chelsea, "image/png")})
    identity: str = made.json()["id"]
    return identity
