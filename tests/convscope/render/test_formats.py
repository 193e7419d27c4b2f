"""Pictures as WebP, JPEG and SVG: the same pixels, or text and cells, and the same words beside them."""

from __future__ import annotations

import base64
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from convscope.protocol.pictures import Picture, Slice
from convscope.protocol.problems import ProblemError
from convscope.render import RenderOptions, stack, vector
from convscope.render.colors import table
from convscope.render.sheet import encode
from tests.convscope.render.helpers import Png, tiles

SVG = "{http://www.w3.org/2000/svg}"
MAPS = np.random.default_rng(0).normal(size=(6, 9, 9)).astype(np.float32)
CORRELATION = np.array([[1.0, 0.25, np.nan], [0.25, 1.0, 0.5], [np.nan, 0.5, 1.0]], np.float32)


def drawn(file_format: str) -> bytes:
    picture, arrays = tiles(MAPS)
    return stack([picture], arrays, lambda _: None, RenderOptions(), file_format)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_webp_has_the_pixels_of_png_and_jpeg_nearly() -> None:
    png = Png.of(drawn("PNG"))
    webp, jpeg = opened(drawn("WEBP")), opened(drawn("JPEG"))
    assert (webp.format, jpeg.format) == ("WEBP", "JPEG")
    assert (np.asarray(webp.convert("RGB")) == png.pixels).all()
    assert np.abs(np.asarray(jpeg).astype(int) - png.pixels).mean() < 3


@pytest.mark.parametrize("file_format", ["WEBP", "JPEG"])
def test_the_scale_stands_in_exif(file_format: str) -> None:
    lines = opened(drawn(file_format)).getexif()[0x010E].split("\n")
    told = dict(line.split(": ", 1) for line in lines)
    assert json.loads(told["convscope:scale"]) == json.loads(Png.of(drawn("PNG")).text["convscope:scale"])
    assert told["Title"] == "net layer"


@pytest.mark.parametrize(("file_format", "most"), [("WEBP", 16_383), ("JPEG", 65_500)])
def test_a_page_too_long_for_the_format_is_refused(file_format: str, most: int) -> None:
    with pytest.raises(ProblemError) as caught:
        encode(Image.new("L", (1, most + 1)), [("Title", "t")], repeated=False, file_format=file_format)
    assert caught.value.name == "too-expensive" and "PNG" in caught.value.detail


def matrix(**fields: object) -> Picture:
    names = ("one", "two & more", "three")
    return Picture(
        "m", "net <layers>", ("matrix",), matrix=Slice("m"), row_labels=names, column_labels=names,
        normalize="layer", colormap="magma", value_name="CKA", value_range=(0.0, 1.0), **fields,
    )  # fmt: skip


def test_a_matrix_as_svg_has_its_labels_values_and_colours() -> None:
    page = ElementTree.fromstring(vector([matrix()], {"m": CORRELATION}.__getitem__, RenderOptions()))
    texts = [text.text for text in page.iter(f"{SVG}text")]
    assert texts[0] == "net <layers>" == page.find(f"{SVG}title").text
    assert texts.count("two & more") == 2 and texts.count("0.25") == 2 and "CKA" in texts
    cells = next(page.iter(f"{SVG}image"))
    pixels = np.asarray(opened(base64.b64decode(cells.get("href").partition(",")[2])))
    magma = table("magma", False)
    assert pixels.shape == (3, 3, 3)
    assert (pixels[0, 0] == magma[255]).all() and (pixels[0, 1] == magma[64]).all()
    assert (pixels[0, 2] == 255).all(), "no value is white"
    width = float(page.get("width"))
    assert all(0 <= float(text.get("x")) <= width for text in page.iter(f"{SVG}text"))
    again = vector([matrix()], {"m": CORRELATION}.__getitem__, RenderOptions())
    assert again == vector([matrix()], {"m": CORRELATION}.__getitem__, RenderOptions())


def test_what_is_no_matrix_has_no_svg() -> None:
    picture, arrays = tiles(MAPS)
    for pictures in ([picture], [matrix(), matrix()]):
        with pytest.raises(ProblemError) as caught:
            vector(pictures, arrays, RenderOptions())
        assert caught.value.name == "not-acceptable"
