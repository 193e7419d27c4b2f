"""Results over HTTP: negotiation, entity tags, arrays in every representation and by range, pictures."""

from __future__ import annotations

import io
import json

import httpx2
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.service.support import NOT_FINITE, Service, Worker, png_bytes, problem_of, toy_card, toy_maps

WEBP, JPEG = "image/webp", "image/jpeg"
MAPS = "/v1/feature-maps"
NPY, SAFETENSORS, JSON, PNG = "application/x-npy", "application/vnd.safetensors", "application/json", "image/png"


def made(client: httpx2.Client, **fields: str) -> str:
    """The address of a finished job over two images."""
    parts = [("image", (f"{n}.png", png_bytes(value=60 * n), PNG)) for n in (1, 2)]
    answer = client.post(MAPS, files=[*parts, *((name, (None, value.encode())) for name, value in fields.items())])
    assert answer.status_code == 200, answer.text
    return answer.headers["location"]


def expected(layer: str = "conv") -> np.ndarray:
    shape = toy_card().layer(layer).shape
    return np.stack([toy_maps(np.full((16, 20, 3), 60 * n, np.uint8), shape) for n in (1, 2)])


class TestResult:
    def test_every_representation(self, client: httpx2.Client) -> None:
        path = made(client) + "/result"
        tags = set()
        for media in (JSON, PNG, SAFETENSORS, WEBP, JPEG):
            answer = client.get(path, headers={"Accept": media})
            assert answer.status_code == 200 and answer.headers["content-type"] == media
            assert "Accept" in answer.headers["vary"]
            tag = answer.headers["etag"]
            tags.add(tag)
            again = client.get(path, headers={"Accept": media, "If-None-Match": tag})
            assert (again.status_code, again.content) == (304, b"")
        assert len(tags) == 5
        problem_of(client.get(path, headers={"Accept": "image/gif"}), 406, "not-acceptable")
        problem_of(client.get(path, params={"format": "svg"}), 406, "not-acceptable")

    def test_a_picture_in_every_format(self, client: httpx2.Client) -> None:
        path = made(client)
        sizes = set()
        for name in ("png", "webp", "jpeg"):
            for address in (f"{path}/result", f"{path}/pictures/conv/0"):
                answer = client.get(address, params={"format": name, "pick": "conv/0"})
                assert answer.headers["content-type"] == f"image/{name}", answer.text
                opened = Image.open(io.BytesIO(answer.content))
                assert opened.format == name.upper()
                sizes.add(opened.size)
        assert len(sizes) == 1

    def test_tags_are_of_the_content(self, client: httpx2.Client) -> None:
        first, second = made(client), made(client, labels='{"again": "yes"}')
        assert first != second
        for media in (PNG, SAFETENSORS):
            tags = {client.get(f"{path}/result", headers={"Accept": media}).headers["etag"] for path in (first, second)}
            assert len(tags) == 1
        other = client.get(f"{first}/result?colormap=magma", headers={"Accept": PNG})
        assert other.headers["etag"] not in tags

    def test_pending(self, client: httpx2.Client, worker: Worker) -> None:
        with worker.idle():
            parts = [("image", ("a.png", png_bytes(value=102), PNG)), ("seed", (None, b"61"))]
            path = client.post(MAPS, files=parts, headers={"Prefer": "respond-async"}).headers["location"]
            for address in (f"{path}/result", f"{path}/arrays/maps/conv", f"{path}/pictures/conv"):
                answer = client.get(address, headers={"Accept": "*/*"})
                assert answer.status_code == 202 and answer.headers["location"] == path
                assert answer.json()["state"] == "queued"
                assert int(answer.headers["retry-after"]) >= 1

    def test_a_result_that_the_store_lost(self, client: httpx2.Client, service: Service) -> None:
        path = made(client, seed="62")
        numbers = safetensors.numpy.load(client.get(f"{path}/result", headers={"Accept": SAFETENSORS}).content)
        stored = numbers["maps/conv"].tobytes()
        for file in (service.settings.data / "artifacts" / "results").rglob("*"):
            if file.is_file() and file.read_bytes().endswith(stored):
                file.unlink()
        for address, media in (("result", SAFETENSORS), ("arrays/maps/conv", NPY), ("arrays/maps/conv", JSON)):
            problem_of(client.get(f"{path}/{address}", headers={"Accept": media}), 410, "gone")
        assert made(client, seed="62") != path  # computed again
        assert client.get(f"{path}/result", headers={"Accept": SAFETENSORS}).status_code == 200


