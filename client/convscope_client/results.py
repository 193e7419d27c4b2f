"""Bytes of results as arrays and pictures, and how a result is drawn. Imports nothing of ours."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import quote

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Media: TypeAlias = Literal["application/json", "image/png", "application/vnd.safetensors"]
"""What a result can be read as."""
JSON: Final = "application/json"
PNG: Final = "image/png"
SAFETENSORS: Final = "application/vnd.safetensors"
NPY: Final = "application/x-npy"
SUFFIXES: Mapping[str, Media] = {".png": PNG, ".json": JSON, ".safetensors": SAFETENSORS}
"""What a result can be saved as, by how the file's name ends."""


def media_of(path: Path) -> Media:
    """The media type that a file's name asks for.

    Raises:
        ValueError: a result cannot be saved under such a name.
    """
    media = SUFFIXES.get(path.suffix.lower())
    if media is None:
        raise ValueError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    return media


def array_of(npy: bytes) -> NDArray[Any]:
    """The array of a .npy file."""
    found: NDArray[Any] = np.load(io.BytesIO(npy), allow_pickle=False)
    return found


def arrays_of(safetensors: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file."""
    from safetensors.numpy import load

    return load(safetensors)


def picture_of(png: bytes) -> Image:
    """The picture of a PNG file, read whole."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png))
    picture.load()
    return picture


def which_jobs(state: str | None, operation: str | None, labels: Mapping[str, str] | None) -> dict[str, str]:
    """The query for jobs of a state, an operation, with labels."""
    given = {
        "state": state,
        "operation": operation,
        **{f"label.{name}": value for name, value in (labels or {}).items()},
    }
    return {name: value for name, value in given.items() if value is not None}


def job_path(job_id: str, *more: str) -> str:
    """The address of a job, or of something of it."""
    return "/".join(["/v1/jobs", quote(job_id, safe=""), *map(quote, more)])
