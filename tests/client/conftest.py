"""One service with one worker for the tests of this folder, as those of the service have it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from convscope_client import Client
from tests.service.conftest import service, service_settings, worker
from tests.service.support import Service

__all__ = ["client", "service", "service_settings", "worker"]


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """A blocking client of the shared service."""
    with Client(service.url) as made:
        yield made
