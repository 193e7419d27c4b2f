"""POST /v1/{operation}: bodies, defaults, representations, preferences, keys, limits; through real HTTP."""

from __future__ import annotations

import base64
import io
import json
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.service.support import (
    CRASHED,
    FAIL,
    HOLD,
    NOT_FINITE,
    Service,
    Worker,
    numbers_of,
    png_bytes,
    problem_of,
    toy_maps,
    wait_for,
)

Part = list[tuple[str, tuple[str, bytes, str]]]
MAPS = "/v1/feature-maps"


def grey_maps(value: int = 100) -> np.ndarray:
    return toy_maps(np.full((16, 20, 3), value, np.uint8), (8, 6, 6))


@pytest.mark.parametrize("field", ["image", "images"])
def test_a_form_may_name_an_image_by_its_id(client: httpx2.Client, image_part: Part, field: str) -> None:
    image = client.post("/v1/images", files=image_part).json()["id"]
    answer = client.post(MAPS, files=[(field, (None, image))])
    assert answer.status_code == 200, answer.text
    assert answer.json()["request"]["images"] == [{"id": image}]
    for unknown in ("img-" + 32 * "0", "img-00", "img-"):
        problem_of(client.post(MAPS, files=[(field, (None, unknown))]), 404, "not-found")


def test_an_image_and_nothing_else(client: httpx2.Client, image_part: Part) -> None:
    answer = client.post(MAPS, files=image_part, headers={"Cache-Control": "no-cache"})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["state"] == "succeeded"
    assert job["operation"] == "feature-maps"
    assert job["workers_online"] == 1
    assert job["request"]["model"] == "toy"
    assert job["request"]["layers"] == ["conv"]
    assert job["request"]["channels"] == "first:64"
    assert set(job["request"]["images"][0]) == {"id"}
    assert "labels" not in job["request"] and "deadline_s" not in job["request"]
    assert job["error"] is None
    assert job["labels"] == {}
    for moment in ("created_at", "started_at", "finished_at", "expires_at"):
        assert len(job[moment]) == len("2026-01-01T00:00:00.000Z") and job[moment].endswith("Z")
    assert job["timings_ms"]["computed"] == 1.5 and job["timings_ms"]["queued"] >= 0
    array = job["result"]["arrays"]["maps/conv"]
    assert array["shape"] == [1, 8, 6, 6] and array["dtype"] == "float32"
    np.testing.assert_array_equal(np.array(array["data"], np.float32)[0], grey_maps())
    assert job["result"]["pictures"][0]["name"] == "conv"
    assert job["result"]["provenance"]["device"] == "cpu"
    path = f"/v1/jobs/{job['id']}"
    assert job["links"] == {"self": path, "events": f"{path}/events", "result": f"{path}/result"}
    assert answer.headers["location"] == path
    assert answer.headers["content-location"] == f"{path}/result"
    assert answer.headers["vary"] == "Accept, Authorization"
    assert "preference-applied" not in answer.headers


def test_fields_of_a_form_are_the_properties(client: httpx2.Client) -> None:
    fields = {
        "layers": (None, b"conv,conv.relu#2"),
        "channels": (None, b"3,5"),
        "labels": (None, b'{"who": "test"}'),
        "seed": (None, b"7"),
        "preprocess": (None, b'{"size": [32, 48]}'),
    }
    parts = [("image", ("a.png", png_bytes(), "image/png")), *fields.items(), ("channels", (None, b"7"))]
    job = client.post(MAPS, files=parts).json()
    assert job["request"]["layers"] == ["conv", "conv.relu#2"]
    assert job["request"]["channels"] == [3, 5, 7]
    assert job["request"]["seed"] == 7
    assert job["request"]["preprocess"]["size"] == [32, 48]
    assert job["labels"] == {"who": "test"}


def test_a_request_part_carries_the_whole(client: httpx2.Client, image_part: Part) -> None:
    whole = json.dumps({"layer": "conv.relu#2", "channels": [1]}).encode()
    for part in ((None, whole, "application/json"), ("request.json", whole, "application/json")):
        job = client.post(MAPS, files=[*image_part, ("request", part)]).json()
        assert job["request"]["layers"] == ["conv.relu#2"], job
    both = client.post(MAPS, files=[*image_part, ("request", (None, whole)), ("layer", (None, b"conv"))])
    assert problem_of(both, 422, "invalid-request")["errors"][0]["pointer"] == "/layer"


