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


def test_a_layers_64_channels_come_from_one_photograph_in_one_request(client: httpx2.Client) -> None:
    """DeepDream's way, at a small size: the photograph is where all start, and few steps stay near it."""
    photograph = Image.fromarray(np.asarray(Image.effect_noise((64, 64), 40).convert("RGB")))
    file = io.BytesIO()
    photograph.save(file, "png")
    fields = {"layer": "blocks.3", "channels": "first:64", "steps": "3", "size": "64", "preset": "pixel"}
    job = finished(client, client.post("/v1/maximize", files={"image": ("noise.png", file.getvalue())}, data=fields))
    assert job["state"] == "succeeded", job["error"]
    told = job["result"]["facts"]["pictures"]
    assert [one["channel"] for one in told] == list(range(64))
    assert len({one["image_id"] for one in told if not one["dead"]}) == sum(not one["dead"] for one in told) > 32
    rising = sum(one["loss_last"] > one["loss_first"] for one in told)
    assert rising >= 56
    pixels = np.load(io.BytesIO(client.get(job["result"]["arrays"]["images"]["href"]).content))
    near = np.abs(pixels[[not one["dead"] for one in told]].astype(float) - np.asarray(photograph)).mean((1, 2, 3))
    assert pixels.shape == (64, 64, 64, 3) and near.max() < 3 * 2.5, near  # steps of at most the rate
    whole = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "image/png"})
    assert whole.status_code == 200, whole.text
    alive = next(one for one in told if not one["dead"])
    sent_on = {"image": {"id": alive["image_id"]}, "layer": "blocks.3"}
    maps = client.post("/v1/feature-maps?title=mean", json=sent_on, headers={"Accept": "image/png"})
    assert maps.status_code == 200 and maps.content[:4] == b"\x89PNG", maps.text
