"""An operator's own network through every process: local weights, classes, preprocessing; read anew on change."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import httpx2
import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import v2

from tests.convscope.cli.launched import Launched, wait_until

CLASSES = ["assam", "darjeeling", "keemun", "sencha", "oolong"]


def logits_of(client: httpx2.Client, answer: httpx2.Response) -> list[list[float]]:
    """The logits of a classification, which its JSON carries for those who ask."""
    job = client.get(answer.json()["links"]["result"], params={"data": "inline"}).json()
    found: list[list[float]] = job["result"]["arrays"]["logits"]["data"]
    return found


def test_an_alexnet_of_five_classes_answers_like_plain_pytorch(tmp_path: Path, chelsea: bytes) -> None:
    torch.manual_seed(5)
    plain = torchvision.models.alexnet(weights=None, num_classes=5).eval()
    weights = tmp_path / "weights"
    weights.mkdir()
    save_file(plain.state_dict(), weights / "tea.safetensors")
    catalogue = tmp_path / "catalogue.toml"
    entry = f"""\
        [networks.tea]
        source = "torchvision:alexnet"
        weights = "file:tea.safetensors"
        classes = {CLASSES}

        [networks.tea.preprocess]
        size = 160
        resize = 180
        resize_mode = "bilinear"
        mean = [0.4, 0.5, 0.6]
        std = 0.25

        [networks.broken]
        source = "torchvision:nothing"
    """
    catalogue.write_text(textwrap.dedent(entry))
    settings = {"CONVSCOPE_CATALOGUE": str(catalogue), "CONVSCOPE_WEIGHTS_FOLDER": str(weights)}
    with (
        Launched(tmp_path / "data", standins=False, **settings) as launched,
        httpx2.Client(base_url=launched.address, timeout=60, trust_env=False) as client,
    ):
        answer = client.post("/v1/classify", files={"image": chelsea}, data={"model": "tea"})
        assert answer.status_code == 200, answer.text
        transform = v2.Compose(
            [
                v2.Resize(180, v2.InterpolationMode.BILINEAR),
                v2.CenterCrop(160),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.4, 0.5, 0.6], [0.25] * 3),
            ]
        )
        with torch.no_grad():
            logits = plain(transform(Image.open(io.BytesIO(chelsea)))[None])
        result = answer.json()["result"]
        np.testing.assert_allclose(np.array(logits_of(client, answer)), logits.numpy(), rtol=1e-3, atol=1e-5)
        best = [CLASSES[k] for k in logits[0].sort(descending=True).indices]
        assert [one["name"] for one in result["facts"]["predictions"][0]] == best

        listed = {one["id"]: one for one in client.get("/v1/models").json()["models"]}
        assert "nothing" in listed["broken"]["problem"]
        refused = client.post("/v1/classify", files={"image": chelsea}, data={"model": "broken"})
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.status_code in (422, 424)

        catalogue.write_text(
            textwrap.dedent(entry).replace("networks.tea]", "networks.leaf]").replace("tea.pre", "leaf.pre")
        )
        wait_until(lambda: any(one["id"] == "leaf" for one in client.get("/v1/models").json()["models"]))
        again = client.post("/v1/classify", files={"image": chelsea}, data={"model": "leaf"})
        assert logits_of(client, again) == logits_of(client, answer)
