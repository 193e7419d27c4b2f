"""How often a network is right over a labelled set, over HTTP: the folders of an archive are the classes."""

from __future__ import annotations

import io
import zipfile

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.test_whole import finished
from tests.workers import fakes

EACH = 8


@pytest.fixture(scope="module")
def digits(client: httpx2.Client) -> str:
    """80 digits in folders `train/0` to `train/9`, more than one request takes by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for label in range(10):
            for number in range(EACH):
                picture = io.BytesIO()
                Image.fromarray(fakes.digit(label, number).numpy()).save(picture, "PNG")
                archive.writestr(f"train/{label}/{number}.png", picture.getvalue())
        blank = io.BytesIO()
        Image.new("L", (28, 28)).save(blank, "PNG")
        archive.writestr("blank.png", blank.getvalue())
    sent = client.post("/v1/image-sets", content=buffer.getvalue(), headers={"Content-Type": "application/zip"})
    assert sent.status_code == 201, sent.text
    return str(sent.json()["id"])


def test_a_labelled_set_is_judged(client: httpx2.Client, digits: str) -> None:
    body = {"model": "digits", "image_set": digits, "image_range": "0:80", "truth": "folders", "top": 1}
    job = finished(client, client.post("/v1/classify", json=body))
    assert job["state"] == "succeeded", job["error"]
    facts = job["result"]["facts"]
    told = facts["judgement"]
    predicted = np.array([one[0]["index"] for one in facts["predictions"]])
    truth = np.repeat(np.arange(10), EACH)
    assert told["images"] == 80 and told["right"] == int((predicted == truth).sum()) > 70
    confusion = np.load(io.BytesIO(client.get(job["result"]["arrays"]["confusion"]["href"]).content))
    right = np.zeros((10, 10), int)
    np.add.at(right, (truth, predicted), 1)
    np.testing.assert_array_equal(confusion, right)
    assert [one["images"] for one in told["classes"]] == [EACH] * 10
    assert 0 <= told["calibration"]["expected_error"] < 0.2


def test_a_few_are_judged_at_once_by_names(client: httpx2.Client, digits: str) -> None:
    body = {"model": "digits", "image_set": digits, "image_range": [7, 9], "truth": ["0", 1]}
    job = finished(client, client.post("/v1/classify", json=body))
    assert job["result"]["facts"]["judgement"]["images"] == 2
    form = {"model": "digits", "image_set": digits, "image_range": "7:9", "truth": "0,1"}
    same = finished(client, client.post("/v1/classify", data=form))
    assert same["result"]["facts"] == job["result"]["facts"]


def test_what_is_no_truth_is_told_at_once(client: httpx2.Client, digits: str) -> None:
    own = {"model": "digits", "image_set": digits}
    for fields, said in (
        ({"truth": "folders"}, "1 images of the set lie in no folder, as 'blank.png'"),
        ({"image_range": "0:3", "truth": [0, 1]}, "2 classes for 3 images"),
        ({"image_range": "0:1", "truth": [10]}, "digits has 10 classes"),
        ({"image_range": "0:1", "truth": ["zebra"]}, "/truth/0"),
        ({"image_range": "0:1", "truth": "predicted"}, "/truth"),
    ):
        refused = client.post("/v1/classify", json={**own, **fields})
        assert refused.status_code == 422 and refused.json()["type"] == "/problems/invalid-request", refused.text
        assert said in refused.text, refused.text


def test_channels_tell_which_classes_excite_them(client: httpx2.Client, digits: str) -> None:
    body = {
        "model": "digits", "image_set": digits, "image_range": "0:80", "groups": "folders", "k": 2,
        "channels": "first:6", "patches": False,
    }  # fmt: skip
    job = finished(client, client.post("/v1/top-activations", json=body))
    assert job["state"] == "succeeded", job["error"]
    facts, arrays = job["result"]["facts"], job["result"]["arrays"]
    assert facts["groups"] == [{"name": str(label), "images": EACH} for label in range(10)]
    (layer,) = facts["layers"]
    means = np.load(io.BytesIO(client.get(arrays[f"group_means/{layer['layer']}"]["href"]).content))
    assert means.shape == (6, 10)
    for place, one in enumerate(layer["channels"]):
        assert one["groups"][0]["group"] == str(means[place].argmax())
        assert one["mean"] == pytest.approx(float(means[place].mean()), rel=1e-4)  # groups are of one size
    refused = client.post("/v1/top-activations", json={**body, "groups": ["a", "b"]})
    assert refused.status_code == 422 and "2 names for 80 images" in refused.text