class TestArrays:
    def test_every_representation(self, client: httpx2.Client) -> None:
        path = made(client) + "/arrays/maps/conv"
        npy = client.get(path)
        assert npy.headers["content-type"] == NPY
        np.testing.assert_array_equal(np.load(io.BytesIO(npy.content)), expected())
        tensors = client.get(path, headers={"Accept": SAFETENSORS})
        np.testing.assert_array_equal(safetensors.numpy.load(tensors.content)["maps/conv"], expected())
        text = client.get(path, headers={"Accept": JSON}).json()
        assert (text["name"], text["shape"], text["dtype"]) == ("maps/conv", [2, 8, 6, 6], "float32")
        np.testing.assert_array_equal(np.array(text["data"], np.float32), expected())
        assert client.get(path, headers={"Accept": JSON, "If-None-Match": "*"}).status_code == 304

    def test_names_with_special_signs(self, client: httpx2.Client) -> None:
        job = client.get(made(client, layer="conv.relu#2")).json()
        href = job["result"]["arrays"]["maps/conv.relu#2"]["href"]
        assert href.endswith("/arrays/maps/conv.relu%232")
        np.testing.assert_array_equal(np.load(io.BytesIO(client.get(href).content)), expected("conv.relu#2"))

    def test_large_arrays_are_not_in_the_job(self, client: httpx2.Client) -> None:
        path = made(client, layer="wide")
        array = client.get(path).json()["result"]["arrays"]["maps/wide"]
        assert array["shape"] == [2, 64, 90, 90] and "data" not in array
        text = client.get(array["href"], headers={"Accept": JSON})
        assert "content-length" not in text.headers
        np.testing.assert_array_equal(np.array(text.json()["data"], np.float32), expected("wide"))

    def test_not_finite_is_null(self, client: httpx2.Client) -> None:
        path = made(client, seed=str(NOT_FINITE))
        text = client.get(f"{path}/arrays/maps/conv", headers={"Accept": JSON}).text
        assert "NaN" not in text and json.loads(text)["data"][0][0][0][:2] == [None, None]
        assert client.get(f"{path}/result", headers={"Accept": PNG}).status_code == 200

    @pytest.mark.parametrize("media", [NPY, SAFETENSORS])
    def test_ranges(self, client: httpx2.Client, media: str) -> None:
        path = made(client) + "/arrays/maps/conv"
        whole = client.get(path, headers={"Accept": media})
        total = len(whole.content)
        assert whole.headers["accept-ranges"] == "bytes" and whole.headers["content-length"] == str(total)
        for text, part in {
            "bytes=0-9": slice(0, 10),
            "bytes=100-": slice(100, None),
            "bytes=-7": slice(-7, None),
            f"bytes=5-{total * 2}": slice(5, None),
            f"bytes=-{total * 2}": slice(0, None),
        }.items():
            answer = client.get(path, headers={"Accept": media, "Range": text})
            assert answer.status_code == 206 and answer.content == whole.content[part], text
            first, last = part.indices(total)[:2]
            assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{total}"
            assert answer.headers["content-length"] == str(last - first)

    @pytest.mark.parametrize("text", ["bytes=999999-", "bytes=-0"])
    def test_ranges_outside(self, client: httpx2.Client, text: str) -> None:
        path = made(client) + "/arrays/maps/conv"
        total = len(client.get(path).content)
        answer = client.get(path, headers={"Range": text})
        problem_of(answer, 416, "range-not-satisfiable")
        assert answer.headers["content-range"] == f"bytes */{total}"

    @pytest.mark.parametrize("text", ["bytes=9-5", "bytes=1-2,4-5", "lines=1-2", "bytes=a-b", "bytes=-"])
    def test_ranges_to_be_ignored(self, client: httpx2.Client, text: str) -> None:
        assert client.get(made(client) + "/arrays/maps/conv", headers={"Range": text}).status_code == 200

    def test_a_range_of_what_it_was(self, client: httpx2.Client) -> None:
        path = made(client) + "/arrays/maps/conv"
        tag = client.get(path).headers["etag"]
        asked = {"Range": "bytes=0-3"}
        assert client.get(path, headers={**asked, "If-Range": tag}).status_code == 206
        assert client.get(path, headers={**asked, "If-Range": '"other"'}).status_code == 200
        assert client.get(path, headers={**asked, "If-None-Match": tag}).status_code == 304

    def test_the_whole_result_by_range(self, client: httpx2.Client) -> None:
        path = made(client) + "/result"
        whole = client.get(path, headers={"Accept": SAFETENSORS}).content
        part = client.get(path, headers={"Accept": SAFETENSORS, "Range": "bytes=8-19"})
        assert part.status_code == 206 and part.content == whole[8:20]

    def test_no_such_array(self, client: httpx2.Client) -> None:
        problem = problem_of(client.get(made(client) + "/arrays/other"), 404, "not-found")
        assert problem["possible"] == ["maps/conv"]


