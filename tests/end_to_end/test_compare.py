"""Two networks compared over HTTP: over an image set with a killed engine, by ids, drawn, and what is refused."""

from __future__ import annotations

import io
import os
import signal
import time
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.convscope.cli.launched import Launched
from tests.end_to_end.test_image_sets import crops
from tests.end_to_end.test_whole import finished

FRESH = {"Cache-Control": "no-cache", "Prefer": "respond-async"}
ASKED: dict[str, Any] = {
    "model": "efficientnet_lite0",
    "other_model": "efficientnet_lite1",
    "preprocess": {"size": 96},
    "batch_images": 4,
    "shown": 2,
}


@pytest.fixture(scope="module")
def image_set(client: httpx2.Client) -> dict[str, Any]:
    sent = client.post("/v1/image-sets", content=crops(8), headers={"Content-Type": "application/zip"})
    assert sent.status_code == 201, sent.text
    found: dict[str, Any] = sent.json()
    return found


@pytest.fixture(scope="module")
def quiet(client: httpx2.Client, image_set: dict[str, Any]) -> dict[str, Any]:
    """The job, undisturbed."""
    job = finished(client, client.post("/v1/compare", json={**ASKED, "image_set": image_set["id"]}, headers=FRESH))
    assert job["state"] == "succeeded", job["error"]
    return job


def test_a_killed_engine_goes_on_with_the_same_bits(
    client: httpx2.Client, launched: Launched, image_set: dict[str, Any], quiet: dict[str, Any]
) -> None:
    started = client.post("/v1/compare", json={**ASKED, "image_set": image_set["id"]}, headers=FRESH).json()
    path = started["links"]["self"]
    until = time.monotonic() + 60
    while client.get(path).json()["progress"]["done"] < 1 and time.monotonic() < until:
        time.sleep(0.02)
    assert client.get(path).json()["state"] == "running"
    for engine in launched.member("workers.engine").children():
        os.kill(engine.pid, signal.SIGKILL)
    job = finished(client, client.get(path))
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["facts"] == quiet["result"]["facts"]
    for name in ("mass_moved", "cka", "maps/other"):
        two = [client.get(each["result"]["arrays"][name]["href"]).content for each in (quiet, job)]
        assert two[0] == two[1], name


def test_ids_and_a_set_are_one(client: httpx2.Client, image_set: dict[str, Any], quiet: dict[str, Any]) -> None:
    members = client.get(f"/v1/image-sets/{image_set['id']}", params={"limit": 100}).json()["members"]
    images = [{"id": member["id"]} for member in members]
    job = finished(client, client.post("/v1/compare", json={**ASKED, "images": images}, headers=FRESH))
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["facts"] == quiet["result"]["facts"]


def test_maps_stand_side_by_side_over_the_images(client: httpx2.Client, quiet: dict[str, Any]) -> None:
    names = [picture["name"] for picture in quiet["result"]["pictures"]]
    shown = quiet["result"]["facts"]["shown"]
    assert names == [f"{one['image']}/{side}" for one in shown for side in ("model", "other")] + ["cka"]
    for pick in (names[0], "cka"):
        drawn = client.get(f"/v1/jobs/{quiet['id']}/result", params={"pick": pick}, headers={"Accept": "image/png"})
        assert drawn.status_code == 200, drawn.text
        assert np.asarray(Image.open(io.BytesIO(drawn.content)).convert("L")).std() > 5
    assert client.get(f"/v1/jobs/{quiet['id']}/result", headers={"Accept": "image/png"}).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"other_model": "digits"}, "1000 classes"),
        ({"other_model": "no-such-network"}, "no-such-network"),
        ({"layers": ["blocks.1", "blocks.2"], "other_layers": ["blocks.1"]}, "as many in layers and other_layers"),
        ({"layers": ["no.such.layer"]}, "no.such.layer"),
        ({"channel_layers": ["blocks.4"], "other_model": "efficientnet_lite2"}, "channels are watched where"),
        ({"target": "no such class"}, "has no class"),
        ({"truth": [1000]}, "1000 classes"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(
    client: httpx2.Client, image_set: dict[str, Any], wrong: dict[str, Any], said: str
) -> None:
    body = {**ASKED, "image_set": image_set["id"], **wrong}
    answered = client.post("/v1/compare", json=body, headers={"Prefer": "respond-async"})
    assert answered.status_code == 422, answered.text
    assert said in answered.text
