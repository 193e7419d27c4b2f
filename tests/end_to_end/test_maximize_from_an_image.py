"""What is asked with few words: an ascent from an image alone, means above maps, more pictures than one job makes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

from convscope.protocol.operations import operations
from convscope.protocol.pictures import ArrayInfo
from convscope.render.options import RenderOptions, plan
from convscope.render.tiles import tile_texts
from tests.convscope.cli.launched import Launched
from tests.end_to_end.test_whole import finished
from tests.service.support import problem_of
from workers.networks.build import load

PNG = {"Accept": "image/png"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A Convscope whose default network is small: four pictures of 256 steps take seconds, not two minutes."""
    data: Path = tmp_path_factory.mktemp("small")
    with (
        Launched(data, "--default-model", "digits", standins=False) as launched,
        httpx2.Client(base_url=launched.address, timeout=120, trust_env=False) as client,
    ):
        yield client


def ascends_from(client: httpx2.Client, photograph: bytes, **fields: str) -> dict[str, Any]:
    """The job of a form with the image, which must succeed and start from it."""
    files = {"image": ("photograph.png", photograph, "image/png")}
    job = finished(client, client.post("/v1/maximize", files=files, data=fields))
    assert job["state"] == "succeeded", job["error"]
    request, facts = job["request"], job["result"]["facts"]
    operations()["maximize"].facts.model_validate(facts)
    assert request["start"] == "image" and len(request["images"]) == 1 and request["preset"] == "smooth"
    assert [one["channel"] for one in facts["pictures"]] == [0, 1, 2, 3]
    assert len({one["layer"] for one in facts["pictures"]}) == 1
    pixels = np.load(io.BytesIO(client.get(job["result"]["arrays"]["images"]["href"]).content))
    assert pixels.shape == (4, *request["size"], 3)
    alive = [number for number, one in enumerate(facts["pictures"]) if not one["dead"]]
    assert alive and all(
        facts["pictures"][number]["loss_last"] > facts["pictures"][number]["loss_first"] for number in alive
    )
    drawn = client.get(f"/v1/jobs/{job['id']}/result", headers=PNG)
    assert drawn.status_code == 200 and Image.open(io.BytesIO(drawn.content)).format == "PNG", drawn.text
    return job


def test_an_image_and_nothing_else_is_ascended_from(small: httpx2.Client, coffee: bytes) -> None:
    """Every step of the default, of the first four channels of the default layer."""
    job = ascends_from(small, coffee)
    assert job["request"]["model"] == "digits" and job["request"]["steps"] == 256
    assert [one["steps"] for one in job["result"]["facts"]["pictures"] if not one["dead"]].count(256) > 0


def test_an_image_and_a_few_steps_are_ascended_from_with_the_default_network(
    client: httpx2.Client, coffee: bytes
) -> None:
    """So few that the pictures still look like the photograph: it is the start, and not only looked at."""
    job = ascends_from(client, coffee, steps="4")
    assert job["request"]["model"] == "efficientnet_lite0"
    pixels = np.load(io.BytesIO(client.get(job["result"]["arrays"]["images"]["href"]).content)).astype(np.float64)
    height, width = pixels.shape[1:3]
    photograph = Image.open(io.BytesIO(coffee)).convert("L")
    side = min(photograph.size)
    left, top = (photograph.width - side) // 2, (photograph.height - side) // 2
    square = photograph.crop((left, top, left + side, top + side)).resize((width, height), Image.Resampling.BILINEAR)
    for picture in pixels:
        assert np.corrcoef(picture.mean(2).ravel(), np.asarray(square, np.float64).ravel())[0, 1] > 0.8


def test_the_titles_of_feature_maps_are_their_means_and_stand_in_the_picture(
    client: httpx2.Client, coffee: bytes
) -> None:
    files = {"image": ("coffee.png", coffee, "image/png")}
    fields = {"layer": "blocks.1", "channels": "first:6"}
    job = finished(client, client.post("/v1/feature-maps", files=files, data=fields))
    result = job["result"]
    maps = np.load(io.BytesIO(client.get(result["arrays"]["maps/blocks.1"]["href"]).content))
    arrays = {name: ArrayInfo(tuple(told["shape"]), told["dtype"]) for name, told in result["arrays"].items()}
    (picture,) = operations()["feature-maps"].pictures(job["request"], result["facts"], arrays)
    titles, _ = tile_texts(picture, plan(picture, RenderOptions(title="mean")))
    assert len(titles) == len(set(titles)) == 6
    for channel, title in enumerate(titles):
        number, _, mean = title.partition(": ")
        assert int(number) == channel
        assert float(mean) == pytest.approx(float(maps[0, channel].astype(np.float64).mean()), rel=6e-3)
    assert tile_texts(picture, plan(picture, RenderOptions(title="none")))[0] == [""] * 6
    drawn = {}
    for title in ("mean", "none", "max"):
        answer = client.get(f"/v1/jobs/{job['id']}/result", params={"title": title}, headers=PNG)
        assert answer.status_code == 200, answer.text
        drawn[title] = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
    assert drawn["mean"].shape[0] > drawn["none"].shape[0], "a line of text above each row of maps"
    assert not np.array_equal(drawn["mean"], drawn["max"])


