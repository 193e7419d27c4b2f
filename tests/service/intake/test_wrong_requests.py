"""What is wrong in a request is named where it is wrong, with what would have been right."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import httpx2
import pytest

from convscope.protocol.requests import Preprocess
from tests.service.support import png_bytes, problem_of

IMAGE = {"image": {"base64": "AAAA"}}


@pytest.mark.parametrize(
    ("operation", "body", "pointer"),
    [
        ("saliency", {**IMAGE, "target": True}, "/target"),
        ("feature-maps", {**IMAGE, "channels": [True, False]}, "/channels"),
        ("classify", {**IMAGE, "top": True}, "/top"),
        ("classify", {**IMAGE, "seed": False}, "/seed"),
        ("cam", {**IMAGE, "targets": [True]}, "/targets"),
        ("maximize", {"steps": True}, "/steps"),
        ("maximize", {"objective": {"layer": "conv", "channel": True}}, "/objective/channel"),
        ("maximize", {"objective": {"unit": {"layer": "conv", "channel": 1, "y": True, "x": 0}}}, "/objective/unit/y"),
        ("classify", {**IMAGE, "preprocess": {"size": True}}, "/preprocess/size"),
    ],
    ids=lambda each: json.dumps(each) if isinstance(each, dict) else each,
)
def test_true_is_no_number(client: httpx2.Client, operation: str, body: dict[str, Any], pointer: str) -> None:
    (error,) = problem_of(client.post(f"/v1/{operation}", json=body), 422, "invalid-request")["errors"]
    assert error == {"pointer": pointer, "detail": "true and false mean nothing here"}


@pytest.mark.parametrize(
    ("wish", "pointer", "said"),
    [
        ({"mean": [0.5, 0.5]}, "/preprocess/mean", "takes one number or 3, not 2"),
        ({"std": [1, 1, 1, 1]}, "/preprocess/std", "takes one number or 3, not 4"),
        ({"std": [1, 0, 1]}, "/preprocess", "std must be above 0"),
        ({"range": "bytes"}, "/preprocess/range", "'unit' or 'byte'"),
        ({"antialias": False, "resize_mode": "lanczos"}, "/preprocess", "take bilinear, bicubic or nearest"),
    ],
    ids=json.dumps,
)
def test_normalizations_that_cannot_be(client: httpx2.Client, wish: dict[str, Any], pointer: str, said: str) -> None:
    for operation in ("classify", "deconv", "saliency"):
        body = {"image": {"base64": base64.b64encode(png_bytes()).decode()}, "preprocess": wish}
        (error,) = problem_of(client.post(f"/v1/{operation}", json=body), 422, "invalid-request")["errors"]
        assert error["pointer"] == pointer
        assert said in error["detail"]


def test_true_is_true_where_it_means_something(client: httpx2.Client) -> None:
    body = {**IMAGE, "upsampled": True, "targets": [True]}
    (error,) = problem_of(client.post("/v1/cam", json=body), 422, "invalid-request")["errors"]
    assert error["pointer"] == "/targets"


@pytest.mark.parametrize(
    ("objective", "pointer", "said"),
    [
        ({"layer": "conv", "channel": 1, "reduce": "median"}, "/objective/reduce", "'mean'"),
        ({"layer": "conv", "direction": [1], "cosine_power": -3}, "/objective/cosine_power", "greater than"),
        ({"layer": "conv", "channel": -1}, "/objective/channel", "greater than"),
        ({"class": 1, "channel": 2}, "/objective/channel", "there is no property 'channel' here"),
        ({"layer": "conv", "chanel": 2}, "/objective/chanel", "near: channel"),
        ({"channel": 2}, "/objective/layer", "required"),
        ({"unit": {"channel": 2}}, "/objective/unit/layer", "required"),
        ({"sum": [{"of": {"layer": "c", "channel": 0, "reduce": 1}}]}, "/objective/sum/0/of/reduce", "'mean'"),
        ([{"class": 1}, {"layer": "conv", "channel": 1, "reduce": "x"}], "/objective/1/reduce", "'mean'"),
    ],
    ids=json.dumps,
)  # fmt: skip
def test_the_place_in_an_objective(client: httpx2.Client, objective: Any, pointer: str, said: str) -> None:
    errors = problem_of(client.post("/v1/maximize", json={"objective": objective}), 422, "invalid-request")["errors"]
    assert [error["pointer"] for error in errors] == [pointer]
    assert said in errors[0]["detail"]
    assert "near: channel," not in errors[0]["detail"] or "chanel" in pointer


def test_a_forgotten_at_sign(client: httpx2.Client) -> None:
    answer = client.post("/v1/classify", files=[("image", (None, b"docs/images/cat.jpg"))])
    (error,) = problem_of(answer, 422, "invalid-request")["errors"]
    assert error["pointer"] == "/image" and "`image=@FILE`" in error["detail"] and "base64" in error["detail"]


@pytest.mark.parametrize("channels", ["top:100000", "first:0", "-1", "top:"])
def test_channels_that_are_none(client: httpx2.Client, channels: str) -> None:
    answer = client.post("/v1/kernels", files=[("filters", (None, channels.encode()))])
    (error,) = problem_of(answer, 422, "invalid-request")["errors"]
    assert "K from 1 to 99999" in error["detail"] and "count from 0" in error["detail"]


def test_a_seed_unit_that_is_none(client: httpx2.Client) -> None:
    (error,) = problem_of(client.post("/v1/deconv", json={**IMAGE, "seed_unit": "top:0"}), 422, "invalid-request")[
        "errors"
    ]
    assert error == {"pointer": "/seed_unit", "detail": "is `max`, `channel`, `layer` or `top:n` with n from 1 to 9999"}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/v1/feature-maps?colums=3", "near: columns"),
        ("/v1/feature-maps?channels=3", "goes into its body"),
        ("/v1/feature-maps?xyzzy=3", "possible: alpha, "),
    ],
)
def test_query_parameters_that_are_none(client: httpx2.Client, address: str, said: str) -> None:
    answer = client.post(address, files={"image": ("a.png", png_bytes(), "image/png")})
    (error,) = problem_of(answer, 422, "invalid-request")["errors"]
    assert error["pointer"].startswith("/query/") and said in error["detail"]


def test_query_parameters_of_other_addresses(client: httpx2.Client) -> None:
    (error,) = problem_of(client.get("/v1/jobs?wait=3"), 422, "invalid-request")["errors"]
    assert "possible: cursor, limit, operation, state" in error["detail"]


def test_one_number_is_a_square(client: httpx2.Client) -> None:
    assert Preprocess.model_validate({"size": 96}).size == (96, 96)
    assert Preprocess.model_validate({"size": [96, 64]}).size == (96, 64)
    body = {**IMAGE, "preprocess": {"size": 8}}
    errors = problem_of(client.post("/v1/classify", json=body), 422, "invalid-request")["errors"]
    assert errors and all("greater than or equal to 16" in error["detail"] for error in errors)


def test_a_body_that_is_packed(client: httpx2.Client) -> None:
    packed = gzip.compress(b'{"layer": "conv"}')
    for data, media in (
        (packed, "application/json"),
        (packed, "multipart/form-data; boundary=x"),
        (packed, "image/png"),
    ):
        headers = {"Content-Type": media, "Content-Encoding": "gzip"}
        address = "/v1/images" if media == "image/png" else "/v1/kernels"
        problem = problem_of(client.post(address, content=data, headers=headers), 415, "unsupported-media-type")
        assert "gzip" in problem["detail"] and problem["possible"] == ["identity"]


def test_two_idempotency_keys(client: httpx2.Client) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Content-Type", "application/json")]
    problem = problem_of(client.post("/v1/kernels", content=b"{}", headers=headers), 422, "invalid-request")
    assert "more than once" in problem["detail"]
