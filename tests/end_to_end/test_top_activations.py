"""The strongest units of a set over HTTP: against the feature maps of each image, drawn, and with a killed engine."""

from __future__ import annotations

import io
import os
import signal
import time

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.convscope.cli.launched import Launched
from tests.end_to_end.test_image_sets import crops
from tests.end_to_end.test_whole import finished


@pytest.fixture(scope="module")
def image_set(client: httpx2.Client) -> dict[str, object]:
    sent = client.post("/v1/image-sets", content=crops(24), headers={"Content-Type": "application/zip"})
    assert sent.status_code == 201, sent.text
    found: dict[str, object] = sent.json()
    return found


def test_the_strongest_are_those_of_every_image_alone(client: httpx2.Client, image_set: dict[str, object]) -> None:
    body = {"image_set": image_set["id"], "layer": "blocks.2", "channels": [0, 7, 20], "k": 4}
    job = finished(client, client.post("/v1/top-activations", json=body))
    assert job["state"] == "succeeded", job["error"]
    arrays = job["result"]["arrays"]
    members = client.get(f"/v1/image-sets/{image_set['id']}", params={"limit": 100}).json()["members"]
    asked = {"images": [{"id": one["id"]} for one in members], "layer": "blocks.2", "channels": [0, 7, 20]}
    maps = finished(client, client.post("/v1/feature-maps", json=asked))
    href = maps["result"]["arrays"]["maps/blocks.2"]["href"]
    whole = np.load(io.BytesIO(client.get(href).content), allow_pickle=False)  # 24×3×H×W
    best = whole.max((2, 3))
    for channel in range(3):
        order = np.argsort(-best[:, channel], kind="stable")[:4]
        assert arrays["images/blocks.2"]["data"][channel] == order.tolist()
        np.testing.assert_allclose(arrays["values/blocks.2"]["data"][channel], best[order, channel], rtol=1e-4)
    facts = job["result"]["facts"]["layers"][0]
    assert facts["projection"] == "guided" and facts["images"] == 24
    picture = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "image/png"})
    assert picture.status_code == 200
    assert Image.open(io.BytesIO(picture.content)).width > 300


def test_a_killed_engine_goes_on_with_the_same_bits(
    client: httpx2.Client, launched: Launched, image_set: dict[str, object]
) -> None:
    body = {
        "image_set": image_set["id"],
        "layer": "blocks.4",
        "channels": "first:2",
        "k": 2,
        "preprocess": {"size": 320},
    }
    fresh = {"Cache-Control": "no-cache", "Prefer": "respond-async"}
    quiet = finished(client, client.post("/v1/top-activations", json=body, headers=fresh))
    assert quiet["state"] == "succeeded", quiet["error"]
    started = client.post("/v1/top-activations", json=body, headers=fresh).json()
    path = started["links"]["self"]
    until = time.monotonic() + 60
    while client.get(path).json()["state"] == "queued" and time.monotonic() < until:
        time.sleep(0.05)
    for engine in launched.member("workers.engine").children():
        os.kill(engine.pid, signal.SIGKILL)
    job = finished(client, client.get(path))
    assert job["state"] == "succeeded", job["error"]
    for name in ("values/blocks.4", "images/blocks.4", "patch/blocks.4", "projection/blocks.4"):
        two = [client.get(each["result"]["arrays"][name]["href"]).content for each in (quiet, job)]
        assert two[0] == two[1], name


def test_bad_requests_are_told_at_once(client: httpx2.Client) -> None:
    refused = client.post("/v1/top-activations", json={"image_set": "set-0"})
    assert (refused.status_code, refused.json()["type"]) == (404, "/problems/not-found")
    refused = client.post("/v1/top-activations", json={"image_set": "set-0", "channels": "top:3"})
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-request")
    assert "ranks by one image" in refused.text
    refused = client.post("/v1/top-activations", json={})
    assert refused.status_code == 422
