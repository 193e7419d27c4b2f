"""Image sets and ranges of them in operations that answer image by image, over HTTP."""

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

IMAGES = 70
"""More than one request takes by name."""
FRESH = {"Cache-Control": "no-cache", "Prefer": "respond-async"}
ASKED: dict[str, dict[str, Any]] = {
    "classify": {"top": 2},
    "feature-maps": {"layer": "blocks.2", "channels": [0, 7]},
    "cam": {"methods": ["gradcam"]},
    "saliency": {},
    "occlusion": {"window": 96, "stride": 96},
    "deconv": {"channels": [3]},
}


@pytest.fixture(scope="module")
def image_set(client: httpx2.Client) -> dict[str, Any]:
    sent = client.post("/v1/image-sets", content=crops(IMAGES), headers={"Content-Type": "application/zip"})
    assert sent.status_code == 201, sent.text
    found: dict[str, Any] = sent.json()
    found["members"] = client.get(found["href"], params={"limit": 100}).json()["members"]
    return found


def arrays_of(client: httpx2.Client, job: dict[str, Any]) -> dict[str, np.ndarray]:
    assert job["state"] == "succeeded", job["error"]
    listed = job["result"]["arrays"]
    return {name: np.load(io.BytesIO(client.get(one["href"]).content)) for name, one in listed.items()}


@pytest.mark.parametrize("operation", ASKED)
def test_a_range_is_the_images_by_name(client: httpx2.Client, image_set: dict[str, Any], operation: str) -> None:
    start, stop = (5, 6) if operation in ("occlusion", "deconv") else (5, 8)
    wish = ASKED[operation]
    ranged = {**wish, "image_set": image_set["id"], "image_range": f"{start}:{stop}"}
    named = {**wish, "images": [{"id": one["id"]} for one in image_set["members"][start:stop]]}
    of_set, by_name = (
        finished(client, client.post(f"/v1/{operation}", json=body, headers=FRESH)) for body in (ranged, named)
    )
    found, right = arrays_of(client, of_set), arrays_of(client, by_name)
    assert found.keys() == right.keys()
    for name, array in right.items():
        np.testing.assert_array_equal(found[name], array)
    assert of_set["result"]["facts"] == by_name["result"]["facts"]
    assert of_set["request"]["image_range"] == [start, stop]
    if operation != "classify":
        pictures = [
            client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "image/png"}) for job in (of_set, by_name)
        ]
        assert pictures[0].status_code == 200 and pictures[0].content == pictures[1].content


def test_a_form_takes_a_range(client: httpx2.Client, image_set: dict[str, Any]) -> None:
    job = finished(client, client.post("/v1/classify", data={"image_set": image_set["id"], "image_range": "0:2"}))
    assert len(job["result"]["facts"]["predictions"]) == 2


def test_more_than_one_request_takes_is_a_sweep_that_survives_its_engine(
    client: httpx2.Client, launched: Launched, image_set: dict[str, Any]
) -> None:
    body = {**ASKED["cam"], "image_set": image_set["id"], "targets": ["predicted"]}
    started = client.post("/v1/cam", json=body, headers=FRESH).json()
    path = started["links"]["self"]
    until = time.monotonic() + 60
    while not client.get(path).json()["progress"]["done"] > 3 and time.monotonic() < until:
        time.sleep(0.02)
    for engine in launched.member("workers.engine").children():
        os.kill(engine.pid, signal.SIGKILL)
    job = finished(client, client.get(path))
    found = arrays_of(client, job)
    facts = job["result"]["facts"]
    assert [one["image"] for one in facts["maps"]] == list(range(IMAGES))
    # Each map stands where its facts say, with the bits of the image asked for alone.
    for place in (0, 37, 69):
        alone = finished(
            client,
            client.post("/v1/cam", json={**ASKED["cam"], "image": image_set["members"][place]["id"]}, headers=FRESH),
        )
        told, own = facts["maps"][place], alone["result"]["facts"]["maps"][0]
        assert {**told, "image": 0, "item": 0} == own
        np.testing.assert_array_equal(found[told["array"]][told["item"]], arrays_of(client, alone)[own["array"]][0])
    name = f"gradcam/{facts['maps'][37]['target']}/37"
    drawn = client.get(f"/v1/jobs/{job['id']}/result", params={"pick": name}, headers={"Accept": "image/png"})
    assert drawn.status_code == 200 and Image.open(io.BytesIO(drawn.content)).width >= 128, drawn.text


def test_what_a_set_cannot_give_is_told_at_once(client: httpx2.Client, image_set: dict[str, Any]) -> None:
    own = {"image_set": image_set["id"]}
    wrong: list[tuple[str, dict[str, Any], str, str]] = [
        ("classify", {**own, "image_range": "60:71"}, "invalid-request", "the set has 70 images"),
        ("classify", {**own, "image_range": [3, 3]}, "invalid-request", "start:stop"),
        ("classify", {**own, "image_range": "first"}, "invalid-request", "start:stop"),
        ("classify", {"image": image_set["members"][0]["id"], "image_range": "0:1"}, "invalid-request", "image_set"),
        ("occlusion", own, "too-many-images", "image_range=0:1"),
        ("deconv", {**own, "image_range": "4:6"}, "too-many-images", "image_range=4:5"),
        ("cam", {**own, "image": image_set["members"][0]["id"]}, "invalid-request", "either images or image_set"),
        ("cam", {**own, "mask": {"id": image_set["members"][0]["id"]}}, "invalid-request", "mask"),
    ]
    for operation, body, problem, said in wrong:
        refused = client.post(f"/v1/{operation}", json=body)
        assert refused.status_code in (413, 422) and refused.json()["type"] == f"/problems/{problem}", refused.text
        assert said in refused.text, refused.text