def test_json_takes_images_by_id_and_in_base64(client: httpx2.Client, image_part: Part) -> None:
    first = client.post(MAPS, files=image_part).json()
    image_id = first["request"]["images"][0]["id"]
    by_id = client.post(MAPS, json={"image": {"id": image_id}}).json()
    inline = {"base64": base64.b64encode(png_bytes()).decode()}
    in_base64 = client.post(MAPS, json={"images": [inline, {"id": image_id}]}).json()
    assert by_id["request"] == first["request"]
    assert in_base64["request"]["images"] == [{"id": image_id}, {"id": image_id}]
    assert in_base64["result"]["arrays"]["maps/conv"]["shape"] == [2, 8, 6, 6]
    missing = problem_of(client.post(MAPS, json={"image": {"id": "img-none"}}), 404, "not-found")
    assert missing["instance"] == MAPS


def test_several_files(client: httpx2.Client) -> None:
    parts = [("image", (f"{n}.png", png_bytes(value=50 * n), "image/png")) for n in (1, 2, 3)]
    job = client.post(MAPS, files=parts).json()
    data = np.array(job["result"]["arrays"]["maps/conv"]["data"], np.float32)
    np.testing.assert_array_equal(data, np.stack([grey_maps(50), grey_maps(100), grey_maps(150)]))
    assert [picture["name"] for picture in job["result"]["pictures"]] == ["conv/0", "conv/1", "conv/2"]


def test_png_and_safetensors_by_accept(client: httpx2.Client, image_part: Part) -> None:
    picture = client.post(MAPS, files=image_part, headers={"Accept": "image/png", "Cache-Control": "no-cache"})
    assert picture.status_code == 200 and picture.headers["content-type"] == "image/png"
    opened = Image.open(io.BytesIO(picture.content))
    assert opened.format == "PNG" and "convscope:scale" in opened.info
    assert "rendered;dur=" in picture.headers["server-timing"]
    arrays = client.post(MAPS, files=image_part, headers={"Accept": "application/vnd.safetensors"})
    assert arrays.headers["content-type"] == "application/vnd.safetensors"
    np.testing.assert_array_equal(safetensors.numpy.load(arrays.content)["maps/conv"][0], grey_maps())
    preferred = client.post(MAPS, files=image_part, headers={"Accept": "image/png;q=0.3, application/json;q=0.4"})
    assert preferred.headers["content-type"] == "application/json"


def test_rendering_options_do_not_compute_again(client: httpx2.Client, worker: Worker, image_part: Part) -> None:
    parts = [*image_part, ("seed", (None, b"31"))]
    first = client.post(MAPS, files=parts, headers={"Accept": "image/png"})
    runs = len(worker.computed)
    query = {"view": "overlay", "colormap": "magma", "normalize": "layer", "alpha": "0.5"}
    second = client.post(MAPS, params=query, files=parts, headers={"Accept": "image/png"})
    assert second.status_code == 200, second.text
    assert second.content != first.content
    for answer in (first, second):
        again = client.get(answer.headers["content-location"], headers={"Accept": "image/png"})
        assert (again.content, again.headers["etag"]) == (answer.content, answer.headers["etag"])
    assert len(worker.computed) == runs


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"view": "cube"}, "/query/view"),
        ({"colormap": "virdis"}, "/query/colormap"),
        ({"alpha": "2"}, "/query/alpha"),
        ({"columns": "many"}, "/query/columns"),
        ({"colour": "red"}, "/query/colour"),
        ({"pick": "nothing"}, "/query/pick"),
    ],
)
def test_rendering_options_are_checked(
    client: httpx2.Client, image_part: Part, query: dict[str, str], pointer: str
) -> None:
    answer = client.post(MAPS, params=query, files=image_part, headers={"Accept": "image/png"})
    assert problem_of(answer, 422, "invalid-request")["errors"][0]["pointer"] == pointer


def test_not_acceptable_says_what_is_possible(client: httpx2.Client, worker: Worker, image_part: Part) -> None:
    runs = len(worker.computed)
    answer = client.post(MAPS, files=image_part, headers={"Accept": "text/html"})
    problem = problem_of(answer, 406, "not-acceptable")
    assert problem["possible"] == [
        "application/json",
        "image/png",
        "application/vnd.safetensors",
        "image/webp",
        "image/jpeg",
    ]
    assert len(worker.computed) == runs


