"""The Open Inference Protocol and KServe's explainer: their forms, their refusals, tensors in JSON and behind it."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.service.support import HOLD, Service, Worker, png_bytes, problem_of, toy_maps

INFER = "/v2/models/toy/infer"
EXPLAIN = "/v1/models/toy:explain"
LENGTH = "Inference-Header-Content-Length"


def files(*values: int) -> dict[str, Any]:
    data = [base64.b64encode(png_bytes(value=value)).decode() for value in values]
    return {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}


def numbers(datatype: str, shape: list[int], *data: float) -> dict[str, Any]:
    return {"name": "image", "shape": shape, "datatype": datatype, "data": list(data)}


def asked(tensor: dict[str, Any], *outputs: str, **more: Any) -> dict[str, Any]:
    return {"inputs": [tensor], "outputs": [{"name": name} for name in outputs], **more}


def expected(value: int, shape: tuple[int, int, int] = (8, 6, 6)) -> np.ndarray:
    return toy_maps(np.full((16, 20, 3), value, np.uint8), shape)


class TestServer:
    def test_it_lives_is_ready_and_says_what_it_is(self, client: httpx2.Client, worker: Worker) -> None:
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}
        about = client.get("/v2").json()
        assert about["name"] == "convscope" and about["extensions"] == ["binary_tensor_data"]

    def test_networks(self, client: httpx2.Client) -> None:
        assert client.get("/v2/models").json() == {"models": ["toy", "toy-random"]}
        assert client.get("/v2/models/toy/ready").json() == {"name": "toy", "ready": True}
        about = client.get("/v2/models/toy").json()
        assert about["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        shapes = {one["name"]: one["shape"] for one in about["outputs"]}
        assert shapes["logits"] == [-1, 2] and shapes["conv"] == [-1, 8, 6, 6] and "fc" not in shapes
        for path in ("/v2/models/nobody", "/v2/models/nobody/ready"):
            assert problem_of(client.get(path), 404, "not-found")["error"]
        problem_of(client.get("/v2/models/broken/ready"), 424, "weights-unavailable")


class TestInfer:
    def test_layers_are_outputs_of_files_in_json(self, client: httpx2.Client) -> None:
        body = asked(files(11, 12), "conv", "conv.relu#2", id="mine", model_name="toy")
        answer = client.post(INFER, json=body).json()
        assert (answer["model_name"], answer["id"]) == ("toy", "mine")
        assert [one["name"] for one in answer["outputs"]] == ["conv", "conv.relu#2"]
        conv = answer["outputs"][0]
        assert (conv["datatype"], conv["shape"]) == ("FP32", [2, 8, 6, 6])
        found = np.array(conv["data"], np.float32).reshape(conv["shape"])
        np.testing.assert_array_equal(found, np.stack([expected(11), expected(12)]))
        (job,) = answer["parameters"]["jobs"].split(",")
        assert client.get(f"/v1/jobs/{job}").json()["operation"] == "feature-maps"

    def test_bytes_behind_the_json_both_ways(self, client: httpx2.Client) -> None:
        image = png_bytes(value=13)
        raw = struct.pack("<I", len(image)) + image
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps(asked(tensor, "conv", parameters={"binary_data_output": True})).encode()
        sent = {LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        answer = client.post(INFER, content=head + raw, headers=sent)
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers[LENGTH])
        (output,) = json.loads(answer.content[:length])["outputs"]
        assert "data" not in output and output["parameters"] == {"binary_data_size": 4 * 8 * 6 * 6}
        found = np.frombuffer(answer.content[length:], "<f4").reshape(output["shape"])
        np.testing.assert_array_equal(found[0], expected(13))

    @pytest.mark.parametrize("behind", [False, True])
    def test_pixels_are_the_picture_of_these(self, client: httpx2.Client, behind: bool) -> None:
        pixels = np.random.default_rng(3 + behind).integers(0, 256, (1, 5, 7, 3), np.uint8)
        tensor: dict[str, Any] = {"name": "image", "shape": [1, 5, 7, 3], "datatype": "UINT8"}
        tensor |= {"parameters": {"binary_data_size": pixels.nbytes}} if behind else {"data": pixels.tolist()}
        head = json.dumps(asked(tensor, "conv")).encode()
        raw = pixels.tobytes() if behind else b""
        answer = client.post(INFER, content=head + raw, headers={LENGTH: str(len(head))})
        assert answer.status_code == 200, answer.text
        found = np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(8, 6, 6)
        np.testing.assert_array_equal(found, toy_maps(pixels[0], (8, 6, 6)))

    def test_what_is_too_long_for_json_is_refused_before_it_is_sent_and_comes_as_bytes(
        self, client: httpx2.Client
    ) -> None:
        problem = problem_of(client.post(INFER, json=asked(files(14), "huge")), 422, "too-expensive")
        assert "binary_data_output" in problem["detail"]
        answer = client.post(INFER, json=asked(files(14), "huge", parameters={"binary_data_output": True}))
        assert answer.status_code == 200
        assert len(answer.content) == int(answer.headers[LENGTH]) + 4 * 64 * 200 * 200

    @pytest.mark.parametrize(
        "change, place",
        [
            ({"inputs": []}, "/inputs"),
            ({"inputs": [{**files(1), "name": "x"}]}, "/inputs/0/name"),
            ({"inputs": [{**files(1), "shape": [2]}]}, "/inputs/0/data"),
            ({"inputs": [{**files(1), "shape": [1, 3]}]}, "/inputs/0/shape"),
            ({"inputs": [{**files(1), "data": ["%%%"]}]}, "/inputs/0/data/0"),
            ({"inputs": [{**files(1), "datatype": "INT64"}]}, "/inputs/0/datatype"),
            ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}, "/inputs/0"),
            ({"inputs": [numbers("UINT8", [1, 1, 1, 3], 1, 2)]}, "/inputs/0/data"),
            ({"inputs": [numbers("UINT8", [1, 1, 1, 3], 1, 2, 256)]}, "/inputs/0/data"),
            ({"inputs": [numbers("FP32", [1, 1, 1, 1], 1.5)]}, "/inputs/0/data"),
            ({"outputs": [{"name": "conv"}, {"name": "conv"}]}, "/outputs/0/name"),
            ({"parameters": {"temperature": 1}}, "/parameters/temperature"),
        ],
    )  # fmt: skip
    def test_wrong_requests_say_where(self, client: httpx2.Client, change: dict[str, Any], place: str) -> None:
        problem = problem_of(client.post(INFER, json={**asked(files(1), "conv"), **change}), 422, "invalid-request")
        assert [one["pointer"] for one in problem["errors"]] == [place]
        assert problem["error"] == problem["detail"]

    def test_other_refusals(self, client: httpx2.Client) -> None:
        problem_of(client.post(INFER, json=asked(files(1), "nowhere")), 422, "unknown-layer")
        problem_of(client.post(INFER, json=asked(files(1), "fc")), 422, "not-applicable")
        problem_of(client.post("/v2/models/nobody/infer", json=asked(files(1))), 404, "not-found")
        problem_of(client.post(INFER, content=b"{}", headers={LENGTH: "3"}), 400, "malformed-body")
        problem_of(
            client.post(INFER, content=b"{", headers={"Content-Type": "image/png"}), 415, "unsupported-media-type"
        )
        body = json.dumps(asked(files(1))).encode()
        problem_of(client.post(INFER, content=body + b"x", headers={LENGTH: str(len(body))}), 400, "malformed-body")

    def test_a_failure_of_the_job_is_the_answer(self, client: httpx2.Client) -> None:
        problem_of(client.post(INFER, json=asked(files(15))), 422, "not-applicable")  # the worker cannot classify


class TestExplain:
    def test_wrong_requests_say_where(self, client: httpx2.Client) -> None:
        image = {"b64": base64.b64encode(png_bytes()).decode()}
        for body, place in (
            ({"instances": []}, "/instances"),
            ({"instances": [{"image": 1}]}, "/instances/0"),
            ({"instances": [{"image_bytes": {"b64": "%"}}]}, "/instances/0/image_bytes/b64"),
            ({"instances": [[[[1.5, 1, 1]]]]}, "/instances/0"),
            ({"instances": [image], "parameters": {"operation": "cka"}}, "/parameters/operation"),
            ({"instances": [image], "parameters": {"image_set": "s"}}, "/parameters/image_set"),
            ({"instances": [image], "parameters": {"methods": ["none"]}}, "/methods/0"),
        ):
            problem = problem_of(client.post(EXPLAIN, json=body), 422, "invalid-request")
            assert [one["pointer"] for one in problem["errors"]] == [place], body
        problem_of(client.post("/v1/models/nobody:explain", json={"instances": [image]}), 404, "not-found")

    def test_what_takes_too_long_is_said_and_cancelled(self, service: Service, worker: Worker) -> None:
        image = {"b64": base64.b64encode(png_bytes(value=16)).decode()}
        settings = service.settings.model_copy(update={"longest_wait_s": 0.2})
        with Service(settings) as hasty, hasty.client() as client, worker.idle():
            body = {"instances": [image], "parameters": {"seed": HOLD, "labels": {"kind": "explained"}}}
            problem_of(client.post(EXPLAIN, json=body), 504, "deadline-exceeded")
            (job,) = client.get("/v1/jobs?label.kind=explained").json()["jobs"]
            assert job["state"] == "cancelled"
