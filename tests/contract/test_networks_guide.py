"""The steps of docs/networks.md and of the README for one's own network, run as they are written there."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tests.contract.trees import ROOT
from workers.networks import Networks
from workers.networks.__main__ import main

GUIDE = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8").replace("\\\n", " ")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for line in re.findall(r"^(?:\.venv/bin/)?convscope models add .*$", GUIDE + README, re.MULTILINE)]
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)

MODULE = """
from torch import nn

class TeaNet(nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))
"""


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None, num_classes=3)


def own() -> nn.Module:
    space: dict[str, Any] = {}
    exec(MODULE, space)
    network: nn.Module = space["TeaNet"](3)
    return network


def tea_pth(folder: Path, command: str) -> None:
    run_snippet("torch.save(", folder, own() if "TeaNet" in command else resnet())


def pt2(folder: Path, command: str) -> None:
    run_snippet("torch.export.save", folder, resnet())


def lightning(folder: Path, command: str) -> None:
    path = folder / "lightning_logs/version_0/checkpoints/last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {f"model.{k}": v for k, v in resnet().state_dict().items()}, "epoch": 1}, path)


def timms(folder: Path, command: str) -> None:
    path = folder / "output/train/model_best.pth.tar"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": resnet().state_dict(), "state_dict_ema": resnet().state_dict(), "arch": "resnet18"}, path)


def keras_file(folder: Path, command: str) -> None:
    os.environ["KERAS_BACKEND"] = "torch"
    keras = pytest.importorskip("keras")
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    run_snippet("model.save(", folder, model)


def onnx_file(folder: Path, command: str) -> None:
    pytest.importorskip("onnxruntime")
    torch.onnx.export(resnet().eval(), (torch.rand(1, 3, 64, 64),), folder / "tea.onnx", dynamo=False)


def best(folder: Path, command: str) -> None:
    torch.save({"model": resnet().state_dict()}, folder / "best.ckpt")


MADE: dict[str, Callable[[Path, str], None]] = {
    "tea.pth": tea_pth,
    "tea.pt2": pt2,
    "last.ckpt": lightning,
    "model_best.pth.tar": timms,
    "tea.keras": keras_file,
    "tea.onnx": onnx_file,
    "best.ckpt": best,
}


def run_snippet(mark: str, folder: Path, network: Any) -> None:
    """The guide's lines of Python that have the mark, in the folder that the test stands in."""
    found = [one for one in SNIPPETS if mark in one]
    assert len(found) == 1, mark
    exec(found[0], {"torch": torch, "network": network, "model": network})


def test_the_guide_has_the_steps() -> None:
    assert len(COMMANDS) == 8
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_each_step_gives_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("CONVSCOPE_DATA", str(data))
    (data / "tea_network.py").write_text(MODULE)
    (tmp_path / "names.txt").write_text("assam\nceylon\nkeemun\n")
    words = shlex.split(command)
    MADE[Path(words[3]).name](tmp_path, command)
    assert main(words[2:]) == 0
    networks = Networks(weights_folder=data / "weights", catalogue=data / "catalogue.toml")
    (entry,) = [line for line in networks.catalogue() if line["entry_digest"] is not None]
    assert entry["problem"] is None
    network = networks.get(entry["id"])
    inputs, _ = network.prepare([torch.from_numpy(np.zeros((40, 50, 3), np.uint8))])
    with torch.no_grad():
        assert network.module(inputs).shape == (1, 3)
    assert list(network.classes) == ["assam", "ceylon", "keemun"]
