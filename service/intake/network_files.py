"""Files of networks that callers send, looked through in bounds before anybody keeps or loads them.

Safetensors: a header that describes every byte once. A .pt2 of torch.export: a zip archive whose parts are as they are,
unpacked, and together no larger than the file. What its program says is looked through by the worker, without torch's
own reader of pickles.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
from typing import Any

from convscope.protocol.problems import ProblemError, invalid_field
from convscope.store.uploaded_networks import Format
from service.intake.bodies import MIB
from service.intake.spool import SpoolView
from service.intake.zip_directory import directory_size

MOST_HEADER_BYTES = 16 * MIB
"""A hundred thousand tensors take ten."""
MOST_DIRECTORY_BYTES = 16 * MIB
MOST_PARTS = 100_000
MOST_PROGRAM_BYTES = 64 * MIB
MOST_DIMENSIONS = 16
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
_PROGRAM = re.compile(r"[^/]+/models/[^/]+\.json")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")


def check_network_file(view: SpoolView) -> Format:
    """The format of a file; reads the disk, so not for the event loop.

    Raises:
        ProblemError: `invalid-request`: it is neither safetensors nor a .pt2, or not within bounds; saying why.
    """
    head = view.read(9) or b""
    try:
        if head[:4] in _ZIP:
            _check_program(view)
            return "pt2"
        _check_safetensors(view, head)
    except _Refused as error:
        raise invalid_field("/file", f"The file {error}.") from error
    return "safetensors"


class _Refused(Exception):  # noqa: N818  (what is wrong with a file, as the end of a sentence)
    pass


def _size_of(view: SpoolView) -> int:
    size = view.seek(0, io.SEEK_END)
    view.seek(0)
    return size


def _check_safetensors(view: SpoolView, head: bytes) -> None:
    size = _size_of(view)
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{":
        what = (
            "a pickle of torch.save" if head.startswith(b"\x80") else "neither safetensors nor a .pt2 of torch.export"
        )
        raise _Refused(
            f"is {what}; save the network's state_dict() with safetensors.torch.save_file, or export the network"
        )
    if length > min(size - 8, MOST_HEADER_BYTES):
        raise _Refused(
            f"claims a header of {length:,} bytes; the file has {size:,}, and {MOST_HEADER_BYTES:,} are allowed"
        )
    view.seek(8)
    try:
        header = json.loads((view.read(length) or b"").decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Refused(f"has a header that is not JSON: {str(error)[:100]}") from error
    if not isinstance(header, dict) or len(header) > MOST_PARTS:
        raise _Refused("has no header of tensors")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        raise _Refused("has a __metadata__ that is not made of texts")
    spans = sorted(_span(name, told) for name, told in header.items())
    at = 0
    for start, end, name in spans:
        if start != at:
            raise _Refused(f"has {'a gap' if start > at else 'an overlap'} before the tensor {name[:80]!r}")
        at = end
    if at != size - 8 - length:
        raise _Refused(f"holds {size - 8 - length:,} bytes of tensors, and its header describes {at:,}")
    if not spans:
        raise _Refused("holds no tensor")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found


def _span(name: str, told: Any) -> tuple[int, int, str]:
    """First byte, end and name of a tensor, whose shape and type must fill just that."""
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise _Refused(f"describes {name[:80]!r} by something else than dtype, shape and data_offsets")
    shape, offsets, bits = told["shape"], told["data_offsets"], _BITS.get(str(told["dtype"]))
    if bits is None:
        raise _Refused(f"has {name[:80]!r} in the type {str(told['dtype'])[:20]!r}; known are {', '.join(_BITS)}")
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if len(numbers) > MOST_DIMENSIONS + 2 or not all(type(one) is int and 0 <= one < 2**48 for one in numbers):
        raise _Refused(f"gives {name[:80]!r} a shape or a place that is none")
    if len(offsets) != 2 or (offsets[1] - offsets[0]) * 8 != math.prod(shape) * bits:
        raise _Refused(f"gives {name[:80]!r} other bytes than its shape and type take")
    return offsets[0], offsets[1], name


def _check_program(view: SpoolView) -> None:
    size = _size_of(view)
    try:
        if directory_size(view) > MOST_DIRECTORY_BYTES:
            raise _Refused(f"has a zip directory of more than {MOST_DIRECTORY_BYTES // MIB} MiB")
        archive = zipfile.ZipFile(io.BufferedReader(view))
        infos = archive.infolist()
    except ProblemError as error:
        raise _Refused(f"is no whole archive: {error.detail.rstrip('.').lower()}") from error
    except (zipfile.BadZipFile, struct.error, RuntimeError, ValueError, OverflowError, OSError) as error:
        raise _Refused("is a damaged zip archive") from error
    if len(infos) > MOST_PARTS:
        raise _Refused(f"has {len(infos):,} parts; {MOST_PARTS:,} are allowed")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        raise _Refused("has packed or encrypted parts, which torch.export never writes")
    if sum(info.file_size for info in infos) > size:
        raise _Refused("has parts that take more bytes than the file has")
    names = {info.filename: info for info in infos}
    if len(names) < len(infos):
        raise _Refused("has two parts of one name")
    programs = [name for name in names if _PROGRAM.fullmatch(name)]
    if len(programs) != 1:
        raise _Refused(
            f"holds {len(programs)} programs of torch.export, not one; torch.export.save writes a .pt2, and torch.save "
            "does not"
        )
    if names[programs[0]].file_size > MOST_PROGRAM_BYTES:
        raise _Refused(f"holds a program of more than {MOST_PROGRAM_BYTES // MIB} MiB beside its weights")
