"""What a network or layer cannot give is refused at once over HTTP, with the reason and what would be possible."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.convscope.cli.launched import wait_until
from tests.end_to_end.test_whole import post


def answered(client: httpx2.Client, operation: str, image: bytes, **fields: Any) -> httpx2.Response:
    """The answer, once a worker has described the network."""
    headers = {"Prefer": "respond-async"}

    def once() -> httpx2.Response | None:
        answer = post(client, operation, image, headers, **fields)
        return None if answer.status_code == 503 else answer

    return wait_until(once, deadline_s=120)


@pytest.mark.parametrize(
    ("operation", "model", "fields", "kind"),
    [
        ("deconv", "efficientnet_b0-random", {"layer": "features.5", "rule": "deconvnet"}, "silu"),
        ("deconv", "convnext_tiny-random", {"layer": "features.3", "rule": "guided"}, "gelu"),
        ("saliency", "efficientnet_b0-random", {"method": "guided", "target": "7"}, "silu"),
        ("saliency", "convnext_tiny-random", {"method": "guided", "target": "7"}, "gelu"),
        ("cam", "efficientnet_b0-random", {"methods": "guided-gradcam", "targets": "7"}, "silu"),
    ],
)
def test_smooth_gates(
    client: httpx2.Client, coffee: bytes, operation: str, model: str, fields: dict[str, str], kind: str
) -> None:
    refused = answered(client, operation, coffee, model=model, **fields)
    assert refused.status_code == 422, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["type"].endswith("not-applicable")
    assert kind in problem["detail"].lower()
    assert "nonstandard_gate=true" in problem["possible"]
    accepted = answered(client, operation, coffee, model=model, **fields, nonstandard_gate="true")
    assert accepted.status_code in (200, 202), accepted.text
    client.post(f"/v1/jobs/{accepted.json()['id']}/cancel")


@pytest.mark.parametrize(
    ("operation", "fields", "name", "says"),
    [
        ("deconv", {"layer": "classifier"}, "not-applicable", "classifier"),
        ("deconv", {"layer": "blocks.3", "channels": "99999"}, "channel-out-of-range", "99999"),
        ("cam", {"layer": "classifier"}, "not-applicable", "classifier"),
        ("cam", {"targets": "1000"}, "invalid-request", "1000"),
        ("occlusion", {"unit": '{"layer": "blocks.3", "channel": 99999}'}, "channel-out-of-range", "99999"),
        ("saliency", {"target": '{"layer": "blocks.9", "channel": 0}'}, "unknown-layer", "blocks.9"),
        ("saliency", {"target": "no such class"}, "invalid-request", "no such class"),
    ],
)
def test_layers_channels_and_classes(
    client: httpx2.Client, coffee: bytes, operation: str, fields: dict[str, str], name: str, says: str
) -> None:
    refused = answered(client, operation, coffee, **fields)
    assert 400 <= refused.status_code < 500, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["type"].endswith(name), problem
    assert says in refused.text
