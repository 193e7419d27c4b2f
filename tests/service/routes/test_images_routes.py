"""Uploading images and sets of them through the running service."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from convscope.settings import Settings
from convscope.store.images import npy_bytes
from service.images import uploads
from service.images.uploads import decode
from tests.service.image_files import png, saved
from tests.service.support import HOLD, Service, Worker, png_bytes, problem_of, wait_for

Client = httpx2.Client


@pytest.fixture(scope="module")
def guarded(service_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with small limits and two callers."""
    folder = tmp_path_factory.mktemp("keys")
    digests = {name: hashlib.sha256(f"key-of-{name}".encode()).hexdigest() for name in ("ann", "bob")}
    keys = folder / "keys.toml"
    keys.write_text("".join(f'[callers.{name}]\nkey_sha256 = ["{digest}"]\n' for name, digest in digests.items()))
    limits = {"body_mib": 1, "image_set_mib": 2, "image_set_images": 5, "megapixels": 0.1, "api_keys_file": keys}
    limits |= {"image_set_megapixels": 0.25, "request_megapixels": 0.2, "request_kib": 4}
    with Service(service_settings.model_copy(update=limits)) as running:
        yield running


def as_caller(service: Service, name: str) -> Client:
    return service.client(headers={"Authorization": f"Bearer key-of-{name}"})


def upload(client: Client, data: bytes, name: str = "a.png") -> dict[str, object]:
    answer = client.post("/v1/images", files={"image": (name, data)})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_upload_read_and_delete(client: Client) -> None:
    data = png_bytes(20, 16, 41)
    answer = client.post("/v1/images", files={"image": ("a.png", data, "image/png")})
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["location"] == f"/v1/images/{view['id']}" == view["href"]
    assert view["sha256"] == hashlib.sha256(data).hexdigest()
    assert (view["width"], view["height"], view["format"], view["notes"]) == (20, 16, "PNG", [])
    assert view["created_at"].endswith("Z")
    assert view["created_at"] < view["expires_at"]
    assert client.get(view["href"]).json() == view
    assert client.delete(view["href"]).status_code == 204
    problem_of(client.get(view["href"]), 404, "not-found")
    problem_of(client.delete(view["href"]), 404, "not-found")


def test_a_file_sent_again_at_once_is_not_decoded_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(uploads, "decode", lambda *given: decoded.append(given) or decode(*given))
    data = png_bytes(23, 19, 46)  # sent by no other test
    text = base64.b64encode(data).decode()
    view = upload(client, data)
    again = upload(client, data)
    assert {**again, "expires_at": view["expires_at"]} == view
    assert str(again["expires_at"]) > str(view["expires_at"])
    (member,) = post_zip(client, archive(("a.png", data))).json()["members"]
    assert member["href"] == view["href"]
    asked = client.post("/v1/classify", json={"image": {"base64": text}}, headers={"Prefer": "respond-async"})
    assert asked.status_code == 202
    assert len(decoded) == 1
    assert client.delete(str(view["href"])).status_code == 204
    assert upload(client, data)["id"] == view["id"]
    assert len(decoded) == 2


