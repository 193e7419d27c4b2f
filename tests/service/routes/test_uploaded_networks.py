"""PUT, GET and DELETE /v1/models/{id}: who may, what is refused with which word, and what a repetition means."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import safetensors.numpy

from convscope.settings import Settings
from tests.service.support import Service, Worker, png_bytes, problem_of, publish_card

KEYS = {"alice": True, "bob": True, "carol": False}
WEIGHTS = safetensors.numpy.save({"weight": np.arange(6, dtype=np.float32).reshape(2, 3)})
SAID = {"source": "torchvision:resnet18", "classes": "a,b"}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, service_settings: Settings, worker: Worker) -> Iterator[Service]:
    """The service for three callers, of whom two may bring networks."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(
        "".join(
            f'[callers.{name}]\nkey_sha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n'
            f"models = {str(may).lower()}\n"
            for name, may in KEYS.items()
        )
    )
    limits = {"api_keys_file": path, "network_mib": 1, "caller_networks": 3, "caller_networks_gib": 1.0e-3}
    with Service(service_settings.model_copy(update=limits)) as running:
        yield running


@pytest.fixture
def as_(keyed: Service) -> Iterator[dict[str, httpx2.Client]]:
    """A client of each caller; what they brought is gone afterwards."""
    made = {name: keyed.client(headers={"Authorization": f"Bearer {name}"}) for name in KEYS}
    yield made
    for client in made.values():
        for line in client.get("/v1/models").json()["models"]:
            if (line["upload"] or {}).get("own"):
                client.delete(f"/v1/models/{line['id']}")
        client.close()


