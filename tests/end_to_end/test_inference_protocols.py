"""A real network through the Open Inference Protocol and KServe's explainer: the numbers of our own answers."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import httpx2
import numpy as np
import pytest

from convscope_client import Client
from tests.contract.trees import ROOT

MODEL, LAYER = "efficientnet_lite0", "blocks.0.0"
KSERVE = os.environ.get("CONVSCOPE_KSERVE_PYTHON", "")


def test_outputs_are_what_classify_and_feature_maps_answer(client: httpx2.Client, address: str, chelsea: bytes) -> None:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(chelsea).decode()]}
    asked = {"inputs": [tensor], "outputs": [{"name": "logits"}, {"name": LAYER}]}
    answer = client.post(f"/v2/models/{MODEL}/infer", json=asked)
    assert answer.status_code == 200, answer.text
    found = {one["name"]: np.array(one["data"], np.float32).reshape(one["shape"]) for one in answer.json()["outputs"]}
    with Client(address) as ours:
        logits = ours.classify(chelsea).result().array("logits")
        maps = ours.feature_maps(chelsea, layer=LAYER, channels="all").result().array(f"maps/{LAYER}")
    np.testing.assert_array_equal(found["logits"], logits)
    np.testing.assert_array_equal(found[LAYER], maps)
    described = client.get(f"/v2/models/{MODEL}").json()["outputs"]
    shapes = {one["name"]: one["shape"] for one in described}
    assert all(list(array.shape)[1:] == shapes[name][1:] for name, array in found.items())


def test_pixels_as_json_are_the_picture(client: httpx2.Client, address: str) -> None:
    """An image of the usual size has more numbers than other requests may have."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    tensor = {"name": "image", "shape": list(pixels.shape), "datatype": "UINT8"}
    flat = client.post(f"/v2/models/{MODEL}/infer", json={"inputs": [{**tensor, "data": pixels.ravel().tolist()}]})
    nested = client.post(f"/v2/models/{MODEL}/infer", json={"inputs": [{**tensor, "data": pixels.tolist()}]})
    assert flat.status_code == nested.status_code == 200, flat.text + nested.text
    assert flat.json()["outputs"] == nested.json()["outputs"]
    with Client(address) as ours:
        logits = ours.classify([*pixels]).result().array("logits")
    np.testing.assert_array_equal(np.array(flat.json()["outputs"][0]["data"], np.float32).reshape(2, 1000), logits)
    many = client.post(f"/v2/models/{MODEL}/infer", json={"inputs": [{**tensor, "data": [0] * (1 << 20)}]})
    assert many.status_code == 413 and many.json()["limit"] == 1 << 20


def test_an_explanation_is_what_cam_answers(client: httpx2.Client, address: str, chelsea: bytes) -> None:
    instance = {"image_bytes": {"b64": base64.b64encode(chelsea).decode()}}
    asked = {"instances": [instance, instance], "parameters": {"methods": ["layercam"], "targets": ["predicted"]}}
    answer = client.post(f"/v1/models/{MODEL}:explain", json=asked)
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["explanations"]
    assert first["facts"] == second["facts"]
    with Client(address) as ours:
        result = ours.cam(chelsea, methods=["layercam"]).result()
        array = result.facts["maps"][0]["array"]
        np.testing.assert_array_equal(np.array(first["arrays"][array]["data"], np.float32), result.array(array))
    picture = client.get(first["pictures"][0]["href"], headers={"Accept": "image/png"})
    assert picture.content.startswith(b"\x89PNG")


@pytest.mark.skipif(not KSERVE, reason="CONVSCOPE_KSERVE_PYTHON names no interpreter with kserve 0.21")
def test_kserves_own_client(address: str, chelsea: bytes, tmp_path: Path) -> None:
    """In an environment of its own: kserve pins versions of pandas and psutil that other tools do not go with."""
    image = tmp_path / "chelsea.png"
    image.write_bytes(chelsea)
    script = ROOT / "tests" / "pipelines" / "kserve_client.py"
    done = subprocess.run([KSERVE, str(script), address, str(image)], stdout=subprocess.PIPE, timeout=120, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["live"], said["ready"], said["model"]) == (True, True, True)
    assert said["binary=False"] == said["binary=True"]
    assert said["binary=True"]["logits"][0] == [1, 1000]
    with Client(address) as ours:
        best = ours.classify(chelsea).result().facts["predictions"][0][0]["index"]
    assert said["class"] == said["explained"] == best


def test_a_removed_job_takes_its_pictures_along(client: httpx2.Client) -> None:
    asked = {"layer": LAYER, "channels": [1], "steps": 3, "size": 64}
    job = client.post("/v1/maximize", json=asked, headers={"Prefer": "wait=60"}).json()
    made = f"/v1/images/{job['result']['pictures'][0]['image_id']}"
    assert client.get(made).status_code == 200
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(made).status_code == 404