class TestPreferences:
    def test_respond_async(self, client: httpx2.Client, image_part: Part) -> None:
        answer = client.post(MAPS, files=image_part, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "respond-async"
        assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"

    def test_wait_for_an_answer(self, client: httpx2.Client, image_part: Part) -> None:
        answer = client.post(MAPS, files=image_part, headers={"Prefer": "foo=bar; wait=3, wait=10"})
        assert answer.status_code == 200
        assert answer.headers["preference-applied"] == "wait=10"

    def test_wait_too_short(self, client: httpx2.Client, worker: Worker, image_part: Part) -> None:
        parts = [*image_part, ("seed", (None, b"41"))]
        with worker.idle():
            answer = client.post(MAPS, files=parts, headers={"Prefer": "respond-async, wait=1"})
            assert answer.status_code == 202
            assert answer.headers["preference-applied"] == "respond-async, wait=1"
            assert int(answer.headers["retry-after"]) >= 1
            job = answer.json()
            assert job["state"] == "queued" and job["result"] is None and job["started_at"] is None
            assert job["links"]["cancel"] == f"/v1/jobs/{job['id']}/cancel"
        assert client.get(f"/v1/jobs/{job['id']}", params={"wait": 10}).json()["state"] == "succeeded"

    def test_a_long_wait_is_cut(self, client: httpx2.Client, image_part: Part) -> None:
        answer = client.post(MAPS, files=image_part, headers={"Prefer": "wait=3600"})
        assert answer.headers["preference-applied"] == "wait=60"

    @pytest.mark.parametrize("prefer", ["wait", "wait=abc", "wait=-1", "wait=1.5", "respond-async=1"])
    def test_bad(self, client: httpx2.Client, image_part: Part, prefer: str) -> None:
        problem_of(client.post(MAPS, files=image_part, headers={"Prefer": prefer}), 400, "bad-preference")


class TestFailures:
    @pytest.mark.parametrize(
        ("seed", "status", "name"), [(FAIL, 422, "numerical-error"), (CRASHED, 500, "worker-crashed")]
    )
    def test_a_job_that_fails_while_the_request_waits(
        self, client: httpx2.Client, image_part: Part, seed: int, status: int, name: str
    ) -> None:
        answer = client.post(MAPS, files=[*image_part, ("seed", (None, str(seed).encode()))])
        problem = problem_of(answer, status, name)
        path = f"/v1/jobs/{problem['job_id']}"
        assert answer.headers["location"] == path
        job = client.get(path).json()
        assert job["state"] == "failed"
        assert job["error"]["type"] == f"/problems/{name}" and job["error"]["instance"] == path
        problem_of(client.get(f"{path}/result"), status, name)

    def test_a_deadline_that_passes(self, client: httpx2.Client, worker: Worker, image_part: Part) -> None:
        with worker.idle():
            parts = [*image_part, ("deadline_s", (None, b"0.2")), ("seed", (None, b"42"))]
            path = client.post(MAPS, files=parts, headers={"Prefer": "respond-async"}).headers["location"]
            wait_for(lambda: client.get(path).json()["state"] == "expired", "the deadline")
        problem_of(client.get(f"{path}/result"), 504, "deadline-exceeded")
        assert client.get(path).json()["error"]["type"] == "/problems/deadline-exceeded"

    def test_not_finite_is_null(self, client: httpx2.Client, image_part: Part) -> None:
        job = client.post(MAPS, files=[*image_part, ("seed", (None, str(NOT_FINITE).encode()))]).json()
        assert job["result"]["arrays"]["maps/conv"]["data"][0][0][0][:3] == [None, None, pytest.approx(100.2)]


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "detail"),
        [
            (b"", "not JSON"),
            (b"[]", "object"),
            (b'{"seed": 1, "seed": 2}', "twice"),
            (b'{"seed": NaN}', "NaN"),
            (b'{"model": "\\ud800"}', "Unicode"),
            (b"\xff", "Unicode"),
            (b"[" * 100_000, "deep"),
            (b'{"seed": ' + b"9" * 5000 + b"}", "not JSON"),
        ],
    )
    def test_malformed_json(self, client: httpx2.Client, body: bytes, detail: str) -> None:
        answer = client.post(MAPS, content=body, headers={"Content-Type": "application/json"})
        assert detail in problem_of(answer, 400, "malformed-body")["detail"]

    def test_malformed_form(self, client: httpx2.Client) -> None:
        answer = client.post(MAPS, content=b"abc", headers={"Content-Type": "multipart/form-data; boundary=x"})
        problem_of(answer, 400, "malformed-body")

    def test_other_content_types(self, client: httpx2.Client) -> None:
        answer = client.post(MAPS, content=b"layer: conv", headers={"Content-Type": "application/yaml"})
        problem = problem_of(answer, 415, "unsupported-media-type")
        assert problem["possible"] == [
            "multipart/form-data", "application/json", "application/x-www-form-urlencoded"
        ]  # fmt: skip

    def test_nothing_at_all(self, client: httpx2.Client) -> None:
        problem = problem_of(client.post(MAPS), 422, "invalid-request")
        assert "an image is needed" in problem["errors"][0]["detail"]

    def test_too_large(self, client: httpx2.Client) -> None:
        def endless() -> Iterator[bytes]:
            for _ in range(40):
                yield bytes(1 << 20)

        answer = client.post(MAPS, content=endless(), headers={"Content-Type": "application/json"})
        assert problem_of(answer, 413, "body-too-large")["limit_bytes"] == 32 << 20

    @pytest.mark.parametrize(
        ("body", "pointer", "words"),
        [
            ({"leyer": "conv"}, "/leyer", "near: layer"),
            ({"channels": [1, -1]}, "/channels/1", "greater than or equal to 0"),
            ({"channels": "some"}, "/channels", "`top:K`"),
            ({"preprocess": {"sise": [8, 8]}}, "/preprocess/sise", "near: size"),
            ({"seed": 1.5}, "/seed", "integer"),
            ({"labels": {"a": 1}}, "/labels/a", "string"),
            ({"precision": "half"}, "/precision", "'exact' or 'fast'"),
            ({"image": {}}, "/image", "either id or base64"),
            ({"layer": "conv", "layers": ["conv"]}, "", "either layer or layers"),
        ],
    )
    def test_errors_have_pointers(self, client: httpx2.Client, body: dict[str, Any], pointer: str, words: str) -> None:
        answer = client.post(MAPS, json={"image": {"id": "x"}, **body})
        errors = problem_of(answer, 422, "invalid-request")["errors"]
        assert any(error["pointer"] == pointer and words in error["detail"] for error in errors), errors

    @pytest.mark.parametrize(
        ("fields", "pointer"),
        [
            ([("seed", b"1"), ("seed", b"2")], "/seed"),
            ([("seed", b"one")], "/seed"),
            ([("labels", b"{")], "/labels"),
            ([("labels", b'{"a": "1", "a": "2"}')], "/labels"),
            ([("leyer", b"conv")], "/leyer"),
            ([("channels", b"1,two")], "/channels"),
        ],
    )
    def test_form_errors_have_pointers(
        self, client: httpx2.Client, image_part: Part, fields: list[tuple[str, bytes]], pointer: str
    ) -> None:
        answer = client.post(MAPS, files=[*image_part, *((name, (None, value)) for name, value in fields)])
        errors = problem_of(answer, 422, "invalid-request")["errors"]
        assert errors[0]["pointer"] == pointer, errors

    def test_files_where_none_belong(self, client: httpx2.Client, image_part: Part) -> None:
        answer = client.post(MAPS, files=[*image_part, ("layer", ("a.png", png_bytes(), "image/png"))])
        assert problem_of(answer, 422, "invalid-request")["errors"][0]["pointer"] == "/layer"

    def test_images_given_twice(self, client: httpx2.Client, image_part: Part) -> None:
        answer = client.post(MAPS, files=[*image_part, ("image", (None, b'{"id": "x"}'))])
        assert problem_of(answer, 422, "invalid-request")["errors"][0]["pointer"] == "/image"

    def test_too_many_images(self, client: httpx2.Client) -> None:
        answer = client.post(MAPS, json={"images": [{"id": "x"}] * 65})
        assert problem_of(answer, 413, "too-many-images")["limit"] == 64

    def test_an_image_that_is_none(self, client: httpx2.Client) -> None:
        answer = client.post(MAPS, files=[("image", ("a.png", b"no picture", "image/png"))])
        problem_of(answer, 422, "unsupported-format")
        answer = client.post(MAPS, files=[("image", ("a.png", png_bytes()[:40], "image/png"))])
        problem_of(answer, 422, "unreadable-image")


