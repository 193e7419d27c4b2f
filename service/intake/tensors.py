"""Images as the inference protocols send them: tensors of the Open Inference Protocol, instances of KServe's version 1.

Each becomes an image file, which is then decoded and kept as any upload. Knows numbers and bytes, nothing of HTTP.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import struct
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.requests import StrictModel
from convscope.protocol.results import StoredArray
from service.results.arrays import safetensors_header

IMAGE = "image"
"""Name of the one input that every network has."""
_LENGTH_BYTES = 4
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}


class InputParameters(StrictModel):
    """What may be said of an input."""

    binary_data_size: int | None = Field(None, ge=0, description="Bytes of the tensor behind the JSON.")


class InputTensor(StrictModel):
    """Images as one tensor: files (BYTES) or pixels (UINT8, FP32)."""

    name: Literal["image"]
    shape: list[Annotated[int, Field(ge=1, le=2**31)]] = Field(
        min_length=1, max_length=4, description="[N] of BYTES, [N, H, W, C] of numbers."
    )
    datatype: Literal["BYTES", "UINT8", "FP32"] = Field(
        description="BYTES: image files, in JSON as base64; UINT8: pixels, three of them sRGB; FP32: planes in [0, 1]."
    )
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = Field(None, description="The values, flat or nested; not with `binary_data_size`.")

    @property
    def count(self) -> int:
        """How many images it has."""
        return self.shape[0]


def image_files(tensor: InputTensor, raw: bytes | None, pointer: str) -> list[bytes]:
    """The image files of a tensor.

    Args:
        tensor: as the request has it.
        raw: its bytes behind the JSON, where they are there: little endian, C order; of BYTES each file behind its
            length in four bytes (https://github.com/kserve/open-inference-protocol, binary data extension).
        pointer: where it stands in the request.

    Raises:
        ProblemError: `invalid-request`.
    """
    if (raw is None) == (tensor.data is None):
        raise invalid_field(pointer, "a tensor has either `data` or its bytes behind the JSON (`binary_data_size`)")
    if tensor.datatype == "BYTES":
        if math.prod(tensor.shape) != tensor.count:
            raise invalid_field(f"{pointer}/shape", "image files are a tensor of shape [N]")
        files = _texts(tensor, pointer) if raw is None else _lengths(raw, pointer)
        if len(files) != tensor.count:
            raise invalid_field(f"{pointer}/data", f"the shape says {tensor.count} image files; here are {len(files)}")
        return files
    if len(tensor.shape) != 4:
        raise invalid_field(f"{pointer}/shape", "pixels are a tensor of shape [N, H, W, C]")
    numbers = _numbers(tensor, pointer) if raw is None else _raw_numbers(tensor, raw, pointer)
    if tensor.datatype == "FP32" and not (numbers.min() >= 0.0 and numbers.max() <= 1.0):
        detail = "planes of FP32 are numbers from 0 to 1; the network's own mean and deviation are applied here"
        raise invalid_field(f"{pointer}/data", detail)
    return [array_file(one) for one in numbers]


def instance_file(instance: object, pointer: str) -> bytes:
    """The image file of an instance: {"b64": …}, {"image_bytes": {"b64": …}}, or H×W×C integers from 0 to 255.

    Raises:
        ProblemError: `invalid-request`.
    """
    if isinstance(instance, dict) and set(instance) == {"image_bytes"}:
        instance, pointer = instance["image_bytes"], f"{pointer}/image_bytes"
    if isinstance(instance, dict) and set(instance) == {"b64"}:
        return _base64(instance["b64"], f"{pointer}/b64")
    if isinstance(instance, list):
        try:
            numbers = np.array(instance)
        except ValueError as error:
            raise invalid_field(pointer, "rows of different lengths are no image") from error
        if numbers.ndim == 3 and numbers.dtype.kind == "i" and numbers.min() >= 0 and numbers.max() <= 255:
            return array_file(numbers.astype(np.uint8))
    detail = 'an instance is {"b64": FILE}, {"image_bytes": {"b64": FILE}}, or rows of pixels, H×W×C, integers 0 to 255'
    raise invalid_field(pointer, detail)


def array_file(pixels: npt.NDArray[Any]) -> bytes:
    """An image file of H×W×C numbers: a bitmap of three 8-bit planes, else an array with its layout and range."""
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "BMP")
        return buffer.getvalue()
    stored = StoredArray(shape=pixels.shape, dtype=pixels.dtype.name, offset=0, nbytes=pixels.nbytes)
    white = "255" if pixels.dtype == np.uint8 else "1"
    head = safetensors_header({IMAGE: stored}, {"layout": "HWC", "range": f"0,{white}"})
    return head + np.ascontiguousarray(pixels).tobytes()


def _texts(tensor: InputTensor, pointer: str) -> list[bytes]:
    texts: list[Any] = []
    for number, text in enumerate(tensor.data or ()):
        alone = text[0] if isinstance(text, list) and len(text) == 1 else text
        texts.append(_base64(alone, f"{pointer}/data/{number}"))
    return texts


def _base64(text: object, pointer: str) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_field(pointer, "not base64") from error
    raise invalid_field(pointer, "an image file in JSON is a text in base64")


def _lengths(raw: bytes, pointer: str) -> list[bytes]:
    """The elements of a BYTES tensor, each behind its length."""
    files, at = [], 0
    while at + _LENGTH_BYTES <= len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        at += _LENGTH_BYTES + length
        files.append(raw[at - length : at])
    if at != len(raw):
        raise invalid_field(pointer, "its bytes end within an element; each is its length in four bytes, then itself")
    return files


def _numbers(tensor: InputTensor, pointer: str) -> npt.NDArray[Any]:
    try:
        numbers = np.array(tensor.data).reshape(tensor.shape)
    except ValueError as error:
        raise invalid_field(f"{pointer}/data", f"the values do not fill the shape {tensor.shape}") from error
    whole = tensor.datatype == "UINT8"
    if numbers.dtype.kind not in ("i" if whole else "if") or (whole and not 0 <= numbers.min() <= numbers.max() <= 255):
        raise invalid_field(f"{pointer}/data", f"{tensor.datatype} takes {'integers 0 to 255' if whole else 'numbers'}")
    return numbers.astype(_DTYPES[tensor.datatype])


def _raw_numbers(tensor: InputTensor, raw: bytes, pointer: str) -> npt.NDArray[Any]:
    dtype = _DTYPES[tensor.datatype]
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(raw) != expected:
        detail = f"a tensor of {tensor.datatype} {tensor.shape} has {expected} bytes; here are {len(raw)}"
        raise invalid_field(f"{pointer}/parameters/binary_data_size", detail)
    return np.frombuffer(raw, dtype).reshape(tensor.shape)


def cut(raw: bytes, tensors: list[InputTensor]) -> list[bytes | None]:
    """What stands behind the JSON, for each tensor its own bytes, None where it has none there.

    Raises:
        ProblemError: `malformed-body`, where there is more or less than the tensors say.
    """
    sizes = [tensor.parameters.binary_data_size for tensor in tensors]
    announced = sum(size or 0 for size in sizes)
    if announced != len(raw):
        detail = f"The inputs announce {announced} bytes behind the JSON, and there are {len(raw)}."
        raise ProblemError("malformed-body", detail)
    parts: list[bytes | None] = []
    at = 0
    for size in sizes:
        parts.append(None if size is None else raw[at : at + size])
        at += size or 0
    return parts