class TestPictures:
    def test_hrefs_lead_to_pictures(self, client: httpx2.Client) -> None:
        job = client.get(made(client)).json()
        pictures = job["result"]["pictures"]
        assert [picture["name"] for picture in pictures] == ["conv/0", "conv/1"]
        sizes = set()
        for picture in pictures:
            answer = client.get(picture["href"])
            assert answer.headers["content-type"] == PNG
            sizes.add(Image.open(io.BytesIO(answer.content)).size)
        assert len(sizes) == 1

    def test_pick_chooses_and_without_it_all_are_stacked(self, client: httpx2.Client) -> None:
        path = made(client) + "/result"

        def size(query: str) -> tuple[int, int]:
            answer = client.get(f"{path}?{query}", headers={"Accept": PNG})
            assert answer.status_code == 200, answer.text
            return Image.open(io.BytesIO(answer.content)).size

        one, stacked = size("pick=conv/1"), size("")
        assert size("pick=1") == one
        assert stacked == (one[0], 2 * one[1])
        assert size("pick=conv") == stacked
        wrong = client.get(f"{path}?pick=konv", headers={"Accept": PNG})
        assert problem_of(wrong, 422, "invalid-request")["possible"] == ["conv/0", "conv/1"]
        problem_of(client.get(made(client) + "/pictures/konv"), 404, "not-found")

    def test_drawn_once(self, client: httpx2.Client, service: Service) -> None:
        path = made(client, seed="63") + "/result"
        first = client.get(path, headers={"Accept": PNG})
        before = client.get("/metrics").text
        assert client.get(path, headers={"Accept": PNG}).content == first.content
        after = client.get("/metrics").text

        def cached(text: str) -> float:
            line = next(each for each in text.splitlines() if each.startswith("convscope_pictures_cached_total "))
            return float(line.split()[1])

        assert cached(after) == cached(before) + 1
        assert client.get(path.removesuffix("/result")).json()["timings_ms"]["rendered"] > 0

    def test_an_overlay_lies_on_the_upload(self, client: httpx2.Client) -> None:
        path = made(client) + "/pictures/conv/0"
        answer = client.get(path, params={"view": "overlay", "columns": "1", "alpha": "0"})
        assert answer.status_code == 200
        pixels = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
        assert (pixels == 60).all(axis=2).sum() >= 16 * 20 * 8  # the grey upload, once for each map