class TestTheNetworkDecides:
    @pytest.mark.parametrize(
        ("request_", "status", "name"),
        [
            ({"model": "toi"}, 422, "unknown-model"),
            ({"model": "broken"}, 424, "weights-unavailable"),
            ({"layer": "konv"}, 422, "unknown-layer"),
            ({"channels": [8]}, 422, "channel-out-of-range"),
            ({"layer": "fc"}, 422, "not-applicable"),
        ],
    )
    def test_refusals(self, client: httpx2.Client, request_: dict[str, Any], status: int, name: str) -> None:
        inline = {"base64": base64.b64encode(png_bytes()).decode()}
        problem_of(client.post(MAPS, json={"image": inline, **request_}), status, name)

    def test_too_expensive(self, client: httpx2.Client) -> None:
        inline = {"base64": base64.b64encode(png_bytes()).decode()}
        body = {"images": [inline] * 64, "layers": ["huge"], "channels": "all"}
        problem = problem_of(client.post(MAPS, json=body), 422, "too-expensive")
        assert problem["cost_bytes"] == 64 * 64 * 200 * 200 * 4 and problem["limit_bytes"] == 256 << 20

    def test_a_large_input_costs_as_much_more_as_it_has_more_pixels(self, client: httpx2.Client) -> None:
        inline = {"base64": base64.b64encode(png_bytes()).decode()}
        body = {"images": [inline], "layers": ["conv"], "channels": [0], "preprocess": {"size": [1024, 1024]}}
        problem = problem_of(client.post(MAPS, json=body | {"images": [inline] * 2}), 422, "too-expensive")
        assert problem["cost_forwards"] == 2 * 1024 * 1024 / (8 * 8)


