"""The OpenAPI document: what the framework knows of the routes, with our schemas, errors and bodies.

`python -m service.write_openapi > openapi/openapi.json` writes the one that tests compare with the live application.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field, create_model
from pydantic.json_schema import models_json_schema

from convscope.protocol.cards import LayerCard, ModelCard, ModelSummary
from convscope.protocol.networks import NetworkRequest
from convscope.protocol.operations import operations
from convscope.protocol.operations.base import Operation
from convscope.protocol.requests import CommonRequest, ImagesRequest
from service.answers.views import JobList, JobView, ResultView
from service.http.negotiation import JSON
from service.http.problems import MEDIA_TYPE, ProblemDocument, documented
from service.intake.forms import MASK
from service.intake.inference import ExplainRequest, InferRequest

_REF = "#/components/schemas/{model}"
_BINARY = {"type": "string", "format": "binary"}
EVERYWHERE = (
    "bad-host", "unauthenticated", "forbidden", "cross-site", "misdirected", "internal-error", "queue-unavailable",
    "identity-unavailable", "store-unavailable",
)  # fmt: skip
"""Problems that every address which a key guards may answer with."""
GUARDED = ("/v1", "/v2/models")


@cache
def job_of(operation: Operation[Any]) -> type[BaseModel]:
    """A job of that operation: `CamJob`, a job whose result has the operation's facts.

    A schema of its own, with a name, instead of a job and something more: generators of clients take the name for their
    class, and some drop an answer whose schema is put together.
    """
    name = "".join(word.capitalize() for word in operation.name.split("-"))
    result = create_model(
        f"{name}Result",
        __base__=ResultView,
        __doc__=f"The result of a job of {operation.name} that succeeded.",
        facts=(operation.facts, Field(description="Numbers that matter without opening an array.")),
    )
    return create_model(
        f"{name}Job", __base__=JobView, __doc__=f"A job of {operation.name}.", result=(result | None, ...)
    )


@cache
def _schemas() -> tuple[dict[tuple[type[BaseModel], str], dict[str, Any]], dict[str, Any]]:
    shown: list[type[BaseModel]] = [JobView, JobList, ProblemDocument, ModelCard, ModelSummary, LayerCard]
    shown += [job_of(operation) for operation in operations().values()]
    asked: list[type[BaseModel]] = [*(operation.request for operation in operations().values())]
    asked += [NetworkRequest, InferRequest, ExplainRequest]
    inputs = [*((model, "serialization") for model in shown), *((model, "validation") for model in asked)]
    refs, definitions = models_json_schema(inputs, ref_template=_REF)  # type: ignore[arg-type]
    return refs, definitions["$defs"]  # type: ignore[return-value]


def shown(model: type[BaseModel]) -> dict[str, Any]:
    """Reference to the schema of something that is answered."""
    return dict(_schemas()[0][(model, "serialization")])


def asked(model: type[CommonRequest]) -> dict[str, Any]:
    """Reference to the schema of a request."""
    return dict(_schemas()[0][(model, "validation")])


def json_content(schema: dict[str, Any]) -> dict[str, Any]:
    """`content` of a JSON answer."""
    return {JSON: {"schema": schema}}


def binary_content(*media_types: str) -> dict[str, Any]:
    """`content` of an answer in bytes."""
    return {media: {"schema": _BINARY} for media in media_types}


def answer(description: str, content: dict[str, Any] | None = None, headers: Sequence[str] = ()) -> dict[str, Any]:
    """One entry of `responses`."""
    entry: dict[str, Any] = {"description": description}
    if content:
        entry["content"] = content
    if headers:
        entry["headers"] = {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in headers}
    return entry


HEADERS = {
    "Location": "Address of the job.",
    "Retry-After": "Seconds after which to look again.",
    "Preference-Applied": "What was done of the Prefer header.",
    "ETag": "Strong entity tag, for If-None-Match.",
    "Content-Location": "Address of the result.",
    "Link": "The next page, rel=next.",
    "Content-Range": "Which bytes these are, and of how many.",
    "Allow": "The methods that are possible.",
    "RateLimit": "How many more quick and long jobs you may have unfinished now; where you have quotas.",
    "RateLimit-Policy": "Your quotas of quick and long jobs.",
}

PENDING = answer("Not finished; the job.", json_content(shown(JobView)), ("Location", "Retry-After"))
UNCHANGED = answer("The client has this already.", None, ("ETag",))


def header(name: str, description: str, example: str) -> dict[str, Any]:
    """A request header as a parameter."""
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


def request_bodies(operation: Operation[Any]) -> dict[str, Any]:
    """The bodies of an operation: the JSON object, and forms with the same properties, with files or without."""
    properties = dict(_schemas()[1][asked(operation.request)["$ref"].rpartition("/")[2]]["properties"])
    # Spelled out: where two bodies have one schema, generated clients cannot tell in which of them to send it.
    fields = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    encoding = {}
    if operation.max_images:
        properties.pop("images", None)
        files = {"type": "array", "items": _BINARY, "maxItems": operation.max_images}
        properties["image"] = {**files, "description": "Image files; repeat the part for several."}
        kinds = ("png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "heic")
        encoding["image"] = {"contentType": ", ".join(f"image/{kind}" for kind in kinds)}
    if MASK in properties:
        properties[MASK] = {**_BINARY, "description": properties[MASK].get("description", "")}
    whole = {**asked(operation.request), "description": "The whole request, instead of fields."}
    encoding["request"] = {"contentType": JSON}
    form = {"type": "object", "properties": {**properties, "request": whole}, "additionalProperties": False}
    # `maximize` takes an image and needs none.
    needed = issubclass(operation.request, ImagesRequest)
    image = {"image": {"id": "img-0123456789abcdef0123456789abcdef"}} if needed else {}
    return {
        "required": bool(operation.max_images),
        "content": {
            "multipart/form-data": {"schema": form, "encoding": encoding},
            "application/x-www-form-urlencoded": {"schema": fields},
            JSON: {"schema": asked(operation.request), "example": {**image, **operation.example}},
        },
    }


def protocol_body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """The body of an inference protocol's request: JSON alone, or with bytes of tensors behind it."""
    schema = dict(_schemas()[0][(model, "validation")])
    content: dict[str, Any] = {JSON: {"schema": schema, "example": example}}
    if model is InferRequest:
        content |= binary_content("application/octet-stream")
    return {"required": True, "content": content}


