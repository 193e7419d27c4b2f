"""Networks that callers bring over HTTP, through every process: answered as torch does, and a bad one hurts nobody."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from convscope_client import Client
from tests.convscope.cli.launched import Launched
from tests.service.support import problem_of
from tests.workers.harness import ROOT

CALLERS = {"alice": "models = true\n", "bob": ""}
SAID = {"source": "timm:test_resnet", "classes": "assam,ceylon,keemun", "preprocess": '{"size": 64, "resize": 64}'}


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, httpx2.Client]]:
    """A whole Convscope with two callers."""
    folder = tmp_path_factory.mktemp("uploads")
    keys = folder / "keys.toml"
    keys.write_text(
        "".join(
            f'[callers.{name}]\nkey_sha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\n{more}'
            for name, more in CALLERS.items()
        )
    )
    with Launched(folder / "data", standins=False, CONVSCOPE_API_KEYS_FILE=str(keys)) as launched:
        made = {
            name: httpx2.Client(
                base_url=launched.address, timeout=90, trust_env=False, headers={"Authorization": f"Bearer {name}"}
            )
            for name in CALLERS
        }
        yield made
        for client in made.values():
            client.close()


def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "PNG")
    return file.getvalue()


def resnet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=3).eval()


def weights(seed: int) -> bytes:
    return safetensors.torch.save(dict(resnet(seed).state_dict()))


def program(network: nn.Module, side: int = 64) -> bytes:
    batch = torch.export.Dim("batch", min=1, max=16)
    made = torch.export.export(network.eval(), (torch.rand(2, 3, side, side),), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(made, file)
    return file.getvalue()


def put(client: httpx2.Client, model: str, data: bytes, **said: Any) -> httpx2.Response:
    answer = client.put(
        f"/v1/models/{model}", data=said, files=[("file", ("network", data, "application/octet-stream"))]
    )
    assert answer.status_code in (200, 201), answer.text
    return answer


def logits(client: httpx2.Client, model: str) -> np.ndarray[Any, Any]:
    answer = client.post("/v1/classify", files={"image": ("a.png", png(), "image/png")}, data={"model": model})
    assert answer.status_code == 200, answer.text
    found = client.get(answer.json()["result"]["arrays"]["logits"]["href"], headers={"Accept": "application/x-npy"})
    return np.load(io.BytesIO(found.content), allow_pickle=False)  # type: ignore[no-any-return]


def expected(network: nn.Module, mean: Any, std: Any) -> np.ndarray[Any, Any]:
    x = torch.from_numpy(pixels()).permute(2, 0, 1)[None].float() / 255 - torch.tensor(mean)[:, None, None]
    with torch.no_grad():
        return network(x / torch.tensor(std)[:, None, None]).numpy()  # type: ignore[no-any-return]


def test_weights_are_answered_as_torch_does_and_a_new_version_anew(callers: dict[str, httpx2.Client]) -> None:
    alice, bob = callers["alice"], callers["bob"]
    first = put(alice, "tea", weights(1), **SAID)
    card = alice.get("/v1/models/tea").json()
    assert (card["id"], card["classes"], card["preprocess"]["size"]) == ("tea", ["assam", "ceylon", "keemun"], [64, 64])
    assert card["upload"]["sha256"] == first.json()["upload"]["sha256"]
    own = expected(resnet(1), card["preprocess"]["mean"], card["preprocess"]["std"])
    np.testing.assert_allclose(logits(alice, "tea"), own, atol=1e-5)
    problem_of(bob.get("/v1/models/tea"), 404, "not-found")
    asked = {"image": ("a.png", png(), "image/png")}
    problem_of(bob.post("/v1/classify", files=asked, data={"model": "tea"}), 422, "unknown-model")

    put(alice, "tea", weights(2), visible_to="all", **SAID)
    newer = expected(resnet(2), card["preprocess"]["mean"], card["preprocess"]["std"])
    assert abs(newer - own).max() > 1e-3
    for client in (alice, bob):
        np.testing.assert_allclose(logits(client, "tea"), newer, atol=1e-5)
    # The first version again is the first answer again.
    put(alice, "tea", weights(1), **SAID)
    np.testing.assert_allclose(logits(alice, "tea"), own, atol=1e-5)
    layers = alice.get("/v1/models/tea/layers", params={"method": "cam"}).json()["layers"]
    shown = alice.post("/v1/cam", files=asked, data={"model": "tea", "layer": layers[-1]["name"]})
    assert shown.status_code == 200, shown.text
    assert "a softmax over its classes is assumed" in str(shown.json()["result"]["provenance"]["notes"])


class Small(nn.Module):
    """A network that a program holds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]


