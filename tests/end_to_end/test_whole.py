"""The main job on real input, through every process: what comes out is what plain PyTorch computes."""

from __future__ import annotations

import io
import threading
from collections import Counter
from typing import Any, get_args

import httpx2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.numpy import load
from torch import Tensor

from convscope.protocol.operations import operations
from convscope.protocol.pictures import View
from tests.convscope.cli.launched import wait_until
from workers.networks.build import load as load_network

FRESH = {"Cache-Control": "no-cache"}


BUT_FOR: dict[str, dict[str, Any]] = {"maximize": {"steps": 16}, "compare": {"other_model": "efficientnet_lite1"}}
"""The defaults of a minutes-long operation, and of one that needs another network, but for this."""


def post(
    client: httpx2.Client, operation: str, image: bytes | None, headers: dict[str, str] | None = None, **fields: Any
) -> httpx2.Response:
    """A form with the image, or JSON where there is none."""
    if image is None:
        return client.post(f"/v1/{operation}", json=fields, headers=headers or {})
    files = {"image": ("image.png", image, "image/png")}
    return client.post(f"/v1/{operation}", files=files, data=fields, headers=headers or {})


def finished(client: httpx2.Client, answer: httpx2.Response) -> dict[str, Any]:
    """The job of an answer, once it is over."""
    assert answer.status_code in (200, 202), answer.text
    job: dict[str, Any] = answer.json()

    def over() -> dict[str, Any] | None:
        seen: dict[str, Any] = client.get(f"/v1/jobs/{job['id']}", params={"wait": 10}).json()
        return seen if seen["state"] not in ("queued", "running") else None

    return wait_until(over, deadline_s=150)


def test_logits_are_those_of_timm(client: httpx2.Client, coffee: bytes, chelsea: bytes) -> None:
    """timm's own transform and model, with the packaged weights in timm's order."""
    plain = load_network("efficientnet_lite0").module
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), plain.state_dict().values(), strict=True)))
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=reference))
    for photograph, expected in ((coffee, "espresso"), (chelsea, "Egyptian cat")):
        job = post(client, "classify", photograph).json()
        with torch.no_grad():
            logits = reference(transform(Image.open(io.BytesIO(photograph)).convert("RGB"))[None])
        assert "data" not in job["result"]["arrays"]["logits"], "a thousand numbers that few callers read"
        asked = client.get(job["links"]["result"], params={"data": "inline"}).json()
        found = np.array(asked["result"]["arrays"]["logits"]["data"], np.float32)
        np.testing.assert_allclose(found, logits.numpy(), atol=1e-4 * np.abs(logits.numpy()).max())
        best = [one["name"] for one in job["result"]["facts"]["predictions"][0]]
        assert expected in best[: 1 if expected == "espresso" else 2]


def hooked(model: str, name: str, call: int, photograph: bytes) -> np.ndarray:
    """The output of the call-th call of a module by a cloning forward hook in plain PyTorch."""
    network = load_network(model)
    pixels = torch.from_numpy(np.asarray(Image.open(io.BytesIO(photograph)).convert("RGB")).copy())
    inputs, _ = network.prepare([pixels])
    seen: list[Tensor] = []
    handle = network.module.get_submodule(name).register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    try:
        with torch.no_grad():
            network.module(inputs)
    finally:
        handle.remove()
    return seen[call - 1].numpy()


@pytest.mark.parametrize(
    ("model", "layer", "call"),
    [
        ("efficientnet_lite0", "conv_stem", 1),
        ("efficientnet_lite0", "blocks.4", 1),
        ("vgg11-random", "features.0", 1),
        ("resnet18-random", "layer2.0.relu", 2),
    ],
)  # fmt: skip
def test_raw_arrays_are_those_of_a_cloning_hook(
    client: httpx2.Client, chelsea: bytes, model: str, layer: str, call: int
) -> None:
    """Also where the output is overwritten in place, and for the second call of a reused module."""
    name = layer if call == 1 else f"{layer}#{call}"
    headers = {"Accept": "application/vnd.safetensors"}
    answer = post(client, "feature-maps", chelsea, headers, model=model, layer=name, channels="all")
    assert answer.status_code == 200, answer.text
    found = load(answer.content)[f"maps/{name}"]
    expected = hooked(model, layer, call, chelsea)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("operation", list(operations()))
def test_an_image_and_nothing_else_does(client: httpx2.Client, chelsea: bytes, operation: str) -> None:
    declared = operations()[operation]
    needs_one = declared.max_images and operation != "maximize"
    answer = post(client, operation, chelsea if needs_one else None, **BUT_FOR.get(operation, {}))
    job = finished(client, answer)
    assert job["state"] == "succeeded", job["error"]
    declared.facts.model_validate(job["result"]["facts"])
    assert job["request"]["model"] == "efficientnet_lite0"
    for array in job["result"]["arrays"].values():
        values = np.load(io.BytesIO(client.get(array["href"]).content))
        assert list(values.shape) == array["shape"]
    picture = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "image/png"})
    if not declared.has_picture or operation == "classify":  # which draws maps of classes only
        assert picture.status_code == 406
        return
    assert picture.status_code == 200, picture.text
    for view in get_args(View):
        other = client.get(f"/v1/jobs/{job['id']}/result?view={view}", headers={"Accept": "image/png"})
        assert other.status_code == 200 or "has no view" in other.text, (view, other.text)
    with Image.open(io.BytesIO(picture.content)) as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 100
        assert len(Counter(drawn.convert("RGB").resize((64, 64)).get_flattened_data())) > 16


def test_32_clients_at_once_get_what_single_ones_get(address: str, chelsea: bytes, coffee: bytes) -> None:
    """For 30 s, never from the cache: no error, and every answer equals the one that was computed alone."""
    kinds: list[tuple[str, bytes, dict[str, str]]] = [
        ("classify", chelsea, {}),
        ("classify", coffee, {}),
        ("feature-maps", coffee, {"layer": "blocks.3", "channels": "first:4"}),
        ("cam", chelsea, {"methods": "gradcam", "targets": "281"}),
    ]
    names = {"classify": "logits", "feature-maps": "maps/blocks.3", "cam": "cam/gradcam/281"}

    def ask(client: httpx2.Client, kind: int) -> tuple[int, np.ndarray]:
        operation, photograph, fields = kinds[kind]
        headers = {"Accept": "application/vnd.safetensors", **FRESH}
        answer = post(client, operation, photograph, headers, **fields)
        return answer.status_code, load(answer.content)[names[operation]] if answer.status_code == 200 else np.empty(0)

    with httpx2.Client(base_url=address, timeout=60, trust_env=False) as alone:
        single = [ask(alone, kind)[1] for kind in range(len(kinds))]
    statuses: Counter[int] = Counter()
    worst = 0.0
    lock, stop = threading.Lock(), threading.Event()

    def run(offset: int) -> None:
        nonlocal worst
        with httpx2.Client(base_url=address, timeout=60, trust_env=False) as own:
            turn = offset
            while not stop.is_set():
                kind = turn % len(kinds)
                status, found = ask(own, kind)
                difference = (
                    float(np.abs(found - single[kind]).max() / np.abs(single[kind]).max()) if found.size else 1.0
                )
                with lock:
                    statuses[status] += 1
                    worst = max(worst, difference)
                turn += 1

    threads = [threading.Thread(target=run, args=(offset,)) for offset in range(32)]
    for thread in threads:
        thread.start()
    stop.wait(30)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert set(statuses) == {200}, statuses
    assert sum(statuses.values()) > 64
    assert worst <= 1e-5
