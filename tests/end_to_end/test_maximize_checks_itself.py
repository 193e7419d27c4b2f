"""The tutorial's way to check itself: pictures that maximize channels are sent on to feature-maps."""

from __future__ import annotations

import io

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.test_image_sets import crops
from tests.end_to_end.test_whole import finished

LAYER, CHANNELS = "blocks.1", 8


def test_pictures_go_on_to_feature_maps_and_excite_what_they_were_made_for(client: httpx2.Client) -> None:
    sent = client.post("/v1/image-sets", content=crops(24), headers={"Content-Type": "application/zip"})
    body = {"layer": LAYER, "channels": f"first:{CHANNELS}", "steps": 24, "image_set": sent.json()["id"]}
    job = finished(client, client.post("/v1/maximize", json=body))
    assert job["state"] == "succeeded", job["error"]
    facts = job["result"]["facts"]
    told = facts["pictures"]
    assert [one["channel"] for one in told] == list(range(CHANNELS))
    assert facts["references"] == 24
    assert sum(one["percentile"] == 100.0 for one in told) >= CHANNELS - 2, told
    means = np.load(io.BytesIO(client.get(job["result"]["arrays"]["channel_means"]["href"]).content))
    pixels = np.load(io.BytesIO(client.get(job["result"]["arrays"]["images"]["href"]).content))
    for number in (0, CHANNELS - 1):
        image = {"id": told[number]["image_id"]}
        fields = {"image": image, "layer": LAYER, "channels": "all", "preprocess": {"crop": "none"}}
        maps = finished(client, client.post("/v1/feature-maps", json=fields))["result"]["facts"]["layers"][0]
        np.testing.assert_allclose(maps["mean"][0], means[number], atol=1e-4 * np.abs(means[number]).max())
        assert told[number]["value"] == pytest.approx(float(means[number, number]), rel=1e-4)
    whole = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "image/png"})
    assert whole.status_code == 200, whole.text
    with Image.open(io.BytesIO(whole.content)) as grid:
        assert grid.width * grid.height > pixels.size / 3, "every tile at its own size, with its title"
