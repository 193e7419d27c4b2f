"""The states of an iterative job as safetensors bytes, with what must fit before they are used again.

The store names a checkpoint by the SHA-256 of its bytes, so the supervisor sees a flipped bit; this file sees a
checkpoint of another operation, schema or request.

Import rule: torch and safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor

SCHEMA = "1"


class CheckpointError(Exception):
    """These bytes are no checkpoint that this job could go on from."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors as `IterativeMethod.save` gave them, the steps done, and the tile they were made in."""

    tensors: dict[str, Tensor]
    step: int
    tile: int


def request_digest(operation: str, request: Mapping[str, Any]) -> str:
    """SHA-256 of what a checkpoint belongs to."""
    text = json.dumps([operation, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def pack(tensors: Mapping[str, Tensor], *, digest: str, step: int, tile: int) -> bytes:
    """The tensors and what they belong to as safetensors bytes."""
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"schema": SCHEMA, "request": digest, "step": str(step), "tile": str(tile)}
    return safetensors.torch.save(copies, metadata)


def tile_of(data: bytes | bytearray | memoryview) -> int | None:
    """The tile a checkpoint was made in, from its header; None where it cannot be read."""
    try:
        return int(_metadata(data)["tile"])
    except (ValueError, KeyError, TypeError):
        return None


def unpack(data: bytes | bytearray | memoryview, *, digest: str) -> Checkpoint:
    """The checkpoint in these bytes.

    Raises:
        CheckpointError: they are damaged, of another schema, or of another request.
    """
    whole = bytes(data)
    try:
        tensors = safetensors.torch.load(whole)
        metadata = _metadata(whole)
        if metadata["schema"] != SCHEMA or metadata["request"] != digest:
            raise CheckpointError("the checkpoint is of another schema or another request")
        return Checkpoint(tensors, int(metadata["step"]), int(metadata["tile"]))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error}") from error


def _metadata(data: bytes | bytearray | memoryview) -> dict[str, str]:
    length = int.from_bytes(bytes(data[:8]), "little")
    found: dict[str, str] = json.loads(bytes(data[8 : 8 + length]))["__metadata__"]
    return found
