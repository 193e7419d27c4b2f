"""Results as tensors of the Open Inference Protocol: JSON values, or bytes behind the JSON."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.responses import Response

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.problems import ProblemError, invalid_field
from convscope.protocol.results import Manifest
from convscope.store.images import ImageRecord
from service.answers.computing import Asked, computed
from service.call import Call
from service.http.negotiation import JSON
from service.http.streaming import PieceResponse
from service.intake.inference import HEADER_LENGTH, InferRequest, OutputWish
from service.intake.spool import Spool
from service.intake.tensors import IMAGE
from service.results.arrays import CHUNK_BYTES, INLINE_ARRAYS, json_bytes

OCTETS = "application/octet-stream"
DATATYPES = {
    "float64": "FP64", "float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "int16": "INT16",
    "int8": "INT8", "uint16": "UINT16", "uint8": "UINT8", "bool": "BOOL",
}  # fmt: skip
"""Names of element types in the protocol, by NumPy's."""
_MAPS = "feature-maps"


class TensorView(BaseModel):
    """A tensor that a network takes or gives; −1 in its shape is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A network as the protocol describes it."""

    name: str
    versions: list[str] = Field(description="Of its weights and preprocessing; there is always one.")
    platform: Literal["pytorch_convscope"] = "pytorch_convscope"
    inputs: list[TensorView] = Field(description="Image files; pixels N×H×W×C as UINT8 or FP32 are taken as well.")
    outputs: list[TensorView] = Field(description="The network's answer, then every layer that has maps.")


class OutputParametersView(BaseModel):
    """What is said of an output."""

    binary_data_size: int = Field(description="Bytes of the tensor behind the JSON.")


class OutputTensor(TensorView):
    """A tensor that was computed."""

    parameters: OutputParametersView | None = None
    data: list[Any] | None = Field(None, description="Flat, in row-major order, null for what is not finite.")


class InferAnswer(BaseModel):
    """What the protocol answers to an inference request."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str] = Field(description="`jobs`: ids of the jobs that computed it, separated by commas.")
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class _Output:
    """An output: its name, where its array is, and whether it goes behind the JSON."""

    name: str
    manifest: Manifest
    array: str
    binary: bool


def metadata(card: ModelCard) -> ModelMetadata:
    """A network's tensors."""
    outputs = [TensorView(name=_answer_name(card), datatype="FP32", shape=[-1, card.class_count])]
    outputs += [
        TensorView(name=layer.name, datatype="FP32", shape=[-1, *layer.shape])
        for layer in card.layers
        if layer.methods.get(_MAPS, "unknown") is None and layer.name != _answer_name(card)
    ]
    return ModelMetadata(
        name=card.id,
        versions=[version(card)],
        inputs=[TensorView(name=IMAGE, datatype="BYTES", shape=[-1])],
        outputs=outputs,
    )


def version(card: ModelCard) -> str:
    """What tells a network's weights and preprocessing from others under its name."""
    return card.entry_digest[:12]


async def infer(call: Call, card: ModelCard, asked: InferRequest, images: Sequence[ImageRecord]) -> Response:
    """Compute what is asked for and answer it as tensors.

    Raises:
        ProblemError: of the outputs' names and the computation; `too-expensive` for what is too long as JSON.
    """
    wishes = asked.outputs or [OutputWish(name=_answer_name(card))]
    layers = _layers(card, wishes)
    common = {
        "model": card.id,
        "images": [{"id": image.id} for image in images],
        "precision": asked.parameters.precision,
    }
    requests: list[Asked] = []
    if any(name not in layers for name in (wish.name for wish in wishes)):
        requests.append((operations()["classify"], common))
    if layers:
        maps = {**common, "layers": list(dict.fromkeys(layers.values())), "channels": "all"}
        requests.append((operations()[_MAPS], maps))
    found = await computed(call, requests)
    manifests = {job.operation: manifest for job, manifest in found}
    outputs = []
    for wish in wishes:
        binary = wish.parameters.binary_data
        binary = asked.parameters.binary_data_output if binary is None else binary
        if wish.name in layers:
            outputs.append(_Output(wish.name, manifests[_MAPS], f"maps/{layers[wish.name]}", binary))
        else:
            outputs.append(_Output(wish.name, manifests["classify"], wish.name, binary))
    answer: dict[str, Any] = {"model_name": card.id, "model_version": version(card)}
    if asked.id is not None:
        answer["id"] = asked.id
    answer["parameters"] = {"jobs": ",".join(job.id for job, _ in found)}
    return await _answered(call, answer, outputs)


def _answer_name(card: ModelCard) -> str:
    """The name of the network's own answer, as `classify` has it."""
    return "values" if card.outputs is not None and card.outputs.outputs == "value" else "logits"


def _layers(card: ModelCard, wishes: Sequence[OutputWish]) -> dict[str, str]:
    """The layers among the outputs: the name that was given, and the network's own."""
    layers: dict[str, str] = {}
    for number, wish in enumerate(wishes):
        pointer = f"/outputs/{number}/name"
        if sum(other.name == wish.name for other in wishes) > 1:
            raise invalid_field(pointer, f"the output {wish.name!r} is asked for more than once")
        if wish.name != _answer_name(card):
            layers[wish.name] = card.layer(wish.name, pointer).name
    return layers


async def _answered(call: Call, answer: dict[str, Any], outputs: Sequence[_Output]) -> Response:
    """JSON alone, or JSON and the bytes of those outputs that go behind it, which are never held in memory."""
    results, settings = call.context.results, call.context.settings
    numbers = sum(math.prod(one.manifest.arrays[one.array].shape) for one in outputs if not one.binary)
    limit = settings.inline_numbers * INLINE_ARRAYS
    if numbers > limit:
        raise ProblemError(
            "too-expensive",
            f"The outputs have {numbers:,} numbers, and JSON carries {limit:,}; ask for them with the parameter "
            "binary_data_output.",
            limit=limit,
        )
    tensors: list[dict[str, Any]] = []
    for one in outputs:
        stored = one.manifest.arrays[one.array]
        tensor: dict[str, Any] = {"name": one.name, "datatype": DATATYPES[stored.dtype], "shape": list(stored.shape)}
        if one.binary:
            tensor["parameters"] = {"binary_data_size": stored.nbytes}
        else:
            tensor["data"] = (await results.array(one.manifest, one.array)).reshape(-1)
        tensors.append(tensor)
    head = await asyncio.to_thread(json_bytes, {**answer, "outputs": tensors})
    behind = [one for one in outputs if one.binary]
    if not behind:
        return Response(head, 200, {"Cache-Control": "no-store"}, media_type=JSON)
    spool = Spool()
    try:
        await spool.write(head)
        for one in behind:
            stored = one.manifest.arrays[one.array]
            assert one.manifest.arrays_key is not None
            for start in range(0, stored.nbytes, CHUNK_BYTES):
                size = min(CHUNK_BYTES, stored.nbytes - start)
                piece = await call.context.artifacts.get_range(one.manifest.arrays_key, stored.offset + start, size)
                await spool.write(piece)
    except BaseException:
        spool.close()
        raise
    headers = {HEADER_LENGTH: str(len(head)), "Content-Length": str(spool.size), "Cache-Control": "no-store"}
    return PieceResponse(spool.pieces(), status_code=200, media_type=OCTETS, headers=headers)
