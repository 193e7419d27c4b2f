"""The catalogue: built-in networks, the operator's entries, their mistakes, hot reload."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from torch import nn

from convscope.protocol.cards import ModelCard, ModelSummary
from workers.contract import MethodError
from workers.networks import Networks, load
from workers.networks.catalogue import Catalogue, builtin_entries, find_entry
from workers.networks.sources import torchvision_names
from workers.networks.weights import file_sha256


def factory(num_classes: int = 7) -> nn.Module:
    """What an operator's `python:` entry names."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )


def broken_factory() -> nn.Module:
    raise RuntimeError("out of order")


def catalogue_of(folder: Path, text: str) -> Networks:
    (folder / "catalogue.toml").write_text(text)
    return Networks(weights_folder=folder / "weights", catalogue=folder / "catalogue.toml")


def test_built_in_networks() -> None:
    entries = builtin_entries()
    for name in torchvision_names():
        assert entries[name].weights != "random"
        assert entries[f"{name}-random"].weights == "random"
        assert entries[name].transform == entries[f"{name}-random"].transform
    assert len(torchvision_names()) >= 80
    assert entries["resnet50"].class_names[281] == "tabby"
    assert {f"efficientnet_lite{k}" for k in range(3)} <= set(entries)


def test_summaries_are_what_the_protocol_says(tmp_path: Path) -> None:
    lines = [ModelSummary(**line) for line in Networks(weights_folder=tmp_path).catalogue()]
    assert lines[0].id == "efficientnet_lite0"
    assert lines[0].default and lines[0].available
    assert not any(line.problem for line in lines)
    by_id = {line.id: line for line in lines}
    assert by_id["vgg16-random"].available is True
    assert by_id["vgg16-random"].weights == "random (seed 0)"


def test_lite1_and_lite2_have_their_packages_weights() -> None:
    for name, size in (("efficientnet_lite1", 240), ("efficientnet_lite2", 260)):
        network = load(name)
        assert network.input_size == (size, size)
        inputs, _ = network.prepare([torch.from_numpy(data.coffee().copy())])
        with torch.no_grad():
            assert network.classes[int(network.module(inputs).argmax())] == "espresso"


def test_random_weights_come_from_their_seed(tmp_path: Path) -> None:
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    one = load("squeezenet1_1-random")
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(5)
    assert load("squeezenet1_1-random").weights_sha256 == one.weights_sha256
    torch.manual_seed(0)
    plain = torchvision.models.squeezenet1_1(weights=None)
    assert torch.equal(plain.features[0].weight, one.module.get_submodule("features.0").weight)
    other = '[networks.other]\nsource = "torchvision:squeezenet1_1"\nweights = "random"\nseed = 1\n'
    networks = catalogue_of(tmp_path, other)
    assert networks.weights_sha256("other") != one.weights_sha256


def test_nothing_requires_a_gradient_and_nothing_trains() -> None:
    network = load("efficientnet_lite0")
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert not any(module.training for module in network.module.modules())


