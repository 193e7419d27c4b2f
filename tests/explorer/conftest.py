"""The service alone, with the small worker of its tests, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests import browser as browsers
from tests.service.conftest import client, service, service_settings, worker

__all__ = ["client", "service", "service_settings", "worker"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with browsers.running() as browser:
        yield browser
