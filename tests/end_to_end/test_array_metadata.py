"""Every array that a whole Convscope gives says what it is: axes that fit its shape, its unit, its layer."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx2
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from convscope.protocol.operations import operations

FEWER: dict[str, dict[str, Any]] = {"maximize": {"channels": [3, 8], "steps": 2, "size": 64}}
"""Where an operation's example takes long."""
SEVERAL = frozenset({"cka", "top-activations"})
"""Operations on a population."""


def shifted(chelsea: bytes) -> list[bytes]:
    pixels = np.asarray(Image.open(io.BytesIO(chelsea)).convert("RGB"))
    files = []
    for number in range(6):
        file = io.BytesIO()
        Image.fromarray(np.roll(pixels, 9 * number, axis=1)).save(file, "PNG")
        files.append(file.getvalue())
    return files


@pytest.mark.parametrize("name", list(operations()))
def test_arrays_say_what_they_are(name: str, client: httpx2.Client, chelsea: bytes) -> None:
    operation = operations()[name]
    request = {**operation.example, **FEWER.get(name, {})}
    photographs = shifted(chelsea) if name in SEVERAL else [chelsea] * (operation.max_images > 0)
    if name in FEWER:  # maximize takes an image and needs none
        photographs = []
    parts: list[Any] = [("image", ("a.png", data)) for data in photographs]
    parts.append(("request", (None, json.dumps(request), "application/json")))
    headers = {"Accept": "application/vnd.safetensors", "Prefer": "wait=60"}
    answer = client.post(f"/v1/{name}", files=parts, headers=headers)
    assert answer.status_code == 200, answer.text[:500]
    length = int.from_bytes(answer.content[:8], "little")
    told = json.loads(json.loads(answer.content[8 : 8 + length])["__metadata__"]["arrays"])
    arrays = safetensors.numpy.load(answer.content)
    assert told.keys() == arrays.keys()
    for array, values in arrays.items():
        about = told[array]
        assert len(about["axes"]) == values.ndim, (array, values.shape, about)
        assert about["unit"]
        for axes, indices in about.get("indices", {}).items():
            if isinstance(indices, list) and axes in about["axes"]:
                assert len(indices) == values.shape[about["axes"].index(axes)], (array, axes)
        layer = array.partition("/")[2]
        if layer and name not in ("cam",):
            assert about["layer"] == layer
