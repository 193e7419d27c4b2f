"""A stored result: one safetensors artifact with every array, one JSON manifest that says what is in it.

The manifest's artifact key is what a job record carries. Reading one array is a byte range, never the whole result.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class StoredArray(BaseModel):
    """Where one array lies in the safetensors artifact; C order, little endian."""

    model_config = ConfigDict(frozen=True)

    shape: tuple[int, ...]
    dtype: str = Field(description="NumPy's name of the element type.")
    offset: int = Field(description="First byte in the artifact.")
    nbytes: int


class Provenance(BaseModel):
    """What made a result, enough to make it again."""

    model: str
    weights_sha256: str | None = None
    code: str
    torch: str
    device: str
    precision: str
    tile: int = 1
    seed: int = 0
    libraries: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(
        default_factory=list, description="What of the network's behaviour a reader must know, a sentence each."
    )


class StoredImage(BaseModel):
    """An image of the request, as the result needs it for overlays."""

    id: str | None = None
    pixels: str = Field(description="Artifact key of the decoded image, a uint8 H×W×3 .npy file.")
    width: int
    height: int


class Manifest(BaseModel):
    """Everything about a result but its numbers."""

    operation: str
    request: dict[str, Any]
    facts: dict[str, Any]
    arrays: dict[str, StoredArray] = Field(default_factory=dict)
    arrays_key: str | None = Field(None, description="Artifact key of the safetensors file.")
    images: list[StoredImage] = Field(default_factory=list)
    provenance: Provenance
    computed_ms: float = 0.0


def read_safetensors_header(data: bytes | memoryview) -> dict[str, StoredArray]:
    """The arrays of a safetensors file from its first bytes, with offsets counted from the start of the file.

    Raises:
        ValueError: not a safetensors file, or an element type without a NumPy name.
    """
    length = int.from_bytes(bytes(data[:8]), "little")
    if length <= 0 or 8 + length > len(data):
        raise ValueError("not a safetensors file")
    header = json.loads(bytes(data[8 : 8 + length]))
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            raise ValueError(f"array {name!r} has dtype {entry['dtype']}, which has no NumPy name")
        begin, end = entry["data_offsets"]
        arrays[name] = StoredArray(
            shape=tuple(entry["shape"]),
            dtype=SAFETENSORS_DTYPES[entry["dtype"]],
            offset=8 + length + begin,
            nbytes=end - begin,
        )
    return arrays
