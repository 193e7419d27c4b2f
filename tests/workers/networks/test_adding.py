"""`convscope models add` and `remove`: an entry is written only for a network that runs; nothing else is touched."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from convscope import catalogue_file
from workers.networks import Networks
from workers.networks.__main__ import main
from workers.networks.weights import file_sha256


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of one's own."""
    monkeypatch.setenv("CONVSCOPE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("CONVSCOPE_CATALOGUE", raising=False)
    monkeypatch.delenv("CONVSCOPE_WEIGHTS_FOLDER", raising=False)
    return tmp_path / "data"


def networks_of(data: Path) -> Networks:
    return Networks(weights_folder=data / "weights", catalogue=data / "catalogue.toml")


def test_a_checkpoint_becomes_a_network(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(weights=None, num_classes=3).eval()
    file = tmp_path / "tea leaves.pth.tar"
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, file)
    (tmp_path / "names.txt").write_text("assam\nceylon\nkeemun\n")
    assert main(["add", str(file), "--arch", "squeezenet1_1", "--classes", str(tmp_path / "names.txt")]) == 0
    said = capsys.readouterr().out
    assert "tea-leaves: good, torchvision:squeezenet1_1" in said
    assert "read from 'state_dict'; without the prefix 'module.'" in said
    networks = networks_of(data)
    found = networks.get("tea-leaves")
    assert found.weights_sha256 == file_sha256(file)
    assert list(found.classes) == ["assam", "ceylon", "keemun"]
    inputs = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(found.module(inputs), network(inputs))
    assert main(["check", "tea-leaves"]) == 0
    # Three numbers without a word about them: the owner is asked, and results say what was taken for granted.
    assert 'assumed, as is usual; where one image may be of several, say outputs = "sigmoid"' in capsys.readouterr().out
    assert found.notes("exact") == []
    (assumed,) = found.notes("exact", answered=True)
    assert "a softmax over its classes is assumed" in assumed and 'outputs = "sigmoid"' in assumed
    # A second time it is refused, and the catalogue stays as it is.
    before = (data / "catalogue.toml").read_text()
    assert main(["add", str(file), "--arch", "squeezenet1_1"]) == 1
    assert "give another id with --id" in capsys.readouterr().err
    assert (data / "catalogue.toml").read_text() == before
    assert main(["remove", "tea-leaves"]) == 0
    assert tomllib.loads((data / "catalogue.toml").read_text()) == {}


def test_the_number_of_classes_and_the_library_are_found(tmp_path: Path, data: Path) -> None:
    """resnet10t is timm's alone; the file says that it has seven outputs."""
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=7, in_chans=1).state_dict(), file)
    more = ["--set", "preprocess.channels=1", "--set", "preprocess.size=64", "--set", "title=Seven"]
    assert main(["add", str(file), "--arch", "resnet10t", "--id", "seven", *more]) == 0
    entry = tomllib.loads((data / "catalogue.toml").read_text())["networks"]["seven"]
    assert (entry["source"], entry["num_classes"], entry["title"]) == ("timm:resnet10t", 7, "Seven")
    assert networks_of(data).card("seven")["layers"][-1]["shape"] == [7]


def test_what_is_no_network_leaves_nothing_behind(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.ckpt"
    torch.save({"conv.weight": torch.zeros(3)}, file)
    for arguments, reason in (
        (
            [str(file), "--arch", "squeezenet1_1"],
            "lacks features.0.weight and has conv.weight, which the network has not",
        ),
        ([str(file), "--arch", "resnet9000"], "neither torchvision nor timm has a network 'resnet9000'"),
        ([str(file)], "--arch says the architecture"),
        ([str(tmp_path / "none"), "--arch", "vgg11"], "there is no file"),
        ([str(file), "--arch", "vgg11", "--set", "wieghts=1"], "an entry knows no wieghts"),
        ([str(file), "--arch", "vgg11", "--id", "vgg11"], "there is a network vgg11 already"),
    ):
        assert main(["add", *arguments]) == 1
        assert reason in capsys.readouterr().err
    assert tomllib.loads((data / "catalogue.toml").read_text()) == {}
    assert not (data / "weights").exists()


CATALOGUE = """# first
[networks.a] # of mine
source = "zfnet"
weights = "random"
[networks.a.preprocess]
size = 64

# second
[networks."b.c"]
source = 'alexnet_2012'
weights = 'random'
"""


@pytest.mark.parametrize("model", ["new", "with.dot", "ünïcode-free"])
def test_entries_come_and_go_and_the_rest_stays(model: str) -> None:
    values = {
        "source": "timm:resnet18",
        "title": 'a "quoted" \\ title\nwith a line',
        "classes": ["1", "é"],
        "preprocess": {"size": [64, 32], "std": 0.5},
        "head": ["dropout", "linear"],
    }
    added = catalogue_file.with_entry(CATALOGUE, model, values)
    assert added.startswith(CATALOGUE)
    assert tomllib.loads(added)["networks"][model] == values
    assert tomllib.loads(catalogue_file.without_entry(added, model)) == tomllib.loads(CATALOGUE)
    without = catalogue_file.without_entry(added, "b.c")
    assert set(tomllib.loads(without)["networks"]) == {"a", model}
    with pytest.raises(ValueError, match="has an entry a already"):
        catalogue_file.with_entry(CATALOGUE, "a", values)
    with pytest.raises(ValueError, match="no entry z"):
        catalogue_file.without_entry(CATALOGUE, "z")


def test_an_entry_that_is_no_table_is_left_to_its_author() -> None:
    text = 'networks = {a = {source = "zfnet"}, b = {source = "zfnet"}}\n'
    for edit in (lambda: catalogue_file.without_entry(text, "a"), lambda: catalogue_file.with_entry(text, "c", {})):
        with pytest.raises(ValueError, match=r"by hand|[Cc]annot"):
            edit()
