"""Uploads that are arrays: shapes, element types, ranges, what is drawn of them, and what is refused."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from convscope.protocol.problems import ProblemError
from service.images.arrays import parse_range
from service.images.uploads import decode


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def test_five_planes_of_floats_as_they_are() -> None:
    values = np.random.default_rng(0).random((12, 9, 5)).astype(np.float32)
    found = decode(npy(values), 1.0)
    assert found.planes is not None and np.array_equal(found.planes, values)
    assert (found.height, found.width, found.format) == (12, 9, "NPY")
    assert np.array_equal(found.pixels, np.floor(values[:, :, :3] * 255 + 0.5).astype(np.uint8))
    assert found.notes[0] == "an array of float32, read as H×W×C: 5 planes of 12×9"
    assert found.notes[-1] == "drawn as planes 1 to 3 as red, green and blue"


@pytest.mark.parametrize("order", ["C", "F"])
def test_planes_first_and_fortran_order_are_the_same_picture(order: Any) -> None:
    values = np.random.default_rng(1).random((4, 30, 20))
    first, last = decode(npy(np.asarray(values, order=order)), 1.0), decode(npy(values.transpose(1, 2, 0)), 1.0)
    assert first.planes is not None and last.planes is not None
    assert np.array_equal(first.planes, last.planes)
    assert "C×H×W" in first.notes[0] and "H×W×C" in last.notes[0]


def test_twelve_bits_in_sixteen_by_hand() -> None:
    values = np.array([[0, 1000], [2048, 4095]], np.uint16)
    plain = decode(npy(values), 1.0)
    assert plain.planes is not None
    np.testing.assert_allclose(plain.planes[:, :, 0], values / 65535, rtol=1e-6)
    assert plain.notes[1] == "values from 0 to 4095 found; 0 to 65535 read as 0 to 1"
    wished = decode(npy(values), 1.0, (0.0, 4095.0))
    assert wished.planes is not None
    np.testing.assert_allclose(wished.planes[:, :, 0], values / 4095, rtol=1e-6)
    assert wished.pixels[:, :, 1].tolist() == [[0, 62], [128, 255]]
    assert wished.notes[-1] == "drawn as plane 1 as grey"
    assert wished.sha256 != plain.sha256
    clipped = decode(npy(values), 1.0, (1000.0, 2048.0))
    assert clipped.planes is not None and clipped.planes[:, :, 0].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert "values beyond that range clipped" in clipped.notes


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float32", "float64"])
def test_safetensors_say_range_and_layout(dtype: str) -> None:
    values = np.arange(2 * 2 * 6).reshape(2, 2, 6).astype(dtype)
    data = safetensors.numpy.save({"x": values}, {"range": "0,23", "layout": "CHW"})
    found = decode(data, 1.0)
    assert found.format == "SAFETENSORS" and found.planes is not None
    np.testing.assert_allclose(found.planes, values.transpose(1, 2, 0).astype(np.float64) / 23, rtol=1e-3, atol=1e-7)


def test_ranges_that_nobody_gave() -> None:
    floats = decode(npy(np.array([[-3.0, 1.0], [0.0, 5.0]])), 1.0)
    assert floats.planes is not None
    assert floats.planes[:, :, 0].tolist() == [[0.0, 0.5], [0.375, 1.0]]
    constant = decode(npy(np.full((4, 4), 7.0)), 1.0)
    assert constant.planes is not None and not constant.planes.any()
    signed = decode(npy(np.array([[-32768, 32767]], np.int16)), 1.0)
    assert signed.planes is not None and signed.planes[:, :, 0].tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("data", "problem", "said"),
    [
        (npy(np.zeros((4, 4, 4, 4))), "unsupported-format", "4×4×4×4"),
        (npy(np.zeros((4, 4), bool)), "unsupported-format", "array of bool"),
        (npy(np.zeros((4, 4), complex)), "unsupported-format", "array of complex128"),
        (npy(np.zeros((4, 0, 3))), "unsupported-format", "4×0×3"),
        (npy(np.zeros((70, 80, 90))), "unsupported-format", "70 planes"),
        (npy(np.array([[1.0, np.nan]])), "unreadable-image", "not finite"),
        (npy(np.zeros((40, 40)))[:-8], "unreadable-image", "ends too early"),
        (npy(np.zeros((40, 40))) + b"more", "unreadable-image", "ends too early"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "unreadable-image", "version"),
        (b"\x93NUMPY\x01\x00\x76\x00" + b"{" * 118, "unreadable-image", "damaged"),
        (npy(np.zeros((1200, 1000), np.uint8)), "too-many-pixels", "1000 × 1200"),
        (safetensors.numpy.save({"x": np.zeros((2, 2)), "y": np.zeros((2, 2))}), "unsupported-format", "2 arrays"),
        (safetensors.numpy.save({"x": np.zeros((4, 4))}, {"range": "high"}), "unreadable-image", "LOW,HIGH"),
    ],
)
def test_what_is_refused(data: bytes, problem: str, said: str) -> None:
    with pytest.raises(ProblemError) as caught:
        decode(data, 1.0)
    assert caught.value.name == problem and said in caught.value.detail


def test_nothing_is_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(ProblemError) as caught:
        decode(buffer.getvalue(), 1.0)
    assert caught.value.name == "unsupported-format" and "object" in caught.value.detail


def test_safetensors_whose_header_lies() -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [100, 100], "data_offsets": [0, 16]}}).encode()
    with pytest.raises(ProblemError) as caught:
        decode(len(header).to_bytes(8, "little") + header + bytes(16), 1.0)
    assert caught.value.name == "unreadable-image"


@pytest.mark.parametrize("text", ["1", "2,1", "1,1", "a,b", "0,inf", "nan,1", "1,2,3", ""])
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"LOW,HIGH|could not convert"):
        parse_range(text)


def sixteen_bits(values: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_sixteen_bit_picture_tells_the_range_found_and_takes_a_wish() -> None:
    values = np.array([[0, 1000], [2048, 4095]], np.uint16)
    plain = decode(sixteen_bits(values), 1.0)
    assert plain.notes == ("16 bits scaled to 8; values from 0 to 4095 found",)
    assert plain.pixels[:, :, 0].tolist() == [[0, 4], [8, 16]]
    wished = decode(sixteen_bits(values), 1.0, (0.0, 4095.0))
    assert wished.pixels[:, :, 0].tolist() == [[0, 62], [128, 255]]
    assert wished.notes == ("0 to 4095 scaled to 8 bits; values from 0 to 4095 found",)
