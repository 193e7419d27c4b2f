"""Zip64 archives, as programs write them on the fly: read within the bounds of every other archive."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from datetime import datetime

import httpx2
import numpy as np
import pytest
from stream_zip import ZIP_64, stream_zip

from convscope.settings import Settings
from tests.service.support import Service, png_bytes, problem_of

END64, LOCATOR, END = b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06"


@pytest.fixture(scope="module")
def small(service_settings: Settings) -> Iterator[Service]:
    """The service with small limits."""
    limits = {"body_mib": 1, "image_set_mib": 2, "image_set_images": 5, "image_set_megapixels": 0.25}
    with Service(service_settings.model_copy(update=limits)) as running:
        yield running


@pytest.fixture(scope="module")
def client(small: Service) -> Iterator[httpx2.Client]:
    """Asks the service with small limits."""
    with small.client() as asking:
        yield asking


def streamed(*entries: tuple[str, bytes]) -> bytes:
    """An archive as stream-zip writes it while it sends it."""
    made = datetime(2026, 12, 1)
    return b"".join(stream_zip((name, made, 0o600, ZIP_64, (data,)) for name, data in entries))


def post(client: httpx2.Client, data: bytes) -> httpx2.Response:
    return client.post("/v1/image-sets", content=data, headers={"Content-Type": "application/zip"})


TWO = streamed(("a.png", png_bytes(4, 4, 1)), ("b.png", png_bytes(4, 4, 2)))


def test_it_is_of_the_zip64_kind_although_small() -> None:
    assert END64 in TWO and LOCATOR in TWO and len(TWO) < 1000
    assert TWO[-22:] == END + b"\xff" * 16 + b"\0\0"


def test_it_is_the_set_that_an_ordinary_archive_makes(client: httpx2.Client) -> None:
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as made:
        made.writestr("a.png", png_bytes(4, 4, 1))
        made.writestr("b.png", png_bytes(4, 4, 2))
    view = post(client, TWO).json()
    assert [member["name"] for member in view["members"]] == ["a.png", "b.png"]
    assert view["rejected"] == 0
    assert view["id"] == post(client, plain.getvalue()).json()["id"]
    part = client.post("/v1/image-sets", files={"image": ("set.zip", TWO, "application/zip")})
    assert part.json()["id"] == view["id"]


def test_a_comment_after_it_hides_nothing(client: httpx2.Client) -> None:
    commented = TWO[:-2] + struct.pack("<H", 65_535) + bytes(65_535)
    assert post(client, commented).json()["images"] == 2


def test_an_ordinary_archive_may_hold_the_letters_of_a_zip64_one(client: httpx2.Client) -> None:
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w") as made:
        made.writestr("a.png", png_bytes(4, 4, 1))
        made.writestr("PK\x06\x07.txt", LOCATOR)
    view = post(client, plain.getvalue()).json()
    assert (view["images"], view["rejected"]) == (1, 1)


def test_every_bound_holds(client: httpx2.Client) -> None:
    tiny = [(f"{number}.png", png_bytes(2, 2, number)) for number in range(6)]
    problem_of(post(client, streamed(*tiny)), 413, "too-many-images")
    problem_of(post(client, streamed(*[(f"{number:05}.png", b"") for number in range(2000)])), 413, "too-many-images")
    flat = [(f"{number}.png", png_bytes(300, 300, number)) for number in range(3)]  # 0.09 megapixels each
    problem_of(post(client, streamed(*flat)), 413, "too-many-pixels")
    # Each entry is small enough, together they unpack to more than the set may have.
    noise = np.random.default_rng(0).integers(0, 4, (1 << 20) - 4096, np.uint8).tobytes()
    problem_of(post(client, streamed(*[(f"{number}.bin", noise) for number in range(4)])), 413, "body-too-large")
    view = post(client, streamed(*tiny[:2], ("large.bmp", bytes((1 << 20) + 1)))).json()
    assert (view["images"], view["rejected"]) == (2, 1)


def test_what_its_records_say_is_not_believed(client: httpx2.Client) -> None:
    end64, locator = TWO.rindex(END64), TWO.rindex(LOCATOR)

    def changed(at: int, layout: str, value: int) -> bytes:
        data = bytearray(TWO)
        struct.pack_into(layout, data, at, value)
        return bytes(data)

    # The address of the record, the directory's size and its place; a record of another kind where it should be.
    broken = [changed(locator + 8, "<Q", place) for place in (0, end64 + 1, end64 - 1, 2**63, 2**64 - 1)]
    broken += [changed(end64 + 40, "<Q", size) for size in (len(TWO) + 1, 2**63, 2**64 - 1)]
    broken += [changed(end64, "<L", 0)]
    for data in broken:
        problem_of(post(client, data), 400, "malformed-body")
    for place in (2**63 + 1, 2**64 - 1):
        data = changed(end64 + 48, "<Q", place)
        assert post(client, data).status_code in (400, 422)


def test_an_entry_that_lies_about_itself_costs_only_itself(client: httpx2.Client) -> None:
    """The first entry of the directory: its size, its packed size and its place, in the 64-bit field after its name."""
    first = TWO.index(b"PK\x01\x02")
    field = TWO.index(struct.pack("<HH", 1, 24), first) + 4
    for offset, value in ((0, 2**62), (0, 7), (8, 0), (16, 2**62), (16, 2**63), (16, 2**64 - 1), (16, 5)):
        data = bytearray(TWO)
        struct.pack_into("<Q", data, field + offset, value)
        view = post(client, bytes(data)).json()
        assert (view["images"], view["rejected"]) == (1, 1), (offset, value, view)
        assert [member["name"] for member in view["members"]] == ["b.png"]
