"""The OpenAPI document: the committed one is the application's, it is valid, and it names what api.md promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from convscope.protocol.operations import operations
from convscope.settings import Settings
from service.app import create_app
from service.openapi import document

COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.json"


@pytest.fixture(scope="module")
def live() -> dict[str, object]:
    made: dict[str, object] = json.loads(json.dumps(document(create_app(Settings.model_construct(api_keys_file=None)))))
    return made


def test_the_committed_document_is_the_live_one(live: dict[str, object]) -> None:
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == live, (
        "python -m service.write_openapi > openapi/openapi.json brings the committed document up to date"
    )


def test_it_is_valid(live: dict[str, object]) -> None:
    validate(live)  # type: ignore[arg-type]


def test_every_operation_has_a_route_with_both_bodies(live: dict[str, object]) -> None:
    paths = live["paths"]
    assert isinstance(paths, dict)
    for operation in operations().values():
        post = paths[f"/v1/{operation.name}"]["post"]
        assert post["operationId"] == operation.name
        assert set(post["requestBody"]["content"]) == {
            "multipart/form-data", "application/json", "application/x-www-form-urlencoded"
        }  # fmt: skip
        assert {"200", "202", "400", "401", "406", "413", "415", "422", "424", "429", "500", "503", "504"} <= set(
            post["responses"]
        )
        assert {parameter["name"] for parameter in post["parameters"]} >= {"Prefer", "Idempotency-Key", "view", "pick"}


def test_every_error_is_a_problem_document(live: dict[str, object]) -> None:
    paths = live["paths"]
    assert isinstance(paths, dict)
    for path, methods in paths.items():
        for method, described in methods.items():
            for status, response in described["responses"].items():
                if int(status) >= 400:
                    assert set(response["content"]) == {"application/problem+json"}, (method, path, status)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/operations", "/v1/models", "/v1/models/{model_id}", "/v1/models/{model_id}/layers", "/v1/jobs",
        "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/result", "/v1/jobs/{job_id}/arrays/{name}", "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/cancel", "/livez", "/readyz", "/metrics", "/docs", "/problems/{name}",
    ],
)  # fmt: skip
def test_the_contract_is_there(live: dict[str, object], path: str) -> None:
    paths = live["paths"]
    assert isinstance(paths, dict)
    assert path in paths