@pytest.mark.parametrize("kind", ["image/png", "image/x-odd", "application/octet-stream", None])
def test_a_raw_body_has_the_id_of_the_same_bytes(client: Client, kind: str | None) -> None:
    data = png_bytes(5, 5, 42)
    view = upload(client, data)
    answer = client.post("/v1/images", content=data, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 201
    assert answer.json()["id"] == view["id"]
    assert answer.json()["created_at"] == view["created_at"]


def test_the_picture_is_encoded_anew_and_inert(client: Client) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (9, 7, 3), np.uint8)
    data = saved(Image.fromarray(noise), "PNG") + b"<script>alert(1)</script>"
    view = upload(client, data)
    answer = client.get(str(view["href"]), headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert b"<script>" not in answer.content
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), noise)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["etag"] == f'"{hashlib.sha256(npy_bytes(noise)).hexdigest()}"'
    unchanged = client.get(str(view["href"]), headers={"Accept": "image/png", "If-None-Match": answer.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    problem_of(client.get(str(view["href"]), headers={"Accept": "text/html"}), 406, "not-acceptable")


def test_what_was_done_to_the_pixels_is_said(client: Client) -> None:
    view = upload(client, saved(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"))
    assert view["notes"] == ["transparency on white"]


def test_lists_have_pages(service: Service) -> None:
    with service.client() as client:
        made = {upload(client, png_bytes(3, 3, value))["id"] for value in range(60, 65)}
        address, seen = "/v1/images?limit=2", []
        while address:
            answer = client.get(address)
            seen += [each["id"] for each in answer.json()["images"]]
            address = answer.links.get("next", {}).get("url", "")
        assert len(seen) == len({*seen})
        assert made <= {*seen}
        problem_of(client.get("/v1/images?cursor=nonsense"), 422, "invalid-request")
        problem_of(client.get("/v1/images?limit=0"), 422, "invalid-request")
        problem_of(client.get("/v1/images?other=1"), 422, "invalid-request")


def test_callers_do_not_see_each_other(guarded: Service) -> None:
    with as_caller(guarded, "ann") as ann, as_caller(guarded, "bob") as bob:
        data = png_bytes(6, 6, 90)
        view = upload(ann, data)
        problem_of(bob.get(str(view["href"])), 404, "not-found")
        problem_of(bob.delete(str(view["href"])), 404, "not-found")
        assert view["id"] not in [each["id"] for each in bob.get("/v1/images").json()["images"]]
        assert upload(bob, data)["id"] == view["id"]
        assert ann.delete(str(view["href"])).status_code == 204
        assert bob.get(str(view["href"])).status_code == 200


PROBLEMS = {
    "no file": (b"", 422, "unreadable-image"),
    "cut": (png_bytes()[:-20], 422, "unreadable-image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "unsupported-format"),
    "too many pixels": (png([b""], 50_000, 8, 0, height=50_000), 413, "too-many-pixels"),
    "one by 65000": (png([b""], 1, 8, 0, height=65_000), 413, "too-many-pixels"),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_bad_images(client: Client, kind: str) -> None:
    data, status, name = PROBLEMS[kind]
    problem_of(client.post("/v1/images", files={"image": ("a.png", data)}), status, name)
    problem_of(client.post("/v1/images", content=data, headers={"Content-Type": "image/png"}), status, name)


def test_wrong_forms(client: Client) -> None:
    image = ("a.png", png_bytes())
    problem_of(client.post("/v1/images", files={"picture": image}), 422, "invalid-request")
    problem_of(client.post("/v1/images", files=[("image", image), ("image", image)]), 422, "invalid-request")
    problem_of(client.post("/v1/images", files={"image": image}, data={"model": "x"}), 422, "invalid-request")
    problem_of(client.post("/v1/images", json={"image": {"base64": ""}}), 415, "unsupported-media-type")
    headers = {"Content-Type": "multipart/form-data"}
    problem_of(client.post("/v1/images", content=b"x", headers=headers), 400, "malformed-body")


def test_sizes(guarded: Service) -> None:
    with as_caller(guarded, "ann") as ann:
        problem = problem_of(ann.post("/v1/images", content=bytes((1 << 20) + 1)), 413, "body-too-large")
        assert problem["limit_bytes"] == 1 << 20
        problem = problem_of(ann.post("/v1/images", content=png_bytes(400, 400)), 413, "too-many-pixels")
        assert problem["limit_megapixels"] == 0.1


# Image sets


def archive(*entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, data in entries:
            made.writestr(name, data)
    return buffer.getvalue()


def post_zip(client: Client, data: bytes) -> httpx2.Response:
    return client.post("/v1/image-sets", content=data, headers={"Content-Type": "application/zip"})


def test_a_set_of_parts_read_in_pages_and_deleted(client: Client) -> None:
    files = [("image", (f"{value}.png", png_bytes(4, 4, value))) for value in range(120, 125)]
    answer = client.post("/v1/image-sets", files=files)
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert answer.headers["location"] == view["href"] == f"/v1/image-sets/{view['id']}"
    assert (view["images"], view["rejected"]) == (5, 0)
    assert [member["name"] for member in view["members"]] == [f"{value}.png" for value in range(120, 125)]
    assert client.get(view["members"][0]["href"]).json()["width"] == 4
    address, names = f"{view['href']}?limit=2", []
    while address:
        page = client.get(address)
        names += [member["name"] for member in page.json()["members"]]
        address = page.links.get("next", {}).get("url", "")
    assert names == [f"{value}.png" for value in range(120, 125)]
    assert client.post("/v1/image-sets", files=files).json()["id"] == view["id"]
    assert view["id"] in [each["id"] for each in client.get("/v1/image-sets").json()["image_sets"]]
    problem_of(client.get(f"{view['href']}?cursor=x"), 422, "invalid-request")
    assert client.delete(view["href"]).status_code == 204
    problem_of(client.get(view["href"]), 404, "not-found")
    assert client.get(view["members"][0]["href"]).status_code == 200


def test_a_zip_as_body_and_as_part(client: Client) -> None:
    data = archive(
        ("a/1.png", png_bytes(4, 4, 1)), ("a/", b""), ("__MACOSX/a/._1.png", b"x"), ("b.png", png_bytes(4, 4, 2))
    )
    body = post_zip(client, data)
    part = client.post("/v1/image-sets", files={"image": ("set.zip", data, "application/zip")})
    assert body.status_code == part.status_code == 201
    assert body.json()["id"] == part.json()["id"]
    assert [member["name"] for member in body.json()["members"]] == ["a/1.png", "b.png"]


def link_entry() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link.png")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_bad_entries_are_listed_by_name_and_cost_only_themselves(client: Client) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("good.png", png_bytes(4, 4, 3))
        made.writestr("../../etc/passwd.png", png_bytes(4, 4, 4))
        made.writestr("/absolute.png", png_bytes(4, 4, 5))
        made.writestr("C:\\windows.png", png_bytes(4, 4, 5))
        made.writestr(link_entry(), "/etc/passwd")
        made.writestr("nested.zip", archive(("x.png", png_bytes())))
        made.writestr("bomb.bmp", bytes(8 << 20))
        made.writestr("lzma.png", png_bytes(4, 4, 6), zipfile.ZIP_LZMA)
        made.writestr("text.txt", "hello")
        made.writestr("new\nline\x1b.png", b"")
    view = post_zip(client, buffer.getvalue()).json()
    assert [member["name"] for member in view["members"]] == ["good.png"]
    reasons = {each["name"]: each["detail"] for each in view["rejected_entries"]}
    assert view["rejected"] == len(reasons) == 9
    assert "leads out" in reasons["../../etc/passwd.png"]
    assert "leads out" in reasons["/absolute.png"]
    assert "link" in reasons["link.png"]
    assert "zip archive" in reasons["nested.zip"]
    assert "200 times" in reasons["bomb.bmp"]
    assert "deflate" in reasons["lzma.png"]
    assert "text" in reasons["text.txt"]
    assert "new�line�.png" in reasons


def test_parts_that_are_no_images(client: Client) -> None:
    files = [("image", ("a.png", png_bytes(4, 4, 9))), ("image", ("b.png", b"no")), ("image", ("", b""))]
    view = client.post("/v1/image-sets", files=files[:2]).json()
    assert (view["images"], view["rejected"]) == (1, 1)
    problem = problem_of(client.post("/v1/image-sets", files=files[1:2]), 422, "unreadable-image")
    assert problem["errors"][0]["detail"].startswith("b.png")
    problem_of(client.post("/v1/image-sets", files=files[:1], data={"name": "x"}), 422, "invalid-request")
    problem_of(client.post("/v1/image-sets", json={}), 415, "unsupported-media-type")
    problem_of(post_zip(client, archive()), 422, "invalid-request")


def zip64_end() -> bytes:
    return (
        b"PK\x03\x04"
        + bytes(60)
        + b"PK\x06\x06"
        + bytes(52)
        + b"PK\x06\x07"
        + bytes(16)
        + b"PK\x05\x06"
        + b"\xff" * 16
        + b"\0\0"
    )


def test_broken_archives(client: Client) -> None:
    whole = archive(("a.png", png_bytes(40, 40, 7)), ("b.png", png_bytes(40, 40, 8)))
    for broken in (whole[:-30], whole[:30], b"PK\x03\x04", b"PK\x05\x06" + bytes(3), zip64_end()):
        problem_of(post_zip(client, broken), 400, "malformed-body")
    # Damage, an entry that lies about its size, and one that is marked as encrypted.
    stored = archive(("a.png", png_bytes(4, 4, 7)), ("b.png", png_bytes(4, 4, 8)), method=zipfile.ZIP_STORED)
    at = stored.index(b"IDAT")
    damaged = stored[:at] + b"ODDS" + stored[at + 4 :]
    directory = stored.index(b"PK\x01\x02")
    lying = bytearray(stored)
    lying[directory + 24 : directory + 28] = struct.pack("<I", 7)
    encrypted = bytearray(stored)
    encrypted[directory + 8] |= 1
    for each in (damaged, lying, encrypted):
        view = post_zip(client, bytes(each)).json()
        assert (view["images"], view["rejected"]) == (1, 1)


def test_limits_of_sets(guarded: Service) -> None:
    with as_caller(guarded, "ann") as ann, as_caller(guarded, "bob") as bob:
        tiny = [(f"{number}.png", png_bytes(2, 2, number)) for number in range(6)]
        problem_of(post_zip(ann, archive(*tiny)), 413, "too-many-images")
        problem_of(ann.post("/v1/image-sets", files=[("image", each) for each in tiny]), 413, "too-many-images")
        problem_of(ann.post("/v1/image-sets", content=bytes((2 << 20) + 1)), 413, "body-too-large")
        many = archive(*[(f"{number:05}.png", b"") for number in range(2000)])
        problem_of(post_zip(ann, many), 413, "too-many-images")
        # Each entry is small enough, together they unpack to more than the set may have.
        noise = np.random.default_rng(0).integers(0, 4, (1 << 20) - 4096, np.uint8)
        entries = [(f"{number}.bin", noise.tobytes()) for number in range(4)]
        problem_of(post_zip(ann, archive(*entries)), 413, "body-too-large")
        view = post_zip(ann, archive(*tiny[:2], ("large.bmp", bytes((1 << 20) + 1)))).json()
        assert (view["images"], view["rejected"]) == (2, 1)
        problem_of(bob.get(view["href"]), 404, "not-found")
        problem_of(bob.delete(view["href"]), 404, "not-found")
        assert bob.get("/v1/image-sets").json() == {"image_sets": []}


def test_a_set_may_not_decode_to_more_than_its_pixels(guarded: Service) -> None:
    """One colour packs to nothing: files of a few kilobytes may be gigabytes of pixels."""
    with as_caller(guarded, "ann") as ann:
        flat = [(f"{number}.png", png_bytes(300, 300, number)) for number in range(3)]  # 0.09 megapixels each
        assert sum(len(data) for _, data in flat) < 10_000
        assert post_zip(ann, archive(*flat[:2])).status_code == 201
        for answer in (post_zip(ann, archive(*flat)), ann.post("/v1/image-sets", files=[("image", f) for f in flat])):
            problem = problem_of(answer, 413, "too-many-pixels")
            assert problem["limit_megapixels"] == 0.25
        too_large = ("large.png", png_bytes(400, 300))  # refused by itself, so it does not count
        view = post_zip(ann, archive(*flat[:2], too_large)).json()
        assert (view["images"], [entry["problem"] for entry in view["rejected_entries"]]) == (2, ["too-many-pixels"])


def test_pixels_are_in_the_store_and_nothing_else(client: Client, service_settings: Settings) -> None:
    view = upload(client, png_bytes(11, 13, 77))
    pixels = np.full((13, 11, 3), 77, np.uint8)
    digest = hashlib.sha256(npy_bytes(pixels)).hexdigest()
    path = Path(service_settings.artifacts_location) / "images" / digest[:2] / digest
    assert np.array_equal(np.load(path), pixels)
    assert view["id"] == f"img-{hashlib.sha256(png_bytes(11, 13, 77)).hexdigest()[:32]}"


ASYNC = {"Prefer": "respond-async"}


def test_a_request_may_not_have_more_than_its_pixels(guarded: Service) -> None:
    """Sixty-four mentions of one small file may be gigabytes of pixels in a worker."""
    with as_caller(guarded, "ann") as ann:
        ref = {"id": upload(ann, png_bytes(300, 300, 8))["id"]}  # 0.09 megapixels
        assert ann.post("/v1/feature-maps", headers=ASYNC, json={"images": [ref] * 2}).status_code == 202
        problem = problem_of(ann.post("/v1/feature-maps", json={"images": [ref] * 3}), 413, "too-many-pixels")
        assert problem["limit_megapixels"] == 0.2 and "0.3 million pixels together" in problem["detail"]


def test_a_request_may_not_be_longer_than_the_queue_keeps(guarded: Service) -> None:
    with as_caller(guarded, "ann") as ann:
        ref = {"base64": base64.b64encode(png_bytes(200, 200, 9)).decode()}
        body = {"image": ref, "layer": "conv"}
        assert ann.post("/v1/feature-maps", headers=ASYNC, json=body | {"channels": [0] * 1000}).status_code == 202
        problem = problem_of(ann.post("/v1/feature-maps", json=body | {"channels": [0] * 3000}), 413, "body-too-large")
        assert problem["limit_bytes"] == 4096


def test_a_list_of_channels_is_no_longer_than_layers_are_wide(client: Client) -> None:
    body = {"image": {"id": "img-x"}, "channels": [0] * 65_537}
    problem = problem_of(client.post("/v1/feature-maps", json=body), 422, "invalid-request")
    assert "65536" in problem["errors"][0]["detail"] and problem["errors"][0]["pointer"] == "/channels"


def test_an_image_goes_with_what_was_made_from_it(client: Client, worker: Worker) -> None:
    image = upload(client, png_bytes(20, 16, 201))
    other = upload(client, png_bytes(20, 16, 202))

    def submitted(*images: object, seed: int = 0) -> dict[str, object]:
        asked = {"images": [{"id": one} for one in images], "seed": seed}
        answer = client.post("/v1/feature-maps", json=asked, headers={"Prefer": "wait=10" if not seed else "wait=0"})
        assert answer.status_code == (202 if seed else 200), answer.text
        return dict(answer.json())

    alone, both, apart = submitted(image["id"]), submitted(other["id"], image["id"]), submitted(other["id"])
    held = submitted(image["id"], seed=HOLD)
    problem_of(client.delete(f"{image['href']}?jobs=perhaps"), 422, "invalid-request")
    assert client.delete(f"{image['href']}?jobs=delete").status_code == 204
    for job in (alone, both):
        problem_of(client.get(f"/v1/jobs/{job['id']}"), 404, "not-found")
        problem_of(client.get(f"/v1/jobs/{job['id']}/arrays/maps/conv"), 404, "not-found")
    assert client.get(f"/v1/jobs/{apart['id']}").json()["state"] == "succeeded"
    wait_for(lambda: client.get(f"/v1/jobs/{held['id']}").status_code == 404 or cancelled(client, held), "its end")
    problem_of(client.get(str(image["href"])), 404, "not-found")
    assert client.get(str(other["href"])).status_code == 200
    again = upload(client, png_bytes(20, 16, 201))
    computed = len(worker.computed)
    assert submitted(again["id"])["cached"] is False and len(worker.computed) == computed + 1


def cancelled(client: Client, job: dict[str, object]) -> bool:
    return bool(client.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled")
