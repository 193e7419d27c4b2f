"""schemathesis over the whole OpenAPI document: no 5xx, every error a problem document, answers as documented.

Jobs and images that exist are offered to the generator, so that it gets past 404.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest
import safetensors.numpy
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from convscope.settings import Settings
from service.app import create_app
from service.openapi import document
from tests.servers import PrivateServer
from tests.service.support import Service, Worker, png_bytes, publish_card, wait_for

EXAMPLES = 8
KEY = "the caller's key"
AS_CALLER = {"Authorization": f"Bearer {KEY}"}
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that waits for nothing long, takes as many jobs as come, and lets its one caller bring networks."""
    keys = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(f'[callers.fuzz]\nkey_sha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\nmodels = true\n')
    with PrivateServer() as server:
        configured = Settings(
            redis_url=server.url,
            data=tmp_path_factory.mktemp("fuzz"),
            card_wait_s=0.3,
            quick_wait_s=0.3,
            longest_wait_s=0.3,
            caller_jobs=100_000,
            lane_depth=100_000,
            caller_networks=100_000,
            api_keys_file=keys,
        )
        with Worker(configured), Service(configured) as running, running.client() as client:
            wait_for(lambda: client.get("/readyz").json().get("workers"), "the worker")
            yield running


@pytest.fixture(scope="module")
def real(fuzzed: Service) -> dict[str, list[str]]:
    """Values of path parameters that lead somewhere."""
    with fuzzed.client(headers=AS_CALLER) as client:
        brought = client.put(
            "/v1/models/brought",
            files=[("file", ("w", safetensors.numpy.save({"w": np.ones(3)}), "application/octet-stream"))],
            data={"source": "zfnet"},
        )
        assert brought.status_code == 201, brought.text
        publish_card(fuzzed.settings, f"brought@{brought.headers['etag'][1:].partition('-')[0]}")
        # A picture of its own: what the generator asks of it must not answer other tests from the cache.
        answer = client.post("/v1/feature-maps", files=[("image", ("a.png", png_bytes(value=77), "image/png"))])
        assert answer.status_code == 200, answer.text
        job = answer.json()
    return {
        "job_id": [job["id"]],
        "name": ["maps/conv", "conv", "not-found"],
        "model_id": ["toy", "broken", "brought"],
        "image_id": [job["request"]["images"][0]["id"]],
    }


schema = schemathesis.openapi.from_dict(document(create_app(Settings.model_construct(api_keys_file=None))))


sent_in_coverage: Counter[str] = Counter()


def _is_one_too_many(case: schemathesis.Case) -> bool:
    """Of the thousand requests that the coverage phase makes of an operation's schema, one in five is enough here."""
    if (
        case.meta is None
        or case.meta.phase.name.value != "coverage"
        or "requestBody" not in case.operation.definition.raw
    ):
        return False
    sent_in_coverage[case.operation.label] += 1
    return sent_in_coverage[case.operation.label] % 5 != 1


@schema.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_every_address(case: schemathesis.Case, fuzzed: Service, real: dict[str, list[str]]) -> None:
    if _is_one_too_many(case):
        return
    choose = random.Random(repr((case.path_parameters, case.query, case.body))[:500])
    for name, values in real.items():
        if name in (case.path_parameters or {}) and case.method != "DELETE" and choose.random() < 0.7:
            case.path_parameters[name] = choose.choice(values)
    if case.media_type == "application/json" and isinstance(case.body, dict) and choose.random() < 0.5:
        # Else no request would ever get as far as the network.
        for name in ("image", "images", "image_set"):
            case.body.pop(name, None)
        case.body.pop("deadline_s", None)  # a deadline of no time at all is rightly answered 504, which is no failure
        case.body |= {"image": {"id": real["image_id"][0]}, "model": "toy"}
    response = case.call(base_url=fuzzed.url, headers=AS_CALLER)
    case.validate_response(response, checks=list(CHECKS))
    if response.status_code >= 400:
        assert response.headers["content-type"][0] == "application/problem+json"
        document = response.json()
        assert document["status"] == response.status_code and document["type"].startswith("/problems/")


def test_real_values_are_accepted(fuzzed: Service, real: dict[str, list[str]]) -> None:
    with httpx2.Client(base_url=fuzzed.url, trust_env=False, headers=AS_CALLER) as client:
        assert client.get(f"/v1/jobs/{real['job_id'][0]}/arrays/maps/conv").status_code == 200
