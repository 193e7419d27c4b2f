"""The catalogue of networks: lines, cards, layer tables; and the networks that callers bring."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from convscope.protocol.cards import LayerCard, ModelCard, ModelSummary
from convscope.protocol.problems import invalid_field
from convscope.store.uploaded_networks import Conditions
from service import openapi
from service.answers.networks import network_at, summaries, summaries_of, upload_facts
from service.answers.responses import known_operation
from service.call import Call
from service.dependencies import CallDependency
from service.http.negotiation import JSON
from service.http.problems import documented
from service.intake.network_uploads import keep_network

router = APIRouter(prefix="/v1/models", tags=["models"])

_ONE = documented("not-found", "weights-unavailable", "network-does-not-run", "out-of-memory")
_CONDITIONS = [
    openapi.header("If-Match", "Only if the network is the one of this entity tag.", '"0c5f1a7e-owner"'),
    openapi.header("If-None-Match", "`*`: only if there is no network of that id yet.", "*"),
]


class ModelList(BaseModel):
    """The catalogue."""

    default: str = Field(description="The network used where a request names none.")
    models: list[ModelSummary]


class LayersQuery(BaseModel):
    """Which layers to list."""

    model_config = ConfigDict(extra="forbid")

    method: str | None = Field(None, max_length=100, description="Only layers where this operation applies.")


class LayerTable(BaseModel):
    """Layers in execution order."""

    model: str
    method: str | None
    layers: list[LayerCard]


@router.get("", operation_id="list-models")
async def list_models(call: CallDependency) -> ModelList:
    """Every network of the catalogue, as far as workers have published it, and those that callers brought for you."""
    context = call.context
    default = await context.cards.default_model() or context.settings.default_model
    return ModelList(default=default, models=await summaries(call))


@router.get(
    "/{model_id}",
    operation_id="read-model",
    response_class=Response,
    responses={
        200: {**openapi.answer("The network's card.", None, ("ETag",)), "model": ModelCard},
        **_ONE,
    },
)
async def read_model(model_id: str, call: CallDependency) -> Response:
    """A network's card: weights, preprocessing, classes, layers, defaults. One that a caller brought has an ETag."""
    found = await network_at(call, model_id)
    headers = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}
    card = found.card
    if found.head is not None:
        card = card.model_copy(update={"upload": upload_facts(call, found.head)})
        headers["ETag"] = found.head.etag
    return Response(card.model_dump_json(), 200, headers, media_type=JSON)


@router.put(
    "/{model_id}",
    operation_id="put-model",
    response_class=Response,
    responses={
        200: {
            **openapi.answer("The network, as it was already or in place of the one before.", None, ("ETag",)),
            "model": ModelSummary,
        },
        201: {
            **openapi.answer("The network, which is new.", None, ("ETag", "Location")),
            "model": ModelSummary,
        },
        **documented(
            "malformed-body", "request-timeout", "body-too-large", "too-many-images", "unsupported-media-type",
            "invalid-request", "precondition-failed", "quota-exceeded", "gone", "queue-full", "store-full",
        ),
    },
    openapi_extra={"requestBody": openapi.network_bodies(), "parameters": _CONDITIONS},
)  # fmt: skip
async def put_model(model_id: str, call: CallDependency) -> Response:
    """Bring a network: weights as safetensors for an architecture of a library, or a program of torch.export (.pt2).

    For callers whose entry in the operator's key file says `models = true`; seen by its owner, or by all, as
    `visible_to` says. The file is sent in a form's part `file`, or named by its SHA-256 where the artifact store has it
    already. The same again changes nothing; another network under the id is another version, which no earlier answer
    stands for. A worker builds it when it is first asked for: `GET` of this address says whether it fits.
    """
    head, new = await keep_network(call, model_id, _conditions(call))
    (summary,) = await summaries_of(call, [head])
    headers = {"ETag": head.etag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    if new:
        headers["Location"] = f"/v1/models/{head.id}"
    return Response(summary.model_dump_json(), 201 if new else 200, headers, media_type=JSON)


@router.delete(
    "/{model_id}",
    operation_id="delete-model",
    status_code=204,
    response_class=Response,
    responses=documented("not-found", "precondition-failed", "invalid-request"),
    openapi_extra={"parameters": _CONDITIONS[:1]},
)
async def delete_model(model_id: str, call: CallDependency) -> Response:
    """Forget a network that you brought.

    Jobs that compute with it come to their end; those that wait still fail with `gone`. Results stay as long as any.
    """
    call.check_scope("models")
    await call.context.networks.delete(call.caller, model_id, _conditions(call))
    return Response(status_code=204)


def _conditions(call: Call) -> Conditions:
    """What the headers make a change depend on; weak tags match nothing.

    Raises:
        ProblemError: `invalid-request`.
    """
    headers = call.request.headers
    unless = headers.get("if-none-match", "").strip()
    if unless not in ("", "*"):
        raise invalid_field("/headers/if-none-match", "With this method it takes `*` alone.")
    tags = [tag.strip() for tag in ",".join(headers.getlist("if-match")).split(",")]
    strong = ", ".join(tag for tag in tags if tag and not tag.startswith("W/"))
    given = headers.get("if-match") is not None
    return Conditions(if_match=strong or ('""' if given else ""), only_new=unless == "*")


@router.get("/{model_id}/layers", operation_id="list-layers", responses={**_ONE, **documented("invalid-request")})
async def list_layers(model_id: str, call: CallDependency, query: Annotated[LayersQuery, Query()]) -> LayerTable:
    """A network's layers in execution order; with `method`, those where that operation applies."""
    if query.method is not None:
        known_operation(query.method, "/query/method")
    card = (await network_at(call, model_id)).card
    layers = [
        layer for layer in card.layers if query.method is None or layer.methods.get(query.method, "unknown") is None
    ]
    return LayerTable(model=card.id, method=query.method, layers=layers)
