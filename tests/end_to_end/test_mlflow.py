"""MLflow's own deployments client finds the plugin in the client's wheel, and logs into a run on a file store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy
from PIL import Image

from convscope_client import Client
from tests.contract.trees import CLIENT, ROOT


@pytest.mark.slow
def test_a_run_has_what_the_network_answered_and_saw(address: str, chelsea: bytes, tmp_path: Path) -> None:
    image, installed, store = tmp_path / "chelsea.png", tmp_path / "installed", tmp_path / "store"
    image.write_bytes(chelsea)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(installed), str(copied_client(tmp_path))], check=True, timeout=60)
    script = ROOT / "tests" / "pipelines" / "mlflow_run.py"
    environment = {**os.environ, "PYTHONPATH": str(installed), "MLFLOW_ALLOW_FILE_STORE": "true"}
    done = subprocess.run(
        [sys.executable, str(script), address, str(image), str(store)],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, timeout=120, check=True,
    )  # fmt: skip
    said = json.loads(done.stdout.splitlines()[-1])
    with Client(address) as ours:
        result = ours.classify(chelsea).result()
        arrays = ours.cam(chelsea, methods=["layercam", "gradcam"]).result().arrays()
    assert said["predicted"] == said["alone"] == result.facts["predictions"]
    assert said["methods"] == ["layercam", "gradcam"]
    assert "efficientnet_lite0" in said["names"] and said["layers"] > 50
    assert "unknown-model" in said["refused"]
    assert sorted(Path(path).name for path in said["folders"]["classify"]) == ["arrays.safetensors", "facts.json"]
    logged = {Path(path).name: Path(said["store"].removeprefix("file://")) / path for path in said["folders"]["cam"]}
    pictures = [path for name, path in logged.items() if name.endswith(".png")]
    assert len(pictures) == 2
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.size[0] > 200 and len(set(picture.convert("RGB").resize((16, 16)).get_flattened_data())) > 20
    kept = safetensors.numpy.load_file(logged["arrays.safetensors"])
    assert kept.keys() == arrays.keys() and all((kept[name] == arrays[name]).all() for name in kept)
    assert json.loads(logged["facts.json"].read_text())["facts"]["maps"][0]["method"] == "layercam"


def copied_client(to: Path) -> Path:
    """The client's source; setuptools builds beside what it is given."""
    shutil.copytree(ROOT / CLIENT, to / CLIENT, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    return to / CLIENT
