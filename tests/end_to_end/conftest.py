"""One real `convscope serve` for the session: every process that a user has, on a data folder of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from tests.convscope.cli.launched import Launched


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A whole Convscope."""
    data: Path = tmp_path_factory.mktemp("served")
    with Launched(data, standins=False) as launched:
        yield launched


@pytest.fixture(scope="session")
def address(launched: Launched) -> str:
    """Where it listens."""
    return launched.address


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=address, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def chelsea() -> bytes:
    return png(skimage.data.chelsea())


@pytest.fixture(scope="session")
def coffee() -> bytes:
    return png(skimage.data.coffee())
