"""KServe's explainer, which version 1 of its protocol alone has: POST /v1/models/{id}:explain."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from convscope.protocol.operations import operations
from convscope.protocol.operations.base import Operation
from convscope.protocol.problems import invalid_field
from service import openapi
from service.answers.computing import Asked, computed
from service.answers.networks import network_at
from service.answers.responses import AnswerQuery
from service.answers.views import ResultView, result_view
from service.dependencies import CallDependency
from service.http.negotiation import JSON
from service.http.problems import documented
from service.intake.inference import ExplainRequest, read_explanation
from service.results.arrays import json_bytes

router = APIRouter(prefix="/v1/models", tags=["inference"])

EXPLAINERS = ("cam", "saliency", "occlusion", "deconv")
"""Operations that explain; the first one unless another is named."""
_OURS = ("model", "image", "images", "image_set", "image_range", "mask", "deadline_s")
"""Properties of a request that the address and the instances say."""


class Explanation(ResultView):
    """What one instance's explanation is: a result, and the job that computed it."""

    job: str


class ExplainAnswer(BaseModel):
    """An explanation for each instance, in their order."""

    explanations: list[Explanation]


@router.post(
    "/{model_id}:explain",
    operation_id="explain",
    response_class=Response,
    responses={
        200: {**openapi.answer("An explanation for each instance."), "model": ExplainAnswer},
        **documented(
            "malformed-body", "not-found", "request-timeout", "gone", "body-too-large", "too-many-pixels",
            "too-many-images", "unsupported-media-type", "invalid-request", "unknown-layer", "channel-out-of-range",
            "not-applicable", "unreadable-image", "unsupported-format", "too-expensive", "numerical-error",
            "out-of-memory", "weights-unavailable", "network-does-not-run", "quota-exceeded", "worker-crashed",
            "queue-full", "store-full", "deadline-exceeded",
        ),
    },
    openapi_extra={
        "requestBody": openapi.protocol_body(
            ExplainRequest,
            {"instances": [{"b64": "iVBORw0KGgo="}], "parameters": {"operation": "cam", "methods": ["layercam"]}},
        )
    },
)  # fmt: skip
async def explain(model_id: str, call: CallDependency, query: Annotated[AnswerQuery, Query()]) -> Response:
    """Why a network answers as it does: maps of evidence for each instance, by `cam` unless `parameters` say otherwise.

    `parameters` take the properties of that operation (`methods`, `targets`, `layer`, …). Each instance is a job, whose
    pictures and arrays are at the addresses in its explanation.
    """
    card = (await network_at(call, model_id)).card
    asked, images = await read_explanation(call)
    operation, properties = _operation(asked.parameters)
    requests: list[Asked] = [
        (operation, {**properties, "model": card.id, "images": [{"id": image.id}]}) for image in images
    ]
    explanations = [
        {"job": job.id, **await result_view(call.context, job.id, manifest, query.detail)}
        for job, manifest in await computed(call, requests)
    ]
    return Response(json_bytes({"explanations": explanations}), 200, {"Cache-Control": "no-store"}, media_type=JSON)


def _operation(parameters: dict[str, Any]) -> tuple[Operation[Any], dict[str, Any]]:
    """The operation that parameters name, and what is left for it.

    Raises:
        ProblemError: `invalid-request`.
    """
    properties = dict(parameters)
    name = properties.pop("operation", EXPLAINERS[0])
    if name not in EXPLAINERS:
        detail = f"explanations are made by {', '.join(EXPLAINERS)}"
        raise invalid_field("/parameters/operation", detail, possible=list(EXPLAINERS))
    for ours in _OURS:
        if ours in properties:
            raise invalid_field(f"/parameters/{ours}", "the address and the instances say that")
    return operations()[name], properties
