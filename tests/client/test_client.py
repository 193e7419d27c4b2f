"""The client against the real service: uploads, results as arrays and pictures, listings, waiting, cancelling."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import trio
from PIL import Image
from safetensors.numpy import load_file

from convscope_client import AsyncClient, Client, JobCancelledError, JobFailedError, ProblemError, Upload
from tests.service.support import FAIL, HOLD, SLOW, Service, Worker, png_bytes, toy_maps

PIXELS = np.random.default_rng(27).integers(0, 256, (16, 20, 3), dtype=np.uint8)
SHAPE = (8, 6, 6)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_path(folder: Path, client: Client) -> Any:
    (folder / "a.png").write_bytes(png(PIXELS))
    return folder / "a.png"


FORMS: dict[str, Callable[[Path, Client], Any]] = {
    "a path": as_path,
    "a path as text": lambda folder, client: str(as_path(folder, client)),
    "bytes": lambda folder, client: png(PIXELS),
    "an upload": lambda folder, client: Upload("ä b.png", png(PIXELS)),
    "an array": lambda folder, client: PIXELS,
    "a PIL image": lambda folder, client: Image.fromarray(PIXELS),
    "an id": lambda folder, client: client.upload_image(PIXELS)["id"],
    "what an upload gave": lambda folder, client: client.upload_image(PIXELS),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_an_image_in_any_form_gives_the_same_numbers(form: str, client: Client, tmp_path: Path) -> None:
    job = client.feature_maps(FORMS[form](tmp_path, client), layer="conv")
    result = job.result()
    assert (job.state, job.operation) == ("succeeded", "feature-maps")
    assert result.shapes == {"maps/conv": (1, *SHAPE)}
    maps = result.array("maps/conv")
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps[0], toy_maps(PIXELS, SHAPE))
    np.testing.assert_array_equal(result.arrays()["maps/conv"], maps)
    assert result.facts["layers"][0]["maximum"][0] == pytest.approx(maps.max((2, 3))[0].tolist())
    assert result.provenance["model"] == "toy"


@pytest.mark.parametrize(
    ("images", "means"),
    [
        (np.stack([PIXELS, PIXELS // 2]), [PIXELS, PIXELS // 2]),
        ([PIXELS // 2, PIXELS], [PIXELS // 2, PIXELS]),
    ],
    ids=["one array", "a list"],
)
def test_several_images_keep_their_order(images: Any, means: list[np.ndarray], client: Client) -> None:
    maps = client.feature_maps(images, layer="conv").result().array("maps/conv")
    np.testing.assert_array_equal(maps, [toy_maps(each, SHAPE) for each in means])


def test_ids_and_files_together_and_more_than_one_request_can_hold_are_uploaded_first(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = client.upload_image(PIXELS)
    mixed = client.feature_maps([PIXELS // 3, known, PIXELS // 4], layer="conv")
    expected = [toy_maps(each, SHAPE) for each in (PIXELS // 3, PIXELS, PIXELS // 4)]
    np.testing.assert_array_equal(mixed.result().array("maps/conv"), expected)
    monkeypatch.setattr("convscope_client._sync.jobs.FORM_BYTES", 100)
    apart = client.feature_maps([PIXELS // 3, PIXELS // 5], layer="conv")
    assert apart.request["images"][0]["id"] == mixed.request["images"][0]["id"]


def test_pictures_are_drawn_as_asked_and_saved_by_suffix(client: Client, tmp_path: Path) -> None:
    result = client.feature_maps(PIXELS, layer="conv").result()
    tall, wide = result.picture(columns=1, scale=2), result.picture(columns=8, scale=2)
    assert tall.height > tall.width and wide.width > wide.height
    (picture,) = result.pictures
    assert client.read_picture(result.job_id, picture["name"], columns=8, scale=2).tobytes() == wide.tobytes()
    saved = result.save(tmp_path / "maps.png", columns=8, scale=2)
    assert Image.open(saved).tobytes() == wide.tobytes()
    np.testing.assert_array_equal(
        load_file(result.save(tmp_path / "maps.safetensors"))["maps/conv"], result.array("maps/conv")
    )
    assert b'"succeeded"' in result.save(tmp_path / "maps.json").read_bytes()
    with pytest.raises(ValueError, match=r"must end in \.png, \.json, \.safetensors"):
        result.save(tmp_path / "maps.gif")
    with pytest.raises(ProblemError, match="columns"):
        result.picture(columns=-1)


def test_a_long_job_is_followed_with_its_previews(client: Client) -> None:
    job = client.feature_maps(PIXELS, layer="conv", seed=SLOW, fresh=True, wait_s=0)
    assert not job.finished
    events = list(job.events())
    assert [event.name for event in events if event.name != "state"] == ["progress", "progress", "preview", "done"]
    assert [int(event.id) for event in events] == list(range(1, len(events) + 1))
    (preview,) = (event for event in events if event.name == "preview")
    assert job.preview(preview).size == (4, 4)
    assert job.finished and job.result().shapes
    assert [event.id for event in job.events(after=events[2].id)] == [event.id for event in events[3:]]


def test_a_job_is_waited_for_and_a_timeout_leaves_it_running(client: Client) -> None:
    job = client.feature_maps(PIXELS, layer="conv", seed=HOLD, fresh=True, wait_s=0)
    with pytest.raises(TimeoutError, match=job.id):
        job.result(timeout_s=0.2)
    assert client.read_job(job.id).state == "running"
    assert client.job_done(job.id) is False
    job.cancel()
    job.wait(20)
    assert client.job_done(job.id) is True
    with pytest.raises(ProblemError):
        client.job_done("0" * 36)
    with pytest.raises(JobCancelledError, match=job.id):
        job.result(20)
    assert job.cancel().state == "cancelled"
    with pytest.raises(ProblemError) as caught:
        client.feature_maps(PIXELS, layer="conv").cancel()
    assert caught.value.name == "already-finished"


def test_a_job_that_fails_says_why_however_it_is_waited_for(client: Client) -> None:
    for wait_s in (0, 10):
        with pytest.raises(JobFailedError, match="The loss is NaN") as caught:
            client.feature_maps(PIXELS, layer="conv", seed=FAIL, wait_s=wait_s).result(20)
        assert (caught.value.name, caught.value.status) == ("numerical-error", 422)
        assert caught.value.job_id
        with pytest.raises(JobFailedError, match="The loss is NaN"):
            client.read_result(caught.value.job_id)


def test_a_refusal_says_where_it_is_wrong(client: Client) -> None:
    with pytest.raises(ProblemError) as caught:
        client.feature_maps(PIXELS, layer="conv", channels=[8])
    assert (caught.value.name, caught.value.status, caught.value.job_id) == ("channel-out-of-range", 422, None)
    assert "0 to 7" in caught.value.detail and caught.value.request_id
    with pytest.raises(ProblemError) as caught:
        client.submit("feature-maps", PIXELS, {"layer": "conv", "colour": "red"})
    assert caught.value.errors[0]["pointer"] == "/colour"


def test_a_key_makes_one_job_of_two_calls(client: Client) -> None:
    first = client.feature_maps(PIXELS, layer="conv", idempotency_key="once")
    assert client.feature_maps(PIXELS, layer="conv", idempotency_key="once").id == first.id
    with pytest.raises(ProblemError) as caught:
        client.feature_maps(PIXELS, layer="conv.relu#2", idempotency_key="once")
    assert caught.value.name == "idempotency-mismatch"


def test_jobs_are_listed_page_after_page(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [client.feature_maps(PIXELS, layer="conv", seed=seed).id for seed in range(1, 8)]
    monkeypatch.setattr("convscope_client._sync.resources.PAGE", 3)
    newest = [job.id for job in client.list_jobs(state="succeeded", operation="feature-maps", limit=7)]
    assert newest == made[::-1]
    assert len(list(client.list_jobs(limit=2))) == 2
    assert set(made) <= {job.id for job in client.list_jobs()}
    listed = next(client.list_jobs(operation="feature-maps"))
    assert listed.document["result"] is None and listed.result().shapes, "a result that was left out is read"


def test_jobs_are_found_and_cancelled_by_their_labels(client: Client, worker: Worker) -> None:
    with worker.idle():
        teams = [
            client.feature_maps(PIXELS, layer="conv", seed=70 + k, labels={"team": "ab"[k % 2], "run": "7"}, wait_s=0)
            for k in range(5)
        ]
        found = [job.id for job in client.list_jobs(labels={"team": "a", "run": "7"})]
        assert found == [job.id for job in teams[::2]][::-1]
        assert list(client.list_jobs(labels={"team": "a", "run": "8"})) == []
        done = client.cancel_jobs(labels={"team": "a", "run": "7"})
        assert (sorted(done["cancelled"]), done["stopping"]) == (sorted(found), [])
        assert {job.refresh().state for job in teams[::2]} == {"cancelled"}
        assert client.cancel_jobs(labels={"team": "a", "run": "7"})["cancelled"] == []
    assert {job.wait(20).state for job in teams[1::2]} == {"succeeded"}
    with pytest.raises(ProblemError, match=r"state.*operation.*label"):
        client.cancel_jobs()


def test_images_and_sets(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = client.upload_image(Image.fromarray(PIXELS))
    assert (image["width"], image["height"]) == (20, 16)
    assert client.read_image(image["id"])["sha256"] == image["sha256"]
    np.testing.assert_array_equal(client.image_picture(image["id"]), PIXELS)
    assert image["id"] in {one["id"] for one in client.list_images()}
    client.delete_image(image["id"])
    with pytest.raises(ProblemError):
        client.read_image(image["id"])

    files = [png_bytes(value=value) for value in range(9)]
    monkeypatch.setattr("convscope_client._sync.resources.PAGE", 4)
    made = client.upload_image_set(files)
    assert (made["images"], made["rejected"]) == (9, 0)
    members = list(client.image_set_members(made["id"]))
    assert [member["name"] for member in members] == [f"{number:05d}-image-{number}" for number in range(9)]
    assert len(client.read_image_set(made["id"], limit=2)["members"]) == 2
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for number, data in enumerate(files):
            archive.writestr(f"{number}.png", data)
        archive.writestr("notes.txt", "no image")
    zipped = client.upload_image_set(tmp_path / "some.zip")
    assert (zipped["images"], zipped["rejected"]) == (9, 1)
    assert {made["id"], zipped["id"]} <= {one["id"] for one in client.list_image_sets()}
    client.delete_image_set(made["id"])
    assert made["id"] not in {one["id"] for one in client.list_image_sets()}


def test_the_catalogue_and_the_services_health(client: Client) -> None:
    assert client.wait_until_ready(10, workers=1)["workers"] == 1
    assert client.live()["status"] == "ok"
    assert client.list_models()["default"] == "toy"
    card = client.read_model("toy")
    names = [layer["name"] for layer in card["layers"]]
    assert names == ["conv", "conv.relu#2", "wide", "huge", "fc"]
    assert [layer["name"] for layer in client.list_layers("toy", method="cam")] == names[:4]
    assert {"cam", "cka"} <= {one["name"] for one in client.list_operations()}
    assert "convscope_queue_up 1.0" in client.metrics()


def test_names_go_into_addresses_whole(client: Client) -> None:
    result = client.feature_maps(PIXELS, layer="conv.relu#2").result()
    assert result.array("maps/conv.relu#2").shape == (1, *SHAPE)
    for odd in ("a/b", "a?b#c", "ä %"):
        for read in (client.read_model, client.read_image, client.read_job):
            with pytest.raises(ProblemError) as caught:
                read(odd)
            assert caught.value.status in (404, 422)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 4, 3), np.complex64), "complex64"),
        (np.zeros((4, 0, 3), np.uint8), "4×0×3"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), "2×4×4×3"),
        ({"name": "x"}, "`id` or `base64`"),
        ({"id": "img-1", "base64": "aa"}, "`id` or `base64`"),
        (7, "not int"),
    ],
)
def test_what_is_no_image_is_said_before_anything_is_sent(wrong: Any, message: str) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises((TypeError, ValueError), match=message):
        client.cam(wrong)


def test_arrays_of_more_than_eight_bits_go_as_they_are(client: Client) -> None:
    deep = np.linspace(0, 4000, 16 * 20, dtype=np.uint16).reshape(16, 20)
    made = client.upload_image(deep, range=(0, 4000))
    assert (made["width"], made["height"], made["format"]) == (20, 16, "NPY")
    expected = np.floor(deep / 4000 * 255 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(client.image_picture(made["id"]))[:, :, 0], expected)
    planes = np.random.default_rng(3).random((5, 16, 20)).astype(np.float32)
    assert "5 planes of 16×20" in " ".join(client.upload_image(planes)["notes"])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_every_mode_are_sent(mode: str, client: Client) -> None:
    picture = Image.fromarray(PIXELS).convert(mode)
    sent = client.image_picture(client.upload_image(picture)["id"])
    np.testing.assert_array_equal(sent, picture.convert("RGB"))


async def test_many_jobs_at_once_asynchronously(service: Service) -> None:
    maps: dict[int, np.ndarray] = {}
    async with AsyncClient(service.url) as client, anyio.create_task_group() as tasks:

        async def one(value: int) -> None:
            job = await client.feature_maps(PIXELS // (value + 1), layer="conv", wait_s=0)
            maps[value] = await (await job.result(20)).array("maps/conv")

        for value in range(16):
            tasks.start_soon(one, value)
    for value, found in maps.items():
        np.testing.assert_array_equal(found[0], toy_maps(PIXELS // (value + 1), SHAPE))
    assert len(maps) == 16


def test_it_runs_under_trio_too(service: Service) -> None:
    async def main() -> tuple[list[str], np.ndarray]:
        async with AsyncClient(service.url) as client:
            job = await client.feature_maps(PIXELS, layer="conv", seed=SLOW, fresh=True, wait_s=0)
            names = [event.name async for event in job.events()]
            return names, await (await job.result()).array("maps/conv")

    names, maps = trio.run(main)
    assert names[-1] == "done"
    np.testing.assert_array_equal(maps[0], toy_maps(PIXELS, SHAPE))
