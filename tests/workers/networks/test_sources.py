"""Libraries' networks as their users changed them before training: planes, sizes, heads, arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from workers.networks import Networks
from workers.networks.weights import file_sha256

UPLOAD = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def served(folder: Path, network: nn.Module, entry: str, preprocess: str) -> tuple[Tensor, Tensor]:
    """What the catalogue's network answers to an upload, and what the network itself does."""
    torch.save({"state_dict": network.state_dict()}, folder / "w.ckpt")
    (folder / "catalogue.toml").write_text(
        f'[networks.n]\nweights = "file:w.ckpt"\nsha256 = "{file_sha256(folder / "w.ckpt")}"\n{entry}\n'
        f"[networks.n.preprocess]\n{preprocess}\nmean = 0.5\nstd = 0.25\n"
    )
    networks = Networks(weights_folder=folder / "weights", catalogue=folder / "catalogue.toml")
    assert networks.catalogue()[0]["problem"] is None
    found = networks.get("n")
    inputs, _ = found.prepare([UPLOAD])
    assert networks.card("n")["layers"][-1]["shape"] == [3]
    with torch.no_grad():
        return found.module(inputs), network.eval()(inputs)


GREY = "size = 64\nresize = 64\nchannels = 1"
COLOUR = "size = 64\nresize = 64"


def grey_resnet() -> nn.Module:
    network = torchvision.models.resnet18(weights=None, num_classes=3)
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return network


def headed_resnet() -> nn.Module:
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 3))
    return network


def headed_vgg() -> nn.Module:
    network = torchvision.models.vgg11(weights=None)
    network.classifier = nn.Sequential(nn.Flatten(), nn.Linear(25088, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return network


def headed_timm() -> nn.Module:
    network = timm.create_model("resnet10t", num_classes=0)
    network.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 3))
    return network


CHANGED = {
    "timm, grey": (
        lambda: timm.create_model("resnet10t", in_chans=1, num_classes=3),
        'source = "timm:resnet10t"\nclasses = ["a", "b", "c"]',
        GREY,
    ),
    "timm, number of classes alone": (
        lambda: timm.create_model("resnet10t", num_classes=3),
        'source = "timm:resnet10t"\nnum_classes = 3',
        COLOUR,
    ),
    "timm, another size of a transformer": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=3),
        'source = "timm:vit_tiny_patch16_224"\nnum_classes = 3',
        COLOUR,
    ),
    "timm, arguments": (
        lambda: timm.create_model("resnet10t", global_pool="max", in_chans=1, num_classes=3),
        'source = "timm:resnet10t"\nnum_classes = 3\narguments = {global_pool = "max", in_chans = 1}',
        COLOUR,
    ),
    "timm, replaced head": (
        headed_timm,
        'source = "timm:resnet10t"\nnum_classes = 3\nhead = ["dropout", "linear"]',
        COLOUR,
    ),
    "torchvision, grey": (grey_resnet, 'source = "torchvision:resnet18"\nnum_classes = 3', GREY),
    "torchvision, another size of a transformer": (
        lambda: torchvision.models.vit_b_32(weights=None, image_size=64, num_classes=3),
        'source = "torchvision:vit_b_32"\nnum_classes = 3',
        COLOUR,
    ),
    "torchvision, replaced head": (
        headed_resnet,
        'source = "torchvision:resnet18"\nnum_classes = 3\nhead = ["dropout", "linear:32", "relu", "linear"]',
        COLOUR,
    ),
    "torchvision, a whole classifier": (
        headed_vgg,
        'source = "torchvision:vgg11"\nnum_classes = 3\n'
        'head = {at = "classifier", layers = ["flatten", "linear:8", "batch_norm", "relu", "linear"]}',
        COLOUR,
    ),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_librarys_network_as_its_user_changed_it(tmp_path: Path, kind: str) -> None:
    build, entry, preprocess = CHANGED[kind]
    torch.manual_seed(4)
    answer, own = served(tmp_path, build(), entry, preprocess)
    assert answer.shape == own.shape == (1, 3)
    torch.testing.assert_close(answer, own, atol=1e-5, rtol=1e-5)