def put(client: httpx2.Client, model: str, data: bytes = WEIGHTS, **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    fields = {**SAID, **more}
    return client.put(
        f"/v1/models/{model}",
        data={name: value for name, value in fields.items() if value is not None},
        files=[("file", ("weights", data, "application/octet-stream"))],
        headers=headers,
    )


def ids(client: httpx2.Client) -> set[str]:
    return {line["id"] for line in client.get("/v1/models").json()["models"] if line["upload"]}


def test_what_was_brought_is_there_and_the_same_again_changes_nothing(as_: dict[str, httpx2.Client]) -> None:
    first = put(as_["alice"], "tea", title="Tea leaves")
    assert first.status_code == 201 and first.headers["location"] == "/v1/models/tea", first.text
    line = first.json()
    assert (line["title"], line["source"], line["problem"]) == ("Tea leaves", "torchvision:resnet18", None)
    assert line["upload"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert (line["upload"]["own"], line["upload"]["visible_to"], line["upload"]["bytes"]) == (
        True,
        "owner",
        len(WEIGHTS),
    )
    again = put(as_["alice"], "tea", title="Tea leaves")
    assert again.status_code == 200 and again.headers["etag"] == first.headers["etag"]
    assert again.json()["upload"]["updated_at"] == line["upload"]["updated_at"]
    other = put(as_["alice"], "tea", title="Tea leaves", classes="b,a")
    assert other.status_code == 200 and other.headers["etag"] != first.headers["etag"]
    assert other.json()["upload"]["created_at"] == line["upload"]["created_at"]
    # The file is named by its digest where the store has it already.
    body = {"source": "torchvision:resnet18", "file": {"sha256": line["upload"]["sha256"].upper()}}
    referred = as_["alice"].put("/v1/models/tea-2", json=body)
    assert referred.status_code == 201 and referred.json()["upload"]["sha256"] == line["upload"]["sha256"]
    assert as_["alice"].delete("/v1/models/tea").status_code == 204
    assert ids(as_["alice"]) == {"tea-2"}


def test_who_may_do_what(as_: dict[str, httpx2.Client], keyed: Service) -> None:
    """Every caller × every method × a private and a shared network of Alice's."""
    assert put(as_["alice"], "hers").status_code == 201
    assert put(as_["alice"], "everyones", visible_to="all").status_code == 201
    image = {"image": ("a.png", png_bytes(value=41), "image/png")}
    for name in KEYS:
        client, own = as_[name], name == "alice"
        assert ids(client) == ({"hers", "everyones"} if own else {"everyones"})
        # No worker describes them here: what may be seen is waited for, and what may not is not there.
        for model, seen in (("hers", own), ("everyones", True)):
            for path in (f"/v1/models/{model}", f"/v1/models/{model}/layers"):
                problem_of(client.get(path), *((503, "queue-unavailable") if seen else (404, "not-found")))
            used = client.post("/v1/feature-maps", files=image, data={"model": model})
            problem_of(used, *((503, "queue-unavailable") if seen else (422, "unknown-model")))
            compared = client.post(
                "/v1/cka",
                files=[("image", image["image"])] * 4,
                data={"model": "toy", "other_model": model, "mode": "models"},
            )
            problem_of(compared, *((503, "queue-unavailable") if seen else (422, "unknown-model")))
        if own:
            continue
        problem_of(put(client, "hers"), 403, "forbidden")
        problem_of(put(client, "everyones"), 403, "forbidden")
        missing = (404, "not-found") if KEYS[name] else (403, "forbidden")
        problem_of(client.delete("/v1/models/hers"), *missing)
        problem_of(client.delete("/v1/models/everyones"), 403, "forbidden")
        if not KEYS[name]:
            assert "models = true" in problem_of(put(client, "another"), 403, "forbidden")["detail"]
    assert ids(as_["alice"]) == {"hers", "everyones"}
    # A name with a version is ours, not a caller's.
    etag = as_["alice"].put(
        "/v1/models/hers",
        json={"source": SAID["source"], "classes": ["a", "b"], "file": {"sha256": hashlib.sha256(WEIGHTS).hexdigest()}},
    )
    version = etag.headers["etag"].strip('"').partition("-")[0]
    publish_card(keyed.settings, f"hers@{version}")
    assert as_["alice"].get("/v1/models/hers").json()["upload"]["own"] is True
    problem_of(as_["bob"].get("/v1/models/hers"), 404, "not-found")
    for client in as_.values():
        problem_of(client.get(f"/v1/models/hers@{version}"), 404, "not-found")
        asked = client.post("/v1/feature-maps", files=image, data={"model": f"hers@{version}"})
        problem_of(asked, 422, "unknown-model")


def test_without_keys_nobody_may(service: Service) -> None:
    with service.client() as client:
        assert "has no keys" in problem_of(put(client, "tea"), 403, "forbidden")["detail"]
        problem_of(client.delete("/v1/models/tea"), 403, "forbidden")


def test_a_changed_network_is_another_computation(as_: dict[str, httpx2.Client], keyed: Service) -> None:
    client, files = as_["alice"], {"image": ("a.png", png_bytes(value=43), "image/png")}
    answers = []
    for classes in ("a,b", "b,a", "a,b"):
        version = put(client, "tea", classes=classes).headers["etag"].strip('"').partition("-")[0]
        publish_card(keyed.settings, f"tea@{version}")
        answer = client.post("/v1/feature-maps", files=files, data={"model": "tea", "layers": "conv"})
        assert answer.status_code == 200, answer.text
        answers.append(client.get(f"/v1/jobs/{answer.json()['id']}").json())
    assert [answer["request"]["model"] for answer in answers] == ["tea"] * 3


def test_what_headers_make_it_depend_on(as_: dict[str, httpx2.Client]) -> None:
    client = as_["alice"]
    problem_of(put(client, "tea", headers={"If-Match": "*"}), 412, "precondition-failed")
    tag = put(client, "tea", headers={"If-None-Match": "*"}).headers["etag"]
    problem_of(put(client, "tea", title="B", headers={"If-None-Match": "*"}), 412, "precondition-failed")
    problem_of(put(client, "tea", title="B", headers={"If-Match": '"other"'}), 412, "precondition-failed")
    problem_of(put(client, "tea", title="B", headers={"If-Match": f"W/{tag}"}), 412, "precondition-failed")
    problem_of(put(client, "tea", headers={"If-None-Match": tag}), 422, "invalid-request")
    newer = put(client, "tea", title="B", headers={"If-Match": f'"other", {tag}'})
    assert newer.status_code == 200
    problem_of(client.delete("/v1/models/tea", headers={"If-Match": tag}), 412, "precondition-failed")
    assert client.delete("/v1/models/tea", headers={"If-Match": newer.headers["etag"]}).status_code == 204
    problem_of(client.delete("/v1/models/tea"), 404, "not-found")


def test_quotas_of_number_and_bytes(as_: dict[str, httpx2.Client]) -> None:
    for number in range(3):
        assert put(as_["bob"], f"n{number}").status_code == 201
    problem_of(put(as_["bob"], "n3"), 429, "quota-exceeded")
    assert put(as_["bob"], "n2", title="Another").status_code == 200
    large = safetensors.numpy.save({"weight": np.zeros(180_000, np.float32)})
    assert put(as_["alice"], "large", large).status_code == 201
    told = problem_of(put(as_["alice"], "larger", large + b""), 429, "quota-exceeded")
    assert "MiB are allowed" in told["detail"]
    problem_of(put(as_["alice"], "huge", bytes(3 * 2**20)), 413, "body-too-large")


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def archive(entries: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as made:
        for name, data in entries.items():
            made.writestr(name, data)
    return file.getvalue()


def overlapping() -> bytes:
    """An archive whose directory names one part twice, under two names."""
    data = bytearray(archive({"a/models/model.json": b"{}" * 50, "a/x": b""}))
    at = data.rfind(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<LL", 100_000, 100_000)
    return bytes(data)


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BAD_FILES = {
    "neither safetensors nor": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "a pickle of torch.save": b"\x80\x02}q\x00." + bytes(64),
    "claims a header of": struct.pack("<Q", 2**40) + b"{}",
    "not JSON": with_header(b"{" + b'"a":[' * 5),
    "a name is given twice": with_header(b'{"a":{},"a":{}}'),
    "holds no tensor": with_header({}),
    "in the type 'F4'": with_header({"a": {**F4, "dtype": "F4"}}, bytes(4)),
    "other bytes than": with_header({"a": {**F4, "shape": [2]}}, bytes(4)),
    "a shape or a place": with_header({"a": {**F4, "shape": [-1]}}, bytes(4)),
    "an overlap before": with_header({"a": F4, "b": F4}, bytes(4)),
    "a gap before": with_header({"a": F4, "b": {**F4, "data_offsets": [8, 12]}}, bytes(12)),
    "its header describes": with_header({"a": F4}, bytes(8)),
    "__metadata__": with_header({"a": F4, "__metadata__": {"a": 1}}, bytes(4)),
    "something else than dtype": with_header({"a": 1}),
    "no whole archive": b"PK\x03\x04" + bytes(64),
    "packed or encrypted": archive({"a/models/model.json": b"{}" * 500}, zipfile.ZIP_DEFLATED),
    "holds 0 programs": archive({"a/data.pkl": b"x"}),
    "more bytes than the file": overlapping(),
}


@pytest.mark.parametrize("words", list(BAD_FILES))
def test_files_that_are_no_networks_are_refused_before_anybody_loads_them(
    as_: dict[str, httpx2.Client], words: str
) -> None:
    told = problem_of(put(as_["alice"], "tea", BAD_FILES[words]), 422, "invalid-request")
    assert words in told["detail"] and told["errors"][0]["pointer"] == "/file"
    assert ids(as_["alice"]) == set()


@pytest.mark.parametrize(
    ("more", "pointer", "words"),
    [
        ({"source": "python:os:system"}, "/source", "operator's catalogue"),
        ({"source": "keras:a.keras"}, "/source", "operator's catalogue"),
        ({"source": "onnx:a.onnx"}, "/source", "operator's catalogue"),
        ({"source": "timm:../../etc"}, "/source", "torchvision:NAME"),
        ({"source": "timm:hf-hub:somebody/something"}, "/source", "torchvision:NAME"),
        ({"source": None}, "/source", "architecture"),
        ({"arguments": '{"pretrained": true}'}, "/arguments", "no property"),
        ({"weights": "file:/etc/passwd"}, "/weights", "no property"),
        ({"classes": "a,b", "num_classes": "3"}, "/num_classes", "names 2"),
        ({"visible_to": "bob"}, "/visible_to", "owner"),
        ({"preprocess": '{"size": 100000}'}, "/preprocess/size", ""),
        ({"file": '{"sha256": "00"}', "data": None}, "/file", ""),
    ],
)
def test_what_is_said_wrongly_is_named(
    as_: dict[str, httpx2.Client], more: dict[str, Any], pointer: str, words: str
) -> None:
    told = problem_of(
        put(as_["alice"], "tea", **{k: v for k, v in more.items() if k != "data"}), 422, "invalid-request"
    )
    assert any(error["pointer"].startswith(pointer) for error in told["errors"]), told
    assert words in json.dumps(told)


def test_ids_and_bodies_that_cannot_be(as_: dict[str, httpx2.Client], tmp_path: Path) -> None:
    client = as_["alice"]
    problem_of(put(client, "toy"), 403, "forbidden")  # the operator's
    for name in ("-tea", "te a", "tea@1", "t" * 101):
        problem_of(put(client, name), 422, "invalid-request")
    problem_of(client.put("/v1/models/tea", content=WEIGHTS), 415, "unsupported-media-type")
    problem_of(client.put("/v1/models/tea", json={"source": "torchvision:resnet18"}), 422, "invalid-request")
    unknown = {"source": "torchvision:resnet18", "file": {"sha256": "0" * 64}}
    assert "send the file" in problem_of(client.put("/v1/models/tea", json=unknown), 422, "invalid-request")["detail"]
    problem_of(client.put("/v1/models/tea", json=[]), 400, "malformed-body")
    problem_of(
        client.put("/v1/models/tea", files=[("weights", ("w", WEIGHTS, "application/octet-stream"))]),
        422,
        "invalid-request",
    )


def test_a_file_of_another_callers_private_network_cannot_be_named(as_: dict[str, httpx2.Client]) -> None:
    data = safetensors.numpy.save({"weight": np.full(7, 3, np.float32)})
    digest = put(as_["alice"], "hers", data).json()["upload"]["sha256"]
    body = {"source": "torchvision:resnet18", "file": {"sha256": digest}}
    problem_of(as_["bob"].put("/v1/models/his", json=body), 422, "invalid-request")
    assert put(as_["alice"], "hers", data, visible_to="all").status_code == 200
    assert as_["bob"].put("/v1/models/his", json=body).status_code == 201
