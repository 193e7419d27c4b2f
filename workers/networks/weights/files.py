"""Files of weights, told apart by what is in them: safetensors, and what `torch.save` writes in either of its formats.

Tensors are mapped into memory, not read, so that an optimizer's state beside them costs nothing.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from workers.networks.weights import stand_ins
from workers.networks.weights.digests import file_sha256
from workers.networks.weights.refusal import refuse
from workers.networks.weights.states import find_states

_LEGACY_COPIES = 8
"""A file of torch's old format is read whole: weights, their average, two moments of an optimizer, and room."""
_SLACK_BYTES = 64 * 1024**2
_MOST_PICKLE_BYTES = 64 * 1024**2
"""Of the pickle in a file of torch, which names the tensors; a hundred thousand of them take some 10 MB."""

_UNREADABLE = (
    UnpicklingError, zipfile.BadZipFile, SafetensorError, RuntimeError, ValueError, KeyError, TypeError,
    IndexError, AttributeError, EOFError, OSError, MemoryError, OverflowError, AssertionError, RecursionError,
)  # fmt: skip
"""What the readers raise on a file that is not what it says: anything but a bug of ours in these calls."""

Format = Literal["safetensors", "torch", "legacy torch"]


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        states: state dicts by where they stand in the file (`state_dict`, `ema.module`); "" is the file itself.
        same: of tied weights that were left out, name → the name under which they are there.
        ordered: whether the entries come in the order in which they were written.
    """

    name: str
    states: Mapping[str, Mapping[str, Any]]
    same: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = True


def read_checkpoint(path: Path, expected_bytes: int, sha256: str | None = None) -> Checkpoint:
    """The state dicts of a file of weights, whatever its ending.

    Args:
        path: the file.
        expected_bytes: size of the network's weights; bounds what is read of a file that must be read whole.
        sha256: hexadecimal digest the file must have.

    Raises:
        MethodError: `weights-unavailable`, with the reason.
    """
    try:
        size = path.stat().st_size
        if sha256 is not None and (found := file_sha256(path)) != sha256.lower():
            raise refuse(f"{path.name} has SHA-256 {found}, not {sha256.lower()}")
        kind, why = recognise(path)
    except OSError as error:
        raise refuse(f"{path.name} cannot be read: {error.strerror}") from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    limit = _LEGACY_COPIES * expected_bytes + _SLACK_BYTES
    if kind == "legacy torch" and size > limit:
        raise refuse(
            f"{path.name} has {size:,} bytes in torch's old format, which is read whole; the network's weights have "
            f"{expected_bytes:,}",
            "Save it again with today's torch.save, or its state_dict alone",
        )
    if kind is None:
        raise refuse(f"{path.name} is not a readable file of weights: {why}")
    try:
        if kind == "safetensors":
            return _read_safetensors(path)
        found_states = find_states(_read_torch(path, mapped=kind == "torch"))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return Checkpoint(path.name, found_states)


def recognise(path: Path) -> tuple[Format | None, str]:
    """The format of a file of weights by its content; or None and what the file is instead.

    Raises:
        OSError, ValueError, zipfile.BadZipFile: it cannot be looked at.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors", ""
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return "legacy torch", ""
    for start, what in _OTHERS.items():
        if head.startswith(start):
            return None, what
    if head[257:262] == b"ustar":
        return None, "it is a tar archive; unpack it and name the file of weights in it"
    return None, "it is empty" if size == 0 else "it is damaged, or neither safetensors nor what torch.save writes"


_OTHERS = {
    b"\x89HDF\r\n\x1a\n": 'it is an HDF5 file; Keras 3 saves a network as .keras, for source = "keras:FILE.keras"',
    b"\x1f\x8b": "it is packed by gzip; unpack it first",
    b"BZh": "it is packed by bzip2; unpack it first",
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself: `git lfs pull` fetches it",
    b"<": "it is an HTML or XML page, not a file of weights; the download did not work",
    b"GGUF": "it is a GGUF file, whose weights are quantized",
    b"\x93NUMPY": "it is an array of numpy, not a state dict",
    b"{": "it is JSON; an index of a split checkpoint names files of weights and is none: save the weights as one file",
}
"""How other files begin, and what to do about them."""


def _kind_of_archive(path: Path) -> tuple[Format | None, str]:
    """The format of a zip archive; torch's own is one."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = {entry.filename for entry in entries}
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return None, (
            "it is a scripted program (TorchScript), which is code and not weights; save the network's state_dict(), "
            "or the network by torch.export as FILE.pt2"
        )
    if {"model.weights.h5", "config.json"} <= names:
        return None, 'it is a network of Keras; use source = "keras:FILE.keras"'
    if "archive_format" in inner | names or "serialized_exported_program.json" in names:
        return None, 'it is a program of torch.export; use source = "export:FILE.pt2"'
    pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
    if not pickles:
        return None, "it is a zip archive that torch.save did not write"
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        unpacked = sum(entry.file_size for entry in entries)
        return None, f"its parts are compressed, which torch.save never does; it unpacks to {unpacked:,} bytes"
    if pickles[0].file_size > _MOST_PICKLE_BYTES:
        return None, f"its pickle has {pickles[0].file_size:,} bytes"
    return "torch", ""


def _unreadable(path: Path, error: BaseException) -> Exception:
    """The refusal of a file that a reader failed on, with its error in one plain line."""
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__
    if isinstance(error, UnpicklingError | EOFError | IndexError | UnicodeError | zipfile.BadZipFile):
        said = f"it is damaged, or no file that torch.save wrote ({said})"
    return refuse(f"{path.name} is not a readable file of weights: {said.splitlines()[0][:200]}")


def _read_safetensors(path: Path) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())  # the library's own order changes from process to process
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
        notes = file.metadata() or {}
    # `save_model` leaves out what shares its memory with another entry, and notes which.
    same = {name: kept for name, kept in notes.items() if name not in tensors and kept in tensors}
    return Checkpoint(path.name, {"": tensors}, same, ordered=False)


def _read_torch(path: Path, *, mapped: bool) -> Any:
    """What a file of torch holds: tensors, plain containers and stand-ins."""
    # weights_only is torch's own bound on what a pickle may name; ours is narrower still, and does not refuse the file.
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=stand_ins, mmap=mapped)


def header_of_safetensors(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: name → dtype, shape and place, and `__metadata__`.

    Raises:
        ValueError: it has none.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MOST_PICKLE_BYTES:
            raise ValueError("it has no header")
        found = json.loads(file.read(length))
    if not isinstance(found, dict):
        raise ValueError("its header is no table")
    return found
