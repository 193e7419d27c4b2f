"""What a safetensors file of a result says of itself, whole or of one array, also by ranges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import safetensors
import safetensors.numpy

from tests.service.support import png_bytes, toy_maps

SAFETENSORS = {"Accept": "application/vnd.safetensors"}
LAYERS = ["conv", "conv.relu#2"]


def made(client: httpx2.Client, **fields: str) -> str:
    parts = [("image", ("a.png", png_bytes(value=17), "image/png")), ("layers", (None, ",".join(LAYERS)))]
    answer = client.post("/v1/feature-maps", files=[*parts, *((name, (None, text)) for name, text in fields.items())])
    assert answer.status_code == 200, answer.text
    return answer.headers["location"]


def said(data: bytes, folder: Path) -> dict[str, str]:
    """The metadata as the library of the format reads it."""
    (folder / "a.safetensors").write_bytes(data)
    with safetensors.safe_open(folder / "a.safetensors", framework="np") as file:
        found: dict[str, str] = file.metadata()
        return found


def test_a_file_says_what_its_arrays_are(client: httpx2.Client, tmp_path: Path) -> None:
    data = client.get(f"{made(client)}/result", headers=SAFETENSORS).content
    told = said(data, tmp_path)
    assert (told["operation"], told["model"]) == ("feature-maps", "toy")
    assert json.loads(told["provenance"])["device"] == "cpu"
    assert json.loads(told["request"])["layers"] == LAYERS
    expected = {
        "axes": ["image", "channel", "row", "column"],
        "unit": "activation",
        "indices": {"image, channel": [list(range(8))]},
    }
    assert json.loads(told["arrays"]) == {f"maps/{layer}": {**expected, "layer": layer} for layer in LAYERS}
    pixels = np.full((16, 20, 3), 17, np.uint8)
    for name, array in safetensors.numpy.load(data).items():
        assert name.removeprefix("maps/") in LAYERS
        np.testing.assert_array_equal(array[0], toy_maps(pixels, (8, 6, 6)))


def test_one_array_says_what_it_is(client: httpx2.Client, tmp_path: Path) -> None:
    answer = client.get(f"{made(client)}/arrays/maps/conv", headers=SAFETENSORS)
    assert list(json.loads(said(answer.content, tmp_path)["arrays"])) == ["maps/conv"]
    assert list(safetensors.numpy.load(answer.content)) == ["maps/conv"]


def test_what_callers_write_for_themselves_stays_with_them(client: httpx2.Client, tmp_path: Path) -> None:
    addresses = [made(client), made(client, labels='{"patient": "7"}')]
    files = [client.get(f"{address}/result", headers=SAFETENSORS) for address in addresses]
    assert files[0].content == files[1].content
    assert files[0].headers["etag"] == files[1].headers["etag"]
    assert "labels" not in json.loads(said(files[1].content, tmp_path)["request"])


def test_ranges_are_of_the_whole_file(client: httpx2.Client) -> None:
    for address in (f"{(job := made(client))}/result", f"{job}/arrays/maps/conv"):
        whole = client.get(address, headers=SAFETENSORS)
        data, tag = whole.content, whole.headers["etag"]
        begin = int.from_bytes(data[:8], "little") + 8
        pieces: list[bytes] = []
        for first, last in ((0, begin - 5), (begin - 4, begin + 99), (begin + 100, len(data) - 1)):
            asked: dict[str, Any] = {**SAFETENSORS, "Range": f"bytes={first}-{last}", "If-Range": tag}
            piece = client.get(address, headers=asked)
            assert piece.status_code == 206
            pieces.append(piece.content)
        assert b"".join(pieces) == data