def test_an_alexnet_of_five_classes(tmp_path: Path) -> None:
    torch.manual_seed(11)
    plain = torchvision.models.alexnet(weights=None, num_classes=5).eval()
    (tmp_path / "weights").mkdir()
    save_file(plain.state_dict(), tmp_path / "weights" / "tea.safetensors")
    networks = catalogue_of(
        tmp_path,
        f"""
        [networks.tea]
        source = "torchvision:alexnet"
        weights = "file:tea.safetensors"
        sha256 = "{file_sha256(tmp_path / "weights" / "tea.safetensors")}"
        title = "Tea leaves"
        classes = ["assam", "ceylon", "darjeeling", "keemun", "sencha"]
        [networks.tea.preprocess]
        size = 192
        resize = [192, 192]
        resize_mode = "bicubic"
        mean = [0.4, 0.5, 0.6]
        std = 0.2
        """,
    )
    card = ModelCard(**networks.card("tea"))
    assert card.classes == ("assam", "ceylon", "darjeeling", "keemun", "sencha")
    assert card.preprocess.size == (192, 192)
    assert card.layer("fc8").shape == (5,)
    network = networks.get("tea")
    inputs, _ = network.prepare([torch.from_numpy(data.chelsea().copy())])
    squeezed = torchvision.transforms.functional.to_tensor(Image.fromarray(data.chelsea()).resize((192, 192), 3))
    by_hand = (squeezed - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.2
    with torch.no_grad():
        torch.testing.assert_close(network.module(inputs), plain(by_hand[None]), atol=1e-5, rtol=1e-5)
    assert networks.catalogue()[0]["id"] == "tea"
    assert networks.catalogue()[0]["available"] is True


MISTAKES = {
    "no-source": ("weights = 'random'", "source is missing"),
    "no-such": ("source = 'torchvision:resnet9000'", "no classification network 'resnet9000'"),
    "no-kind": ("source = 'tensorflow:vgg'", "none of torchvision:NAME"),
    "no-weights": ("source = 'torchvision:alexnet'\nweights = 'MADE_UP_V1'", "IMAGENET1K_V1"),
    "typo": ("source = 'torchvision:alexnet'\nwieghts = 'random'", "knows no wieghts"),
    "no-digest": ("source = 'torchvision:alexnet'\nweights = 'random'\nsha256 = 'abc'", "64 hexadecimal"),
    "no-module": ("source = 'python:no.such.module:factory'\nweights = 'random'", "cannot be imported"),
    "no-attribute": ("source = 'python:os.path:nothing'\nweights = 'random'", "cannot be imported"),
    "bad-size": ("source = 'torchvision:alexnet'\npreprocess = {size = 'big'}", "size is a number"),
    "bad-classes": ("source = 'torchvision:alexnet'\nclasses = 'five'", "classes is a list"),
    "far-classes": ("source = 'torchvision:alexnet'\nclasses = 'file:../names.txt'", "outside"),
    "vgg16": ("source = 'torchvision:vgg16'", "id of a built-in"),
    "no-file": ("source = 'torchvision:alexnet'\nweights = 'file:none.safetensors'", None),
}


def test_a_bad_entry_is_listed_with_its_reason_and_hurts_nothing_else(tmp_path: Path) -> None:
    text = "".join(f"[networks.{name}]\n{body}\n" for name, (body, _) in MISTAKES.items())
    text += "[networks.good]\nsource = 'torchvision:squeezenet1_1'\nweights = 'random'\n"
    text += "['networks'.'sp ace']\nsource='zfnet'\n"
    networks = catalogue_of(tmp_path, text)
    lines = {line["id"]: ModelSummary(**line) for line in reversed(networks.catalogue())}
    for name, (_, reason) in MISTAKES.items():
        listed = "vgg16 (catalogue.toml)" if name == "vgg16" else name
        if reason is not None:
            assert reason in str(lines[listed].problem), name
            with pytest.raises(MethodError, match="cannot be used"):
                networks.card(listed)
    assert networks.card("vgg16")["source"] == "torchvision:vgg16"
    assert lines["vgg16"].problem is None
    assert "letters, digits" in str(lines["sp ace"].problem)
    assert lines["no-file"].available is False
    assert "neither in the folder of weights nor beside the catalogue" in str(lines["no-file"].problem)
    with pytest.raises(MethodError, match="neither in the folder of weights nor beside the catalogue"):
        networks.get("no-file")
    assert lines["good"].problem is None
    assert networks.get("good").classes[281] == "tabby"


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/hostname", "sub/../../secret.safetensors"])
def test_files_outside_the_folders_are_refused(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"x")
    networks = catalogue_of(inner, f"[networks.n]\nsource = 'torchvision:alexnet'\nweights = 'file:{name}'\n")
    assert "outside the folder" in networks.catalogue()[0]["problem"]
    with pytest.raises(MethodError, match="outside the folder"):
        networks.get("n")
    (inner / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    entry = "[networks.n]\nsource = 'torchvision:alexnet'\nweights = 'file:link.safetensors'\n"
    networks = catalogue_of(inner, entry)
    with pytest.raises(MethodError, match="neither in the folder"):
        networks.get("n")


def test_pth_files_need_a_digest(tmp_path: Path) -> None:
    torch.save(factory(3).state_dict(), tmp_path / "w.pth")
    entry = "[networks.n]\nsource = 'python:tests.workers.networks.test_catalogue:factory'\nclasses = ['a', 'b', 'c']\n"
    networks = catalogue_of(tmp_path, entry + "weights = 'file:w.pth'\n")
    assert "w.pth needs sha256" in networks.catalogue()[0]["problem"]
    with pytest.raises(MethodError, match="needs sha256"):
        networks.get("n")
    digest = file_sha256(tmp_path / "w.pth")
    networks = catalogue_of(tmp_path, entry + f"weights = 'file:w.pth'\nsha256 = '{digest}'\n")
    assert networks.get("n").weights_sha256 == digest
    (tmp_path / "w.pth").write_bytes(b"other")
    networks = catalogue_of(tmp_path, entry + f"weights = 'file:w.pth'\nsha256 = '{digest}'\n")
    with pytest.raises(MethodError, match="has SHA-256"):
        networks.get("n")


def test_the_operators_own_factory(tmp_path: Path) -> None:
    networks = catalogue_of(
        tmp_path,
        "[networks.mine]\nsource = 'python:tests.workers.networks.test_catalogue:factory'\nweights = 'random'\n"
        "classes = ['a', 'b']\n[networks.mine.preprocess]\nsize = 32\n"
        "[networks.broken]\nsource = 'python:tests.workers.networks.test_catalogue:broken_factory'\n"
        "weights = 'random'\n",
    )
    card = ModelCard(**networks.card("mine"))
    assert [layer.name for layer in card.layers] == ["0", "1", "2", "3", "4"]
    assert card.layers[-1].shape == (2,)
    assert networks.card("mine")["entry_digest"] == card.entry_digest
    with pytest.raises(MethodError, match="cannot be built: out of order"):
        networks.card("broken")
    for model in ("python:os:system", "python:tests.workers.networks.test_catalogue:factory"):
        with pytest.raises(MethodError, match="no network") as caught:
            networks.card(model)
        assert caught.value.problem == "unknown-model"


def test_timm_by_name(tmp_path: Path) -> None:
    networks = Networks(weights_folder=tmp_path)
    card = ModelCard(**networks.card("timm:resnet10t"))
    assert card.source == "timm:resnet10t"
    assert card.default_layers["cam"] == ("layer4",)
    assert networks.get("timm:resnet10t-random").input_size == card.preprocess.size
    with pytest.raises(MethodError, match=r"near names: .*resnet"):
        networks.card("timm:resnet10x")


def test_unknown_networks_come_with_near_names() -> None:
    with pytest.raises(MethodError, match=r"near names: .*vgg16") as caught:
        find_entry("vgg_16")
    assert caught.value.problem == "unknown-model"


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.toml"
    catalogue = Catalogue(path, tmp_path)
    assert "cannot be read" in str(catalogue.entries() and catalogue.problem)
    path.write_text("[networks.one]\nsource = 'torchvision:alexnet'\nweights = 'random'\n")
    assert catalogue.entry("one").seed == 0
    assert catalogue.problem is None
    one = "[networks.one]\nsource = 'torchvision:alexnet'\nweights = 'random'\nseed = 9\n"
    path.write_text(one + "[networks.two]\nsource='torchvision:vgg11'\n")
    assert catalogue.entry("one").seed == 9
    assert catalogue.entry("two").id == "two"
    path.write_text("[networks.one\n")
    os.utime(path, ns=(1, 1))
    assert catalogue.entry("one").seed == 9  # a file half written takes nothing away
    assert "not a catalogue" in str(catalogue.problem)
    path.write_text("nets = 3\n")
    catalogue.entries()
    assert "[networks.ID]" in str(catalogue.problem)
    path.write_text("")
    with pytest.raises(MethodError, match="no network 'one'"):
        catalogue.entry("one")


def test_a_catalogue_that_cannot_be_read_is_a_line_of_its_own(tmp_path: Path) -> None:
    networks = catalogue_of(tmp_path, "[[")
    first = ModelSummary(**networks.catalogue()[0])
    assert first.id == "catalogue.toml"
    assert "not a catalogue" in str(first.problem)
    assert networks.catalogue()[1]["id"] == "efficientnet_lite0"


def test_changed_weights_change_the_digest_of_the_entry(tmp_path: Path) -> None:
    text = "[networks.n]\nsource = 'python:tests.workers.networks.test_catalogue:factory'\n"
    text += "weights = 'file:w.safetensors'\n"
    torch.manual_seed(0)
    save_file(factory().state_dict(), tmp_path / "w.safetensors")
    networks = catalogue_of(tmp_path, text)
    before, network = networks.card("n")["entry_digest"], networks.get("n")
    assert networks.get("n") is network
    save_file(factory().state_dict(), tmp_path / "w.safetensors")
    os.utime(tmp_path / "w.safetensors", ns=(1, 1))
    assert networks.card("n")["entry_digest"] != before
    assert networks.get("n").weights_sha256 != network.weights_sha256


def test_a_title_says_either_trained_or_random() -> None:
    for name in ("digits", "zfnet", "alexnet_2012", "efficientnet_lite0"):
        assert "random" not in find_entry(name).title
        title = find_entry(f"{name}-random").title
        assert title.endswith(", random weights")
        assert "trained" not in title
