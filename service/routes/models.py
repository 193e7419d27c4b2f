"""The catalogue of networks: lines, cards, layer tables."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from convscope.protocol.cards import LayerCard, ModelCard, ModelSummary
from convscope.protocol.problems import ProblemError
from service.answers.responses import known_operation
from service.context import Context
from service.dependencies import CallDependency
from service.http.problems import documented

router = APIRouter(prefix="/v1/models", tags=["models"])

_ONE = documented("not-found", "weights-unavailable")


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


async def _card(context: Context, model_id: str) -> ModelCard:
    try:
        return await context.cards.get(model_id, context.settings.card_wait_s)
    except ProblemError as error:
        if error.name == "unknown-model":  # here the name is an address
            raise ProblemError("not-found", error.detail, **error.extra) from error
        raise


@router.get("", operation_id="list-models")
async def list_models(call: CallDependency) -> ModelList:
    """Every network of the catalogue, as far as workers have published it."""
    context = call.context
    default = await context.cards.default_model() or context.settings.default_model
    return ModelList(default=default, models=await context.cards.summaries())


@router.get("/{model_id}", operation_id="read-model", responses=_ONE)
async def read_model(model_id: str, call: CallDependency) -> ModelCard:
    """A network's card: weights, preprocessing, classes, layers, defaults."""
    return await _card(call.context, model_id)


@router.get("/{model_id}/layers", operation_id="list-layers", responses={**_ONE, **documented("invalid-request")})
async def list_layers(model_id: str, call: CallDependency, query: Annotated[LayersQuery, Query()]) -> LayerTable:
    """A network's layers in execution order; with `method`, those where that operation applies."""
    if query.method is not None:
        known_operation(query.method, "/query/method")
    card = await _card(call.context, model_id)
    layers = [
        layer for layer in card.layers if query.method is None or layer.methods.get(query.method, "unknown") is None
    ]
    return LayerTable(model=card.id, method=query.method, layers=layers)