class TestIdempotency:
    def test_same_key_same_request(self, client: httpx2.Client, image_part: Part) -> None:
        name = str(uuid.uuid4())
        first = client.post(MAPS, files=image_part, headers={"Idempotency-Key": f'"{name}"'})
        second = client.post(MAPS, files=image_part, headers={"Idempotency-Key": name})
        assert first.json()["id"] == second.json()["id"]
        other = client.post(MAPS, files=[*image_part, ("seed", (None, b"5"))], headers={"Idempotency-Key": f'"{name}"'})
        problem = problem_of(other, 422, "idempotency-mismatch")
        assert problem["job_id"] == first.json()["id"]

    def test_labels_are_part_of_the_request(self, client: httpx2.Client, image_part: Part) -> None:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        client.post(MAPS, files=image_part, headers=headers)
        other = client.post(MAPS, files=[*image_part, ("labels", (None, b'{"a": "b"}'))], headers=headers)
        problem_of(other, 422, "idempotency-mismatch")

    def test_bad_key(self, client: httpx2.Client, image_part: Part) -> None:
        answer = client.post(MAPS, files=image_part, headers={"Idempotency-Key": '""'})
        problem_of(answer, 422, "invalid-request")

    def test_many_at_once_make_one_job(self, client: httpx2.Client, image_part: Part) -> None:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: client.post(MAPS, files=image_part, headers=headers), range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["id"] for answer in answers}) == 1


class TestCache:
    def test_an_identical_request_is_answered_from_the_store(
        self, client: httpx2.Client, worker: Worker, image_part: Part
    ) -> None:
        parts = [*image_part, ("seed", (None, b"51"))]
        first = client.post(MAPS, files=parts).json()
        runs = len(worker.computed)
        second = client.post(MAPS, files=[*parts, ("labels", (None, b'{"other": "label"}'))]).json()
        assert second["id"] != first["id"] and second["labels"] == {"other": "label"}
        assert len(worker.computed) == runs
        fresh = client.post(MAPS, files=parts, headers={"Cache-Control": "no-cache"}).json()
        assert fresh["state"] == "succeeded" and len(worker.computed) == runs + 1

    def test_a_lost_result_is_computed_again(self, client: httpx2.Client, service: Service, image_part: Part) -> None:
        parts = [*image_part, ("seed", (None, b"52"))]
        first = client.post(MAPS, files=parts).json()
        lost = client.get(f"/v1/jobs/{first['id']}/result", headers={"Accept": "application/vnd.safetensors"})
        assert lost.status_code == 200
        for path in (service.settings.data / "artifacts" / "results").rglob("*"):
            if path.is_file() and numbers_of(path.read_bytes()) == numbers_of(lost.content):
                path.unlink()
        again = client.post(MAPS, files=parts)
        assert again.status_code == 200
        np.testing.assert_array_equal(
            np.array(again.json()["result"]["arrays"]["maps/conv"]["data"], np.float32)[0], grey_maps()
        )


