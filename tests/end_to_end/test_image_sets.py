"""An image set as a request's images: listed by reference in Redis, on disk for the engine, gone afterwards."""

from __future__ import annotations

import io
import zipfile

import httpx2
import numpy as np
import skimage.data
from PIL import Image

from tests.end_to_end.test_whole import finished


def crops(count: int) -> bytes:
    photograph = skimage.data.astronaut()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for k in range(count):
            top, left = (37 * k) % 380, (53 * k) % 380
            part = io.BytesIO()
            Image.fromarray(photograph[top : top + 128, left : left + 128]).save(part, "PNG")
            archive.writestr(f"{k:03}.png", part.getvalue())
    return buffer.getvalue()


def test_cka_over_a_set_equals_cka_over_its_images(client: httpx2.Client) -> None:
    sent = client.post("/v1/image-sets", content=crops(24), headers={"Content-Type": "application/zip"})
    assert sent.status_code == 201, sent.text
    image_set = sent.json()
    fields = {"mode": "layers", "layers": ["blocks.1", "blocks.3"], "estimator": "debiased", "batch_images": 8}
    over_set = finished(client, client.post("/v1/cka", json={**fields, "image_set": image_set["id"]}))
    assert over_set["state"] == "succeeded", over_set["error"]
    assert over_set["result"]["facts"]["images"] == 24
    assert over_set["result"]["facts"]["matrices"][0]["batches"] == 3
    members = client.get(f"/v1/image-sets/{image_set['id']}", params={"limit": 100}).json()["members"]
    images = [{"id": member["id"]} for member in members]
    over_images = finished(client, client.post("/v1/cka", json={**fields, "images": images}))
    found, expected = (np.array(job["result"]["arrays"]["matrix"]["data"]) for job in (over_set, over_images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    picture = client.get(f"/v1/jobs/{over_set['id']}/result", headers={"Accept": "image/png"})
    assert picture.status_code == 200


def test_an_unknown_set_is_said(client: httpx2.Client) -> None:
    refused = client.post("/v1/cka", json={"image_set": "set-0"})
    assert refused.status_code == 404
    assert refused.headers["content-type"] == "application/problem+json"