def test_a_picture_that_diverges_is_withheld_and_the_other_of_its_job_is_made(client: httpx2.Client) -> None:
    """DeepDream's square of a convolution's output leaves all bounds under plain ascent; a channel's mean does not."""
    runaway = {"sum": [{"weight": 1e6, "of": {"layer": "conv_stem"}}]}
    body = {"objective": [{"layer": "conv_stem", "channel": 3}, runaway], "preset": "pixel", "optimizer": "ascent"}
    answer = client.post("/v1/maximize", json={**body, "learning_rate": 1e4, "steps": 30, "size": 64})
    job = finished(client, answer)
    assert job["state"] == "succeeded", job["error"]
    made, lost = job["result"]["facts"]["pictures"]
    operations()["maximize"].facts.model_validate(job["result"]["facts"])
    assert (made["stopped_by"], made["withheld"], made["steps"]) == ("steps", False, 30)
    assert (lost["stopped_by"], lost["withheld"], lost["dead"], lost["image_id"]) == ("diverged", True, False, None)
    assert client.get(f"/v1/images/{made['image_id']}").is_success
    pixels = np.load(io.BytesIO(client.get(job["result"]["arrays"]["images"]["href"]).content))
    assert pixels[0].any() and not pixels[1].any()
    assert client.get(f"/v1/jobs/{job['id']}/result", headers=PNG).status_code == 200
    alone = finished(client, client.post("/v1/maximize", json={**body, "objective": runaway, "learning_rate": 1e4}))
    assert alone["error"]["type"].endswith("/numerical-error")


@pytest.mark.parametrize(
    ("channels", "cost"), [("all", 1280), ("first:513", 513), ("top:513", 513), (list(range(513)), 513)], ids=str
)  # fmt: skip
def test_more_pictures_than_one_job_makes_are_refused_at_once(
    client: httpx2.Client, coffee: bytes, channels: Any, cost: int
) -> None:
    before = client.get("/v1/jobs").json()["jobs"]
    fields = {"layer": "conv_head", "channels": channels if isinstance(channels, str) else ",".join(map(str, channels))}
    files = {"image": ("coffee.png", coffee, "image/png")}
    problem = problem_of(client.post("/v1/maximize", files=files, data=fields), 422, "too-expensive")
    assert (problem["cost"], problem["limit"]) == (cost, 512)
    assert "512 pictures" in problem["detail"]
    assert client.get("/v1/jobs").json()["jobs"] == before, "no job was made"


def test_as_many_pictures_as_one_job_makes_are_taken(client: httpx2.Client) -> None:
    answer = client.post("/v1/maximize", json={"layer": "conv_head", "channels": "first:512", "steps": 1, "size": 32})
    assert answer.status_code == 202, answer.text
    assert len(answer.json()["request"]["objective"]) == 512
    assert client.delete(f"/v1/jobs/{answer.json()['id']}").is_success


def test_a_start_of_floats_is_not_rounded(small: httpx2.Client) -> None:
    start = (128 + np.random.RandomState(42).uniform(0, 20, (32, 32, 3))).astype(np.float32)
    file = io.BytesIO()
    np.save(file, start)
    files = {"image": ("start.npy", file.getvalue(), "application/x-npy")}
    uploaded = small.post("/v1/images?range=0,255", files=files)
    assert uploaded.status_code in (200, 201), uploaded.text
    body = {
        "image": uploaded.json()["id"], "layer": "conv1", "channels": [3], "preset": "pixel", "steps": 2,
        "preprocess": {"range": "byte"}, "float_pictures": True,
    }  # fmt: skip
    job = finished(small, small.post("/v1/maximize", json=body))
    assert job["state"] == "succeeded", job["error"]
    convolution = load("digits").module.get_submodule("features.0")
    with torch.no_grad():
        exact, rounded = (
            float(convolution(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0, 3].mean())
            for pixels in (start, np.round(start))
        )
    first = job["result"]["facts"]["pictures"][0]["loss_first"]
    assert first == pytest.approx(exact, rel=1e-6)
    assert first != pytest.approx(rounded, rel=2e-6)
    pictures = np.load(io.BytesIO(small.get(job["result"]["arrays"]["pictures"]["href"]).content))
    assert (pictures.shape, pictures.dtype) == ((1, 3, 32, 32), np.float32)