class TestDisconnect:
    def test_without_a_name_the_job_is_cancelled(
        self, client: httpx2.Client, service: Service, image_part: Part
    ) -> None:
        before = service.app.state.context.changes.watching
        _raw_leave(service, image_part, {}, 1)
        wait_for(lambda: _labelled(client, 1)["state"] == "cancelled", "the cancellation")
        wait_for(lambda: service.app.state.context.changes.watching == before, "the end of the watch")

    @pytest.mark.parametrize(
        ("headers", "label"), [({"Prefer": "wait=30"}, 2), ({"Idempotency-Key": str(uuid.uuid4())}, 3)]
    )
    def test_with_a_name_it_goes_on(
        self, client: httpx2.Client, service: Service, image_part: Part, headers: dict[str, str], label: int
    ) -> None:
        before = service.app.state.context.changes.watching
        _raw_leave(service, image_part, headers, label)
        wait_for(lambda: service.app.state.context.changes.watching == before, "the end of the watch")
        job = _labelled(client, label)
        assert job["state"] in ("queued", "running")
        assert client.delete(f"/v1/jobs/{job['id']}").status_code in (200, 202)


def _labelled(client: httpx2.Client, label: int) -> dict[str, Any] | None:
    jobs = client.get("/v1/jobs").json()["jobs"]
    return next((job for job in jobs if job["labels"].get("n") == str(label)), None)


def _raw_leave(service: Service, image_part: Part, headers: dict[str, str], label: int) -> None:
    """Send a whole request over a socket, wait until its job is there, and close the socket."""
    with service.client() as client:
        parts = [*image_part, ("seed", (None, str(HOLD).encode())), ("labels", (None, b'{"n": "%d"}' % label))]
        request = client.build_request("POST", MAPS, files=parts, headers={"Cache-Control": "no-cache", **headers})
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(f"POST {MAPS} HTTP/1.1\r\n{head}\r\n".encode() + request.read())
            wait_for(lambda: _labelled(client, label), "the job")


def test_many_clients_at_once(client: httpx2.Client) -> None:
    def ask(value: int) -> bool:
        answer = client.post(MAPS, files=[("image", ("a.png", png_bytes(value=value), "image/png"))])
        data = np.array(answer.json()["result"]["arrays"]["maps/conv"]["data"], np.float32)
        return bool((data[0] == grey_maps(value)).all())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(64)))


def test_the_list_of_operations(client: httpx2.Client) -> None:
    listed = {entry["name"]: entry for entry in client.get("/v1/operations").json()["operations"]}
    entry = listed["feature-maps"]
    assert entry["href"] == MAPS and entry["lane"] == "interactive" and entry["quick"]
    assert entry["limits"] == {"images": 64, "result_mib": 256, "body_mib": 32, "megapixels": 40.0}
    assert entry["defaults"]["precision"] == "exact"
    assert "channels" in entry["request_schema"]["properties"]
    pictures = ["image/webp", "image/jpeg"]
    assert entry["media_types"] == ["application/json", "image/png", "application/vnd.safetensors", *pictures]
    assert listed["cka"]["media_types"][-1] == "image/svg+xml"


def test_wrong_method_and_wrong_address(client: httpx2.Client) -> None:
    answer = client.get(MAPS)
    assert problem_of(answer, 405, "method-not-allowed")["possible"] == ["OPTIONS", "POST"]
    assert answer.headers["allow"] == "OPTIONS, POST"
    answer = client.put("/v1/jobs/x")
    assert problem_of(answer, 405, "method-not-allowed")["possible"] == ["DELETE", "GET", "HEAD", "OPTIONS"]
    problem_of(client.post("/v1/feature-map"), 404, "not-found")
    problem_of(client.get("/v1/jobs/"), 404, "not-found")


def test_an_image_set_stands_for_its_images(client: httpx2.Client, worker: Worker) -> None:
    parts = [("image", (f"{n}.png", png_bytes(value=20 * n), "image/png")) for n in range(1, 6)]
    made = client.post("/v1/image-sets", files=parts)
    assert made.status_code == 201, made.text
    with worker.idle():
        body = {"image_set": made.json()["id"], "mode": "layers", "layers": ["conv"]}
        answer = client.post("/v1/cka", json=body, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        assert answer.json()["request"]["image_set"] == made.json()["id"]
    problem_of(client.post("/v1/cka", json={**body, "image_set": "set-none"}), 404, "not-found")
