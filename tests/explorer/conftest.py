"""The service alone, with the small worker of its tests, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests import browser as browsers
from tests.service.conftest import client, service, service_settings, worker

__all__ = ["client", "service", "service_settings", "worker"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for each file: while it runs, an event loop of Playwright's does, beside which no other test's can."""
    with browsers.running() as browser:
        yield browser