def network_bodies() -> dict[str, Any]:
    """The bodies by which a caller brings a network: a form with its file, or JSON that names a stored one."""
    properties = dict(
        _schemas()[1][_schemas()[0][(NetworkRequest, "validation")]["$ref"].rpartition("/")[2]]["properties"]
    )
    whole = {**_schemas()[0][(NetworkRequest, "validation")]}
    file = {**_BINARY, "description": "The safetensors or .pt2 file."}
    request = {**whole, "description": "What is said of the network, instead of fields."}
    form = {
        "type": "object",
        "properties": {**properties, "file": file, "request": request},
        "additionalProperties": False,
    }
    example = {"source": "torchvision:resnet18", "classes": ["assam", "ceylon"], "file": {"sha256": "0" * 64}}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form, "encoding": {"request": {"contentType": JSON}}},
            JSON: {"schema": whole, "example": example},
        },
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application, made once."""
    if not app.openapi_schema:
        made = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version=app.openapi_version,
            description=app.description,
            routes=app.routes,
        )
        app.openapi_schema = _completed(made)
    return app.openapi_schema


def _completed(made: dict[str, Any]) -> dict[str, Any]:
    components = made.setdefault("components", {})
    schemas = {**components.get("schemas", {}), **_schemas()[1]}
    for ours in ("HTTPValidationError", "ValidationError"):
        schemas.pop(ours, None)
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "Only where the operator configured keys."}
    }
    made["security"] = [{}, {"key": []}]
    for path, methods in made["paths"].items():
        for operation in methods.values():
            responses = operation["responses"]
            if "HTTPValidationError" in json.dumps(responses.get("422", {})):
                responses["422"] = documented("invalid-request")[422]
            if path.startswith(GUARDED):
                for status, entry in documented(*EVERYWHERE).items():
                    _merge(responses.setdefault(str(status), entry), entry)
            operation["responses"] = dict(sorted(responses.items()))
    return made


def _merge(present: dict[str, Any], common: dict[str, Any]) -> None:
    if common["description"] not in present["description"]:
        present["description"] += "; " + common["description"]
    present.setdefault("content", {}).setdefault(MEDIA_TYPE, common["content"][MEDIA_TYPE])
