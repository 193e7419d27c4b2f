"""An own network whose entry names its family has the names of that family's literature."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from workers.engine.reports import aliases_of
from workers.networks import Networks


class OwnVgg(nn.Module):
    """Two blocks as their owner writes them: some modules, some functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3)
        self.act, self.out = nn.ReLU(), nn.Linear(6 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.b(self.act(self.a(x)))), 2)
        x = nn.functional.adaptive_avg_pool2d(self.act(self.c(x)), 4)
        logits: Tensor = self.out(x.flatten(1))
        return logits


def network() -> nn.Module:
    """The factory that the entry names."""
    return OwnVgg()


def test_the_names_of_a_family(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_text(
        f'[networks.own]\nsource = "python:{__name__}:network"\nweights = "random"\nfamily = "vgg"\n'
        'classes = ["a", "b", "c"]\n\n[networks.own.preprocess]\nsize = 32\n'
    )
    own = Networks(weights_folder=tmp_path, catalogue=path).get("own")
    names = {layer.name: layer.aliases for layer in own.layers.values()}
    assert names["a"] == ("conv1_1",)
    assert names["act"] == ("relu1_1", "block1_conv1")
    assert names["@relu"] == ("relu1_2", "block1_conv2")
    assert names["@max_pool2d"] == ("pool1", "block1_pool")
    assert names["act#2"] == ("relu2_1", "block2_conv1")
    assert own.layers["block2_conv1"].name == "act#2"


def run(request: dict[str, Any], layers: dict[str, tuple[str, ...]]) -> Any:
    table = {name: SimpleNamespace(name=name, aliases=aliases) for name, aliases in layers.items()}
    return SimpleNamespace(request=request, needs=("own",), network=SimpleNamespace(layers=table))


def test_results_tell_further_names_of_the_layers_asked_for() -> None:
    layers = {"f.0": ("conv1_1",), "f.1": ("relu1_1", "block1_conv1"), "f.2": (), "f.3": ("pool1",)}
    assert aliases_of(run({"layers": ["f.0", "f.2"], "image": {"id": "x"}}, layers)) == {"f.0": ["conv1_1"]}
    wanted = {"f.1": ["relu1_1", "block1_conv1"], "f.3": ["pool1"]}
    objective = [{"layer": "f.1", "channel": 0}, {"sum": [{"of": {"unit": {"layer": "f.3", "channel": 1}}}]}]
    assert aliases_of(run({"objective": objective}, layers)) == wanted
    assert aliases_of(run({"top": 5}, layers)) == {}
