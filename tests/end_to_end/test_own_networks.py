"""Networks as their owners write them, through every process: what they cannot bear is borne for them, or said."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.convscope.cli.launched import Launched
from tests.workers.harness import ROOT
from tests.workers.networks import own_networks

MODULE = "tests.workers.networks.own_networks"
PLANES = {"five_planes": 5, "grey": 1}
GOOD = ("flattened", "batch_statistics", "constant", "branch", "with_planes_of_time", "grey")
OTHERS = ("dropping", "five_planes", "mismatched", "flattened_rows", "segmenter")
MEAN, STD = 0.5, 0.25

OPERATIONS: dict[str, dict[str, Any]] = {
    "classify": {}, "saliency": {"target": 1}, "occlusion": {"target": 1, "window": 16, "stride": 16},
    "cam": {"layer": "one"}, "feature-maps": {"layer": "one"}, "deconv": {"layer": "one", "channels": [0]},
    "maximize": {"objective": {"class": 1}, "steps": 2}, "kernels": {"layer": "one"},
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    folder = tmp_path_factory.mktemp("own")
    text = ""
    for name in (*GOOD, *OTHERS):
        text += (
            f'[networks.{name}]\nsource = "python:{MODULE}:{name}"\nweights = "random"\nclasses = ["a", "b", "c"]\n'
            f"[networks.{name}.preprocess]\nsize = 32\nresize = 32\nmean = {MEAN}\nstd = {STD}\n"
            f"channels = {PLANES.get(name, 3)}\n"
        )
    (folder / "catalogue.toml").write_text(text)
    settings = {"CONVSCOPE_CATALOGUE": str(folder / "catalogue.toml"), "PYTHONPATH": str(ROOT)}
    with (
        Launched(folder / "data", standins=False, **settings) as launched,
        httpx2.Client(base_url=launched.address, timeout=90, trust_env=False) as client,
    ):
        yield client


def picture() -> tuple[np.ndarray[Any, Any], bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def own_answer(name: str, planes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the network says to planes H×W×C in [0, 1], in plain PyTorch."""
    torch.manual_seed(0)
    network = getattr(own_networks, name)().eval()
    x = (torch.from_numpy(planes).permute(2, 0, 1)[None].float() - MEAN) / STD
    with torch.no_grad():
        return network(x).numpy()  # type: ignore[no-any-return]


def ask(client: httpx2.Client, operation: str, **request: Any) -> httpx2.Response:
    return client.post(f"/v1/{operation}", json=request, headers={"Prefer": "wait=60"})


