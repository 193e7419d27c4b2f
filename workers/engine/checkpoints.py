"""The states of an iterative job as safetensors bytes, with what must fit before they are used again.

The store names a checkpoint by the SHA-256 of its bytes, so the supervisor sees a flipped bit; this file sees a
checkpoint of another operation, schema or request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

SCHEMA = "1"
DTYPES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""What safetensors calls them."""


class CheckpointError(Exception):
    """These bytes are no checkpoint that this job could go on from."""


@dataclass(frozen=True)
class SavedStates:
    """Tensors as `IterativeMethod.save` gave them, the steps done, and the tile they were made in."""

    tensors: dict[str, Tensor]
    step: int
    tile: int


def request_digest(operation: str, request: Mapping[str, Any]) -> str:
    """SHA-256 of what a checkpoint belongs to."""
    text = json.dumps([operation, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def pack(tensors: Mapping[str, Tensor], *, digest: str, step: int, tile: int) -> bytes:
    """The tensors and what they belong to as safetensors bytes.

    Written here and not by safetensors, which takes twice the memory of its result while it makes it: states of many
    pictures are hundreds of MiB, and a job is admitted with one copy of them.
    """
    metadata = {"schema": SCHEMA, "request": digest, "step": str(step), "tile": str(tile)}
    header: dict[str, Any] = {"__metadata__": metadata}
    parts: list[Any] = []
    end = 0
    # Wide numbers first, so that each begins at a multiple of its width.
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name].detach().cpu().contiguous()
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy())
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def tile_of(data: bytes | bytearray | memoryview) -> int | None:
    """The tile a checkpoint was made in, from its header; None where it cannot be read."""
    try:
        return int(_metadata(data)["tile"])
    except (ValueError, KeyError, TypeError):
        return None


def unpack(data: bytes | bytearray | memoryview, *, digest: str) -> SavedStates:
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
        return SavedStates(tensors, int(metadata["step"]), int(metadata["tile"]))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error}") from error


def _metadata(data: bytes | bytearray | memoryview) -> dict[str, str]:
    length = int.from_bytes(bytes(data[:8]), "little")
    found: dict[str, str] = json.loads(bytes(data[8 : 8 + length]))["__metadata__"]
    return found
