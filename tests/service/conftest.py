"""One service with one worker for the tests of this folder, on a server of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from convscope.settings import Settings
from tests.servers import PrivateServer
from tests.service.support import Service, Worker, png_bytes


@pytest.fixture(scope="session")
def service_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of the shared service."""
    data: Path = tmp_path_factory.mktemp("data")
    with PrivateServer() as redis_server:
        yield Settings(redis_url=redis_server.url, data=data, card_wait_s=1.0, keep_jobs_s=3600)


@pytest.fixture(scope="session")
def worker(service_settings: Settings) -> Iterator[Worker]:
    """The shared worker."""
    with Worker(service_settings) as running:
        yield running


@pytest.fixture(scope="session")
def service(service_settings: Settings, worker: Worker) -> Iterator[Service]:
    """The shared service."""
    with Service(service_settings) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[httpx2.Client]:
    """A client of the shared service."""
    with service.client() as made:
        yield made


@pytest.fixture
def image_part() -> list[tuple[str, tuple[str, bytes, str]]]:
    """A form with one image file."""
    return [("image", ("grey.png", png_bytes(), "image/png"))]