MISTAKEN = {
    "size": ('source = "torchvision:vit_b_16"\n[networks.n.preprocess]\nsize = [64, 32]', "takes square inputs only"),
    "argument": ('source = "timm:resnet10t"\narguments = {nonsense = 1}', "timm:resnet10t cannot be built so: "),
    "weights": (
        'source = "timm:resnet10t"\narguments = {checkpoint_path = "x"}',
        "arguments may not say checkpoint_path",
    ),
    "head": ('source = "timm:resnet10t"\nhead = ["conv"]', "head has linear, linear:WIDTH, batch_norm, "),
    "place": (
        'source = "torchvision:resnet18"\nhead = {at = "body", layers = ["linear:3"]}',
        "head.at names 'body', which the network has not",
    ),
    "count": ('source = "zfnet"\nclasses = ["a", "b"]\nnum_classes = 3', "num_classes is 3, and classes names 2"),
    "none": ('source = "zfnet"\nnum_classes = 0', "num_classes is from 1"),
    "meaning": ('source = "zfnet"\noutputs = "logits"', "outputs is one of softmax, sigmoid, value"),
}


@pytest.mark.parametrize("kind", MISTAKEN)
def test_what_cannot_be_passed_on_is_said_when_the_catalogue_is_read(tmp_path: Path, kind: str) -> None:
    entry, reason = MISTAKEN[kind]
    (tmp_path / "catalogue.toml").write_text("[networks.n]\n" + entry + "\n")
    line = Networks(weights_folder=tmp_path, catalogue=tmp_path / "catalogue.toml").catalogue()[0]
    assert reason in str(line["problem"])


MODULE = """
from torch import nn
from blocks import WIDTH

def network(num_classes=2, depth=1):
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(WIDTH, num_classes))
"""


def test_a_module_beside_the_catalogue_is_found_and_an_edited_one_seen(tmp_path: Path) -> None:
    """Also a module that it imports, one that came later, and a file of names."""
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(
        '[networks.n]\nsource = "python:own_nets:network"\nweights = "random"\nclasses = "file:names.txt"\n'
        "[networks.n.preprocess]\nsize = 32\n"
    )
    networks = Networks(weights_folder=tmp_path / "weights", catalogue=catalogue)
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    assert "cannot be imported" in networks.catalogue()[0]["problem"]
    (tmp_path / "own_nets.py").write_text(MODULE)
    (tmp_path / "blocks.py").write_text("WIDTH = 4\n")
    before = networks.get("n")
    card = networks.card("n")
    assert before.layers["0"].shape[0] == 4
    assert networks.get("n") is before
    (tmp_path / "blocks.py").write_text("WIDTH = 6\n")  # as long as before, in the same second
    assert networks.get("n").layers["0"].shape[0] == 6
    assert networks.card("n")["entry_digest"] != card["entry_digest"]
    assert networks.held("n") is networks.get("n")
    (tmp_path / "own_nets.py").write_text(MODULE.replace("nn.ReLU()", "nn.Tanh()"))
    assert networks.get("n").layers["1"].kind == "Tanh"
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\n")
    assert networks.card("n")["classes"] == ["one", "two", "three"]
    assert networks.get("n").layers["4"].shape == (3,)
    with torch.no_grad():  # who still has the old one goes on with it
        assert before.module(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_a_module_that_hides_behind_a_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text(MODULE)
    (tmp_path / "catalogue.toml").write_text('[networks.n]\nsource = "python:timm:network"\nweights = "random"\n')
    line = Networks(weights_folder=tmp_path, catalogue=tmp_path / "catalogue.toml").catalogue()[0]
    assert "timm.py beside the catalogue is hidden by timm of" in str(line["problem"])
