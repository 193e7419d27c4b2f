"""Uploads that are arrays, for networks of other planes or of more than eight bits: `.npy` and safetensors files.

Shape and element type are the file's; which numbers are black and white is a range, wished, given in the file, or of
the element type. Standard library and numpy; nothing is unpickled.
"""

from __future__ import annotations

import io
import json
import math
import re
import tokenize
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convscope.protocol.results import read_safetensors_header
from convscope.store.images import Pixels, Planes
from service.images.image_formats import unreadable, unsupported

NPY, SAFETENSORS = "NPY", "SAFETENSORS"
MOST_PLANES = 64
DTYPES = ("uint8", "uint16", "int16", "int32", "float16", "float32", "float64")

Range = tuple[float, float]


@dataclass(frozen=True)
class ArrayFile:
    """An array as a file holds it.

    Args:
        values: H×W×C.
        layout: how its dimensions were read.
        range: which numbers are 0 and 1, where the file says so.
    """

    values: npt.NDArray[Any]
    layout: str
    range: Range | None


def is_array(data: bytes) -> str | None:
    """The format of a file that holds an array, by its first bytes; None for any other."""
    if data.startswith(b"\x93NUMPY"):
        return NPY
    length = int.from_bytes(data[:8], "little") if len(data) > 9 else 0
    return SAFETENSORS if data[8:9] == b"{" and 2 <= length <= len(data) - 8 else None


def read_array(data: bytes, kind: str) -> ArrayFile:
    """The one array of a file.

    Raises:
        ProblemError: `unreadable-image` for a broken file, `unsupported-format` for an array that is no image.
    """
    values, said = _read_safetensors(data) if kind == SAFETENSORS else (_read_npy(data), {})
    return ArrayFile(*_in_order(values, said.get("layout")), _range_of(said))


def parse_range(text: str) -> Range:
    """`LOW,HIGH` as numbers.

    Raises:
        ValueError: it is something else, or not LOW < HIGH.
    """
    match = re.fullmatch(r"\s*([^,\s]+)\s*,\s*([^,\s]+)\s*", text)
    if match is None:
        raise ValueError(f"a range is LOW,HIGH, two numbers, not {text[:40]!r}")
    low, high = float(match[1]), float(match[2])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"a range is LOW,HIGH with LOW below HIGH, not {text[:40]!r}")
    return low, high


def to_planes(file: ArrayFile, wished: Range | None) -> tuple[Planes, list[str]]:
    """The array as float32 H×W×C in [0, 1], and notes of what was done to it.

    Raises:
        ProblemError: `unreadable-image` where not all numbers are finite.
    """
    values = file.values
    if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
        raise unreadable("The array has numbers that are not finite.")
    found = float(values.min()), float(values.max())
    low, high = wished or file.range or _own_range(values.dtype, found)
    planes = ((values.astype(np.float64) - low) / (high - low)).clip(0.0, 1.0).astype(np.float32)
    height, width, count = values.shape
    notes = [
        f"an array of {values.dtype}, read as {file.layout}: {count} plane{'s' * (count > 1)} of {height}×{width}",
        f"values from {found[0]:g} to {found[1]:g} found; {low:g} to {high:g} read as 0 to 1",
    ]
    if found[0] < low or found[1] > high:
        notes.append("values beyond that range clipped")
    return np.ascontiguousarray(planes), notes


def draw(planes: Planes) -> tuple[Pixels, str]:
    """A picture of planes (float32 H×W×C in [0, 1]), uint8 H×W×3, and what it shows."""
    count = planes.shape[2]
    shown = planes[:, :, :3] if count >= 3 else planes[:, :, :1].repeat(3, axis=2)
    what = "plane 1 as grey" if count < 3 else "planes 1 to 3 as red, green and blue"
    pixels: Pixels = np.ascontiguousarray(np.floor(shown * 255.0 + 0.5).astype(np.uint8))
    return pixels, f"drawn as {what}"


def _own_range(dtype: np.dtype[Any], found: Range) -> Range:
    """Of integers the range of their type, of floats 0 to 1 where they keep to it, else what was found."""
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        if dtype.itemsize <= 2:
            return float(limits.min), float(limits.max)
    elif found[0] >= 0.0 and found[1] <= 1.0:
        return 0.0, 1.0
    return found if found[0] < found[1] else (found[0], found[0] + 1.0)


def _read_npy(data: bytes) -> npt.NDArray[Any]:
    buffer = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(buffer)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = reader(buffer, max_header_size=4096)
        _check(dtype.name if dtype.names is None and not dtype.hasobject else "object", shape)
        count = math.prod(shape)
        if count * dtype.itemsize != len(data) - buffer.tell():
            raise unreadable("The .npy file is damaged or ends too early.")
        values = np.frombuffer(data, dtype, count, buffer.tell())
    except (ValueError, KeyError, TypeError, SyntaxError, OverflowError, tokenize.TokenError) as error:
        raise unreadable("The .npy file is damaged, or of a version that nobody writes.") from error
    return values.reshape(shape, order="F" if fortran else "C")


def _read_safetensors(data: bytes) -> tuple[npt.NDArray[Any], dict[str, str]]:
    try:
        arrays = read_safetensors_header(data)
        length = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unreadable("The safetensors file is damaged, or has elements of a kind that is no image's.") from error
    if len(arrays) != 1:
        raise unsupported(f"This is a safetensors file with {len(arrays)} arrays; an image is one")
    (stored,) = arrays.values()
    _check(stored.dtype, stored.shape)
    dtype = np.dtype(stored.dtype).newbyteorder("<")
    if stored.nbytes != math.prod(stored.shape) * dtype.itemsize or stored.offset + stored.nbytes > len(data):
        raise unreadable("The safetensors file is damaged or ends too early.")
    values = np.frombuffer(data, dtype, math.prod(stored.shape), stored.offset).reshape(stored.shape)
    return values, {str(key): str(value) for key, value in said.items()} if isinstance(said, dict) else {}


def _check(dtype: str, shape: tuple[int, ...]) -> None:
    if dtype not in DTYPES:
        raise unsupported(f"This is an array of {dtype}, and an image's numbers are {', '.join(DTYPES)}")
    if len(shape) not in (2, 3) or 0 in shape:
        sides = "×".join(map(str, shape)) or "one number"
        raise unsupported(f"This is an array of {sides}, and an image is H×W, H×W×C or C×H×W")


def _in_order(values: npt.NDArray[Any], layout: str | None) -> tuple[npt.NDArray[Any], str]:
    """The array as H×W×C, and how it was read: the planes are the shorter of the first and the last dimension."""
    if values.ndim == 2:
        return values[:, :, None], "H×W"
    named = {"HWC": False, "H×W×C": False, "CHW": True, "C×H×W": True}.get((layout or "").upper())
    first = named if named is not None else values.shape[0] < values.shape[2]
    count = values.shape[0] if first else values.shape[2]
    if count > MOST_PLANES:
        raise unsupported(f"This is an array of {count} planes, and {MOST_PLANES} are allowed")
    return (values.transpose(1, 2, 0), "C×H×W") if first else (values, "H×W×C")


def _range_of(said: dict[str, str]) -> Range | None:
    try:
        return parse_range(said["range"]) if "range" in said else None
    except ValueError as error:
        raise unreadable(f"The safetensors file's metadata: {error}.") from error