class Greedy(Small):
    """One that wants more memory than there is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.zeros(1 << 20, 1 << 20).sum()


def test_a_program_and_bad_ones_beside_it(callers: dict[str, httpx2.Client]) -> None:
    alice = callers["alice"]
    torch.manual_seed(3)
    network = Small()
    put(alice, "exported", program(network), preprocess='{"mean": 0.5, "std": 0.25}', classes="a,b")
    np.testing.assert_allclose(logits(alice, "exported"), expected(network, [0.5] * 3, [0.25] * 3), atol=1e-5)
    assert [layer["name"] for layer in alice.get("/v1/models/exported/layers").json()["layers"]][:2] == [
        "body.0",
        "body.1",
    ]
    # Weights of another architecture, and a program that eats memory: each says so, and only to those who ask for it.
    put(alice, "misfit", weights(1), source="torchvision:squeezenet1_1")
    told = problem_of(
        alice.post("/v1/classify", files={"image": ("a.png", png(), "image/png")}, data={"model": "misfit"}),
        424,
        "weights-unavailable",
    )
    assert "lacks features.0.weight and has bn1.bias" in told["detail"]
    greedy = Greedy()
    put(alice, "greedy", program(greedy))
    told = alice.get("/v1/models/greedy").json()
    assert told["status"] in (422, 424) and "greedy" in told["detail"], told
    line = next(line for line in alice.get("/v1/models").json()["models"] if line["id"] == "greedy")
    assert line["problem"] and line["available"] is False
    np.testing.assert_allclose(logits(alice, "exported"), expected(network, [0.5] * 3, [0.25] * 3), atol=1e-5)


def test_deleting_while_jobs_run(callers: dict[str, httpx2.Client]) -> None:
    """What computes comes to its end; what is asked afterwards is of a network that is not there."""
    alice = callers["alice"]
    put(alice, "fleeting", weights(4), **SAID)
    layer = next(one["name"] for one in alice.get("/v1/models/fleeting").json()["layers"] if one["kernel_shape"])
    body = {"model": "fleeting", "objective": {"layer": layer, "channel": 0}, "steps": 300}
    job = alice.post("/v1/maximize", json=body, headers={"Prefer": "respond-async"}).json()
    until = time.monotonic() + 60
    while alice.get(f"/v1/jobs/{job['id']}").json()["progress"]["done"] == 0 and time.monotonic() < until:
        time.sleep(0.05)
    assert alice.delete("/v1/models/fleeting").status_code == 204
    problem_of(alice.post("/v1/maximize", json=body), 422, "unknown-model")
    while (found := alice.get(f"/v1/jobs/{job['id']}").json())["finished_at"] is None and time.monotonic() < until:
        time.sleep(0.1)
    assert found["state"] == "succeeded", found


def test_by_the_command_line_and_the_client(callers: dict[str, httpx2.Client], tmp_path: Path) -> None:
    """`models add --url` brings what fits, and takes back what does not."""
    url = str(callers["alice"].base_url)
    (tmp_path / "tea.safetensors").write_bytes(weights(5))
    (tmp_path / "names.txt").write_text("assam\nceylon\nkeemun\n")

    def models(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "convscope.cli", "models", *words, "--url", url, "--api-key", "alice"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    file, names = str(tmp_path / "tea.safetensors"), str(tmp_path / "names.txt")
    added = models("add", file, "--arch", "timm:test_resnet", "--classes", names, "--id", "by-command")
    assert added.returncode == 0 and "model=by-command" in added.stdout, added.stderr
    assert models("add", file, "--arch", "torchvision:squeezenet1_1", "--id", "misfit-2").returncode == 1
    with Client(url, "alice") as client:
        assert {one["id"] for one in client.list_models()["models"]} & {"by-command", "misfit-2"} == {"by-command"}
        entry = {"source": "timm:test_resnet", "num_classes": 3}
        brought = client.put_model("by-client", file, entry=entry, only_new=True)
        assert brought["upload"] is not None and brought["upload"]["own"]
        stored = {**entry, "file": {"sha256": brought["upload"]["sha256"]}, "visible_to": "all"}
        assert client.put_model("by-client", entry=stored)["upload"] is not None
        client.delete_model("by-client")
    assert models("remove", "by-command").returncode == 0
