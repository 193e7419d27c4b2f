"""Explanations under tests over HTTP: over an image set, drawn, with a killed engine, and what is refused."""

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
def image_set(client: httpx2.Client) -> str:
    sent = client.post("/v1/image-sets", content=crops(3), headers={"Content-Type": "application/zip"})
    assert sent.status_code == 201, sent.text
    return str(sent.json()["id"])


def test_a_killed_engine_goes_on_with_the_same_bits(client: httpx2.Client, launched: Launched, image_set: str) -> None:
    body = {
        "image_set": image_set,
        "methods": ["gradcam", "gradient"],
        "metrics": ["deletion", "insertion", "confidence", "infidelity"],
        "steps": 6,
        "samples": 4,
        "preprocess": {"size": 128},
    }
    fresh = {"Cache-Control": "no-cache", "Prefer": "respond-async"}
    quiet = finished(client, client.post("/v1/evaluate", json=body, headers=fresh))
    assert quiet["state"] == "succeeded", quiet["error"]
    started = client.post("/v1/evaluate", json=body, headers=fresh).json()
    path = started["links"]["self"]
    until = time.monotonic() + 60
    while client.get(path).json()["state"] == "queued" and time.monotonic() < until:
        time.sleep(0.05)
    for engine in launched.member("workers.engine").children():
        os.kill(engine.pid, signal.SIGKILL)
    job = finished(client, client.get(path))
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["facts"] == quiet["result"]["facts"]
    for name in ("deletion/gradcam", "insertion/random-maps", "deletion/gradient", "infidelity-scaled/gradcam"):
        two = [client.get(each["result"]["arrays"][name]["href"]).content for each in (quiet, job)]
        assert two[0] == two[1], name
    curves = np.load(io.BytesIO(client.get(job["result"]["arrays"]["deletion/gradcam"]["href"]).content))
    score = np.load(io.BytesIO(client.get(job["result"]["arrays"]["score"]["href"]).content))
    assert curves.shape == (3, 7)
    np.testing.assert_array_equal(curves[:, 0], score)
    (told,) = [one for one in job["result"]["facts"]["methods"] if one["method"] == "gradcam"]
    area = np.trapezoid(curves.astype(np.float64), dx=1 / 6, axis=1).mean()
    assert told["figures"][0]["figure"] == "deletion"
    assert told["figures"][0]["mean"] == pytest.approx(area, rel=1e-5)
    assert [picture["name"] for picture in job["result"]["pictures"]] == ["deletion", "insertion"]
    drawn = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "image/png"})
    assert drawn.status_code == 200
    assert Image.open(io.BytesIO(drawn.content)).width > 500


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"metrics": ["localisation"]}, "needs boxes or a mask"),
        ({"boxes": [[0, 0, 9, 9]], "metrics": ["deletion"]}, "go with the metric localisation"),
        ({"methods": ["gradient"], "layer": "blocks.2"}, "A layer is of CAM methods"),
        ({"methods": ["tea leaves"]}, "gradcam"),
        ({"target": "no such class"}, "has no class"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(
    client: httpx2.Client, image_set: str, wrong: dict[str, object], said: str
) -> None:
    refused = client.post("/v1/evaluate", json={"image_set": image_set, **wrong})
    assert refused.status_code == 422, refused.text
    assert said in refused.text


def test_a_mask_comes_as_a_part_of_the_form(client: httpx2.Client, chelsea: bytes) -> None:
    white = io.BytesIO()
    pixels = np.zeros((300, 451), np.uint8)
    pixels[:, 150:300] = 255
    Image.fromarray(pixels).save(white, "PNG")
    files = {"image": chelsea, "mask": white.getvalue()}
    data = {"metrics": "localisation", "methods": "gradcam,eigencam"}
    sent = client.post("/v1/evaluate", files=files, data=data, headers={"Prefer": "respond-async"})
    job = finished(client, sent)
    assert job["state"] == "succeeded", job["error"]
    arrays = job["result"]["arrays"]
    # The network sees the middle 262.5 of the columns.
    assert arrays["object-area"]["data"][0] == pytest.approx(150 / 262.5, abs=0.01)
    assert 0 < arrays["mass/gradcam"]["data"][0] < 1
