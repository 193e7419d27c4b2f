"""An operation is its files and nothing else: one that is dropped into a copy of our source is listed, documented,
offered by the command line and served."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.contract.trees import copy_tree, on_path
from tests.convscope.cli.launched import Launched

PLANTED = Path(__file__).with_name("throwaway")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our source with one more operation."""
    copied = copy_tree(tmp_path_factory.mktemp("tree"))
    for kind, place in (("protocol", "convscope/protocol/operations"), ("method", "workers/methods")):
        source = (PLANTED / f"{kind}_brightness.txt").read_text(encoding="utf-8")
        (copied / place / "brightness.py").write_text(source, encoding="utf-8")
    return copied


def run(tree: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=tree, env=on_path(tree), stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def test_it_is_in_the_openapi_document(tree: Path) -> None:
    document = json.loads(run(tree, "-m", "service.write_openapi"))
    body = document["paths"]["/v1/brightness"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/x-www-form-urlencoded", "application/json"}
    assert "power" in json.dumps(document["components"]["schemas"]["BrightnessRequest"])


def test_the_command_line_offers_it(tree: Path) -> None:
    assert "--power" in run(tree, "-m", "convscope.cli", "run", "brightness", "--help")


def test_it_is_served(tree: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    expected = (pixels.astype(np.float64) / 255).mean(-1) ** 2
    with Launched(tmp_path / "data", standins=False, PYTHONPATH=str(tree)) as server:
        address = f"{server.address}/v1/brightness"
        parts = [("image", ("a.png", file.getvalue(), "image/png")), ("power", (None, "2"))]
        with httpx2.Client(trust_env=False, timeout=90, headers={"Prefer": "wait=60"}) as client:
            answer = client.post(address, files=parts)
            assert answer.status_code == 200, answer.text + server.output
            result = answer.json()["result"]
            assert result["facts"]["means"] == [pytest.approx(expected.mean(), abs=1e-6)]
            np.testing.assert_allclose(result["arrays"]["grey/0"]["data"], expected, atol=1e-6)
            picture = client.post(address, files=parts, headers={"Accept": "image/png"})
            assert Image.open(io.BytesIO(picture.content)).format == "PNG"
            refused = client.post(address, files=[*parts, ("strength", (None, "2"))])
            assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-request")