def logits_of(client: httpx2.Client, result: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The logits behind a result's link."""
    data = client.get(result["arrays"]["logits"]["href"], headers={"Accept": "application/x-npy"}).content
    found: np.ndarray[Any, Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return found


def uploaded(client: httpx2.Client, data: bytes, **query: str) -> dict[str, Any]:
    answer = client.post("/v1/images", content=data, params=query)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("name", GOOD)
def test_every_operation_in_both_precisions(client: httpx2.Client, name: str) -> None:
    pixels, data = picture()
    image = {"id": uploaded(client, data)["id"]}
    planes = pixels / 255
    if name == "grey":
        planes = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None] / 255
    expected = own_answer(name, planes)
    for precision, near in (("exact", 1e-5), ("fast", 0.05)):
        for operation, wish in OPERATIONS.items():
            if operation in ("maximize", "kernels"):
                answer = ask(client, operation, model=name, precision=precision, **wish)
            else:
                answer = ask(client, operation, model=name, precision=precision, image=image, **wish)
            assert answer.status_code == 200, (operation, precision, answer.text)
            if operation == "classify":
                logits = logits_of(client, answer.json()["result"])
                np.testing.assert_allclose(logits, expected, atol=near * float(abs(expected).max()))


def test_what_each_can_bear_is_said_by_its_card_and_its_results(client: httpx2.Client) -> None:
    assert client.get("/v1/models/flattened").json()["behaviour"]["channels_last"] is False
    card = client.get("/v1/models/batch_statistics").json()
    assert "depends on the other images" in card["behaviour"]["alone"]
    _, data = picture()
    answer = ask(client, "classify", model="batch_statistics", image={"id": uploaded(client, data)["id"]})
    assert "by itself" in answer.json()["result"]["provenance"]["notes"][0]


def test_what_is_random_is_computed_for_each_who_asks_and_says_its_seed(client: httpx2.Client) -> None:
    assert client.get("/v1/models/dropping").json()["behaviour"]["random"] is True
    _, data = picture()
    image = {"id": uploaded(client, data)["id"]}
    results = [ask(client, "classify", model="dropping", image=image).json()["result"] for _ in range(3)]
    logits = [tuple(logits_of(client, result)[0].tolist()) for result in results]
    assert len(set(logits)) == 3
    for result, own in zip(results, logits, strict=True):
        random, assumed, seeded = result["provenance"]["notes"]
        assert "random in evaluation" in random and "a softmax over its classes is assumed" in assumed
        seed = int(seeded.rstrip(".").rpartition(" ")[2])
        torch.manual_seed(0)
        network = own_networks.dropping().eval()
        x = (torch.from_numpy(picture()[0]).permute(2, 0, 1)[None].float() / 255 - MEAN) / STD
        torch.manual_seed(seed)
        with torch.no_grad():
            np.testing.assert_allclose(network(x)[0].numpy(), own, atol=1e-5)


def test_five_planes_come_as_an_array(client: httpx2.Client) -> None:
    values = np.random.default_rng(1).integers(0, 4096, (32, 32, 5)).astype(np.uint16)
    file = io.BytesIO()
    np.save(file, values)
    image = uploaded(client, file.getvalue(), range="0,4095")
    assert image["planes"] == 5 and "0 to 4095 read as 0 to 1" in image["notes"][1]
    for operation, wish in OPERATIONS.items():
        whole = {"model": "five_planes", **wish}
        if operation not in ("maximize", "kernels"):
            whole["image"] = {"id": image["id"]}
        answer = ask(client, operation, **whole)
        assert answer.status_code == 200, (operation, answer.text)
        if operation == "classify":
            logits = logits_of(client, answer.json()["result"])
            np.testing.assert_allclose(logits, own_answer("five_planes", values / 4095), atol=1e-5)
    overlay = client.post(
        "/v1/cam?view=overlay", json={"model": "five_planes", "layer": "one", "image": {"id": image["id"]}},
        headers={"Accept": "image/png"},
    )  # fmt: skip
    assert overlay.status_code == 200 and overlay.content.startswith(b"\x89PNG")


def test_what_cannot_be_is_refused_at_once_with_the_reason(client: httpx2.Client) -> None:
    _, data = picture()
    image = {"id": uploaded(client, data)["id"]}
    refused = ask(client, "classify", model="five_planes", image=image)
    assert refused.status_code == 422 and "takes 5 planes" in refused.json()["detail"]
    mismatched = ask(client, "feature-maps", model="mismatched", image=image)
    assert mismatched.status_code == 422
    assert mismatched.json()["type"] == "/problems/network-does-not-run"
    assert "in two (Linear, which takes 9 numbers" in mismatched.json()["detail"]
    other_size = ask(client, "classify", model="flattened_rows", image=image, preprocess={"size": [64, 64]})
    assert other_size.status_code == 422, other_size.text
    bad_range = client.post("/v1/images", content=data, params={"range": "high"})
    assert bad_range.status_code == 422


def arrays_of(client: httpx2.Client, result: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a result, by name."""
    found = {}
    for name, array in result["arrays"].items():
        data = client.get(array["href"], headers={"Accept": "application/x-npy"}).content
        found[name] = np.load(io.BytesIO(data), allow_pickle=False)
    return found


def same(one: dict[str, np.ndarray[Any, Any]], other: dict[str, np.ndarray[Any, Any]]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("operation", "wish"),
    [
        ("saliency", {"target": 1}),
        ("cam", {"layer": "one", "targets": [1]}),
        ("occlusion", {"target": 1, "window": 8, "stride": 8}),
        ("maximize", {"steps": 3}),
    ],
)
def test_a_mask_is_the_region_that_it_shows(client: httpx2.Client, operation: str, wish: dict[str, Any]) -> None:
    """White where rows 8 to 15 and columns 4 to 27 are: as that box, and other than everything."""
    pixels, data = picture()
    white = np.zeros_like(pixels)
    white[8:16, 4:28] = 255
    file = io.BytesIO()
    Image.fromarray(white).save(file, "PNG")
    base = {"model": "segmenter", **wish}
    if operation != "maximize":
        base["image"] = {"id": uploaded(client, data)["id"]}
    answers = {}
    masked = {"mask": {"id": uploaded(client, file.getvalue())["id"]}}
    wishes: dict[str, dict[str, Any]] = {"box": {"region": "8,4,16,28"}, "mask": masked, "all": {"region": "all"}}
    for name, more in wishes.items():
        if operation == "maximize":  # whose objectives have regions of their own
            more["objective"] = {"class": 1, "region": more.pop("region", "mask")}
        answer = ask(client, operation, **base, **more)
        assert answer.status_code == 200, answer.text
        answers[name] = arrays_of(client, answer.json()["result"])
    assert same(answers["mask"], answers["box"]) and not same(answers["mask"], answers["all"])
    if operation == "saliency":
        # The same as a part of a form, beside the image.
        form = client.post(
            "/v1/saliency",
            files=[("image", ("a.png", data, "image/png")), ("mask", ("m.png", file.getvalue(), "image/png"))],
            data={"model": "segmenter", "target": "1"},
        )
        assert form.status_code == 200, form.text
        assert same(arrays_of(client, form.json()["result"]), answers["mask"])


def test_a_set_of_arrays_is_as_its_images(client: httpx2.Client) -> None:
    """Six arrays of five planes: the same numbers as a set and one by one; a network of other planes refuses them."""
    generator = np.random.default_rng(2)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(6):
            file = io.BytesIO()
            np.save(file, generator.random((32, 32, 5), np.float32))
            archive.writestr(f"{number}.npy", file.getvalue())
    sent = client.post("/v1/image-sets", content=packed.getvalue(), headers={"Content-Type": "application/zip"})
    assert sent.status_code == 201 and sent.json()["rejected"] == 0, sent.text
    members = sent.json()["members"]
    assert [member["channels"] for member in members] == [5] * 6
    wish = {"model": "five_planes", "mode": "layers", "layers": ["one", "two"]}
    over_set = ask(client, "cka", **wish, image_set=sent.json()["id"])
    over_images = ask(client, "cka", **wish, images=[{"id": member["id"]} for member in members])
    assert (over_set.status_code, over_images.status_code) == (200, 200), over_set.text + over_images.text
    matrices = [arrays_of(client, answer.json()["result"])["matrix"] for answer in (over_set, over_images)]
    np.testing.assert_allclose(matrices[0], matrices[1], atol=1e-5)
    refused = ask(client, "cka", model="constant", mode="layers", image_set=sent.json()["id"])
    assert refused.status_code == 422 and "takes 3 planes" in refused.json()["detail"]
