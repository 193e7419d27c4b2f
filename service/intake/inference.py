"""Bodies of the inference protocols: what is asked for, and its images, decoded and kept.

The Open Inference Protocol (version 2, https://github.com/kserve/open-inference-protocol) with its extension for binary
data, and the explainer of KServe's version 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import StrictModel
from convscope.store.images import ImageRecord
from service.call import Call
from service.http.problems import from_validation
from service.intake import bodies
from service.intake.checking import checked
from service.intake.forms import read_json
from service.intake.image_forms import keep_upload
from service.intake.submission import TEXT_BYTES
from service.intake.tensors import InputTensor, cut, image_files, instance_file

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Length of the JSON where bytes of tensors follow it."""
MOST_NUMBERS = 1 << 20
"""Values of a request, most of them pixels: six images of 224×224 in colour. Bytes behind the JSON are not counted."""
_FILE_BYTES = 3
"""Memory for each byte behind the JSON: as it came, as a tensor, as a file."""
_TYPES = ("application/json", "application/octet-stream")

Model = TypeVar("Model", bound=BaseModel)
OutputName = Annotated[str, Field(min_length=1, max_length=200)]


class OutputParameters(StrictModel):
    """What may be said of an output."""

    binary_data: bool | None = Field(None, description="Answer it as bytes behind the JSON.")


class OutputWish(StrictModel):
    """An output that is asked for."""

    name: OutputName = Field(description="`logits`, or a layer.")
    parameters: OutputParameters = OutputParameters()


class InferParameters(StrictModel):
    """What may be said of a request as a whole."""

    precision: Literal["exact", "fast"] = "exact"
    binary_data_output: bool = Field(False, description="Answer all outputs as bytes behind the JSON.")


class InferRequest(StrictModel):
    """An inference request of the Open Inference Protocol."""

    id: str | None = Field(None, max_length=200)
    model_name: str | None = Field(None, max_length=200, description="Not read; the address names the network.")
    parameters: InferParameters = InferParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[OutputWish] = Field(
        default_factory=list, max_length=64, description="Without any, the network's answer."
    )


class ExplainRequest(StrictModel):
    """A request of KServe's version 1 to an explainer."""

    instances: list[Any] = Field(
        min_length=1,
        max_length=64,
        description='Images: {"b64": FILE}, {"image_bytes": {"b64": FILE}}, or rows of pixels, H×W×C, 0 to 255.',
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="`operation` (`cam` unless given, `saliency`, `occlusion`, `deconv`) and its own properties.",
    )


async def read_inference(call: Call) -> tuple[InferRequest, list[ImageRecord]]:
    """An inference request and its images.

    Raises:
        ProblemError: of the body, the schema and the images.
    """
    async with await bodies.read_raw(call.request, bodies.BodyLimits.of(call.context.settings)) as form:
        _check_type(call)
        (whole,) = form.files
        length = _json_length(call, whole.size)
        async with call.context.memory.body(TEXT_BYTES * length + _FILE_BYTES * (whole.size - length)):
            body = await form.read(whole)
            asked = await checked(length, lambda: _read(InferRequest, body[:length]))
            raws = cut(body[length:], asked.inputs)
            files = await checked(
                whole.size,
                lambda: [
                    file
                    for number, (tensor, raw) in enumerate(zip(asked.inputs, raws, strict=True))
                    for file in image_files(tensor, raw, f"/inputs/{number}")
                ],
            )
            return asked, await _kept(call, files)


async def read_explanation(call: Call) -> tuple[ExplainRequest, list[ImageRecord]]:
    """A request to explain, and its images.

    Raises:
        ProblemError: of the body, the schema and the images.
    """
    async with await bodies.read_raw(call.request, bodies.BodyLimits.of(call.context.settings)) as form:
        _check_type(call)
        (whole,) = form.files
        async with call.context.memory.body(TEXT_BYTES * whole.size):
            body = await form.read(whole)
            asked = await checked(whole.size, lambda: _read(ExplainRequest, body))
            files = await checked(
                whole.size,
                lambda: [instance_file(one, f"/instances/{number}") for number, one in enumerate(asked.instances)],
            )
            return asked, await _kept(call, files)


def _check_type(call: Call) -> None:
    if call.body_type not in ("", *_TYPES):
        detail = f"It is sent as {' or '.join(_TYPES)}, not {call.body_type[:100]}."
        raise ProblemError("unsupported-media-type", detail, possible=list(_TYPES))


def _json_length(call: Call, size: int) -> int:
    """How many bytes of a body are its JSON."""
    said = call.request.headers.get(HEADER_LENGTH)
    if said is None:
        return size
    if not said.isdecimal() or int(said[:20]) > size:
        raise ProblemError("malformed-body", f"{HEADER_LENGTH} is a number of bytes, {size} at most here.")
    return int(said[:20])


def _read(model: type[Model], body: bytes) -> Model:
    data = read_json(body, MOST_NUMBERS)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise from_validation(error, data) from error


async def _kept(call: Call, files: Sequence[bytes]) -> list[ImageRecord]:
    limit = call.context.settings.images_per_request
    if len(files) > limit:
        raise ProblemError("too-many-images", f"A request takes {limit} images, not {len(files)}.", limit=limit)
    return [await keep_upload(call, file) for file in files]
