"""The Open Inference Protocol (version 2): health, networks, and inference with layers as outputs."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from convscope import __version__
from convscope.protocol.problems import ProblemError
from service import openapi
from service.answers.networks import network_at, summaries
from service.answers.tensors import OCTETS, InferAnswer, ModelMetadata, infer, metadata
from service.dependencies import CallDependency, ContextDependency
from service.http.problems import documented
from service.intake.inference import HEADER_LENGTH, InferRequest, read_inference
from service.routes.health import ready

router = APIRouter(prefix="/v2", tags=["inference"])

_ONE = documented("not-found", "weights-unavailable", "network-does-not-run", "out-of-memory")
_COMPUTING = documented(
    "malformed-body", "not-found", "request-timeout", "gone", "body-too-large", "too-many-pixels", "too-many-images",
    "unsupported-media-type", "invalid-request", "unknown-layer", "not-applicable", "unreadable-image",
    "unsupported-format", "too-expensive", "numerical-error", "out-of-memory", "weights-unavailable",
    "network-does-not-run", "quota-exceeded", "worker-crashed", "queue-full", "store-full", "deadline-exceeded",
)  # fmt: skip


class ServerLive(BaseModel):
    """Whether the process answers."""

    live: bool = True


class ServerReady(BaseModel):
    """Whether an inference request would be computed."""

    ready: bool = True


class ServerMetadata(BaseModel):
    """The server as the protocol describes it."""

    name: str = "convscope"
    version: str = __version__
    extensions: list[str] = Field(default=["binary_tensor_data"])


class ModelNames(BaseModel):
    """The networks that there are."""

    models: list[str]


class ModelReady(BaseModel):
    """Whether a network can be asked."""

    name: str
    ready: bool = True


@router.get("/health/live", operation_id="server-live")
async def server_live() -> ServerLive:
    """Whether the process answers; asks nobody else."""
    return ServerLive()


@router.get(
    "/health/ready", operation_id="server-ready", responses=documented("queue-unavailable", "store-unavailable")
)
async def server_ready(context: ContextDependency) -> ServerReady:
    """Whether inference is possible: queue and store can be written, and a worker lives."""
    if not (await ready(context)).workers:
        raise ProblemError("queue-unavailable", "No worker lives.", retry_after_s=2)
    return ServerReady()


@router.get("", operation_id="server-metadata")
async def server_metadata() -> ServerMetadata:
    """Name, version and extensions of the server."""
    return ServerMetadata()


@router.get("/models", operation_id="list-model-names")
async def list_model_names(call: CallDependency) -> ModelNames:
    """The networks that can be asked: of the catalogue, and those that callers brought for you."""
    return ModelNames(models=[line.id for line in await summaries(call) if line.problem is None])


@router.get("/models/{model_id}", operation_id="model-metadata", responses=_ONE)
async def model_metadata(model_id: str, call: CallDependency) -> ModelMetadata:
    """A network's tensors: image files in; the network's answer and every layer with maps out."""
    return metadata((await network_at(call, model_id)).card)


@router.get("/models/{model_id}/ready", operation_id="model-ready", responses=_ONE)
async def model_ready(model_id: str, call: CallDependency) -> ModelReady:
    """Whether a network can be asked; a problem says why it cannot."""
    await network_at(call, model_id)
    return ModelReady(name=model_id)


@router.post(
    "/models/{model_id}/infer",
    operation_id="infer",
    response_class=Response,
    responses={
        200: {
            **openapi.answer(
                "The outputs; with any that is asked for as bytes, these behind the JSON, whose length is in "
                f"{HEADER_LENGTH}.",
                openapi.binary_content(OCTETS),
            ),
            "model": InferAnswer,
        },
        **_COMPUTING,
    },
    openapi_extra={
        "requestBody": openapi.protocol_body(
            InferRequest, {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["iVBORw0KGgo="]}]}
        )
    },
)
async def infer_model(model_id: str, call: CallDependency) -> Response:
    """What a network answers to images, and what any of its layers gives: outputs by the layers' names.

    The images are one input `image`: files as BYTES, pixels N×H×W×C as UINT8, or planes in [0, 1] as FP32; they are
    preprocessed here as for every other operation. Without `outputs`, the network's answer. Tensors may travel as bytes
    behind the JSON, in both directions. The computations are jobs, named in the answer's `parameters`.
    """
    card = (await network_at(call, model_id)).card
    asked, images = await read_inference(call)
    return await infer(call, card, asked, images)
