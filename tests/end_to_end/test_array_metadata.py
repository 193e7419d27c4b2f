"""Every array that a whole Convscope gives says what it is: axes that fit its shape, its unit, its layer."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from convscope.protocol.operations import operations
from convscope_client import Client
from convscope_client.results import SAFETENSORS

FEWER: dict[str, dict[str, Any]] = {
    "maximize": {"channels": [3, 8], "steps": 2, "size": 64},
    "saliency": {"method": "gradient", "steps": None},
}
"""Where an operation's example takes long."""
SEVERAL = frozenset({"cka", "compare", "evaluate", "top-activations"})
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
def test_arrays_say_what_they_are(name: str, address: str, chelsea: bytes) -> None:
    operation = operations()[name]
    needed = 0 if name == "maximize" else operation.max_images  # maximize takes an image and needs none
    photographs = shifted(chelsea) if name in SEVERAL else [chelsea] if needed else None
    with Client(address) as client:
        job = client.submit(name, photographs, {**operation.example, **FEWER.get(name, {})}, wait_s=0)
        content = client.read_result(job.result(150).job_id, SAFETENSORS)
    length = int.from_bytes(content[:8], "little")
    told = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["arrays"])
    arrays = safetensors.numpy.load(content)
    assert told.keys() == arrays.keys()
    for array, values in arrays.items():
        about = told[array]
        assert len(about["axes"]) == values.ndim, (array, values.shape, about)
        assert about["unit"]
        for axes, indices in about.get("indices", {}).items():
            if isinstance(indices, list) and axes in about["axes"]:
                assert len(indices) == values.shape[about["axes"].index(axes)], (array, axes)
        layer = array.partition("/")[2]
        if layer and name not in ("cam", "compare", "evaluate"):
            assert about["layer"] == layer
