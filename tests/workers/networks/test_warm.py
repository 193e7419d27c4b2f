"""Networks kept warm: the budget, cards on disk, what cannot be had, several threads at once."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch

from convscope.protocol.cards import ModelCard
from workers.contract import MethodError
from workers.networks import LoadedNetwork, Networks, code_digest, libraries
from workers.networks.__main__ import main


def test_the_least_recently_used_leaves_first(tmp_path: Path) -> None:
    # SqueezeNet 1.1 has 4.7 MiB of weights, ShuffleNet ×0.5 5.3: two of three fit.
    networks = Networks(weights_folder=tmp_path, memory_mib=14)
    first = weakref.ref(networks.get("squeezenet1_1-random"))
    networks.get("shufflenet_v2_x0_5-random")
    assert networks.get("squeezenet1_1-random") is first()
    networks.get("squeezenet1_0-random")
    assert networks.loaded() == ["squeezenet1_1-random", "squeezenet1_0-random"]
    gc.collect()
    assert first() is not None
    networks.get("shufflenet_v2_x0_5-random")
    gc.collect()
    assert first() is None


def test_one_that_had_to_leave_and_is_still_used_is_not_loaded_twice(tmp_path: Path) -> None:
    networks = Networks(weights_folder=tmp_path, memory_mib=14)
    used = networks.get("squeezenet1_1-random")
    for model in ("shufflenet_v2_x0_5-random", "squeezenet1_0-random"):
        networks.get(model)
    assert "squeezenet1_1-random" not in networks.loaded()
    assert networks.held("squeezenet1_1-random") is used and networks.get("squeezenet1_1-random") is used
    assert networks.loaded()[-1] == "squeezenet1_1-random"


def test_what_is_held_is_what_the_catalogue_says_now(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    entry = '[networks.mine]\nsource = "torchvision:squeezenet1_1"\nweights = "random"\nseed = {}\n'
    file.write_text(entry.format(1))
    networks = Networks(weights_folder=tmp_path, catalogue=file)
    assert networks.held("mine") is None
    first = networks.get("mine")
    assert networks.held("mine") is first
    file.write_text(entry.format(22))
    assert networks.held("mine") is None
    assert networks.get("mine").weights_sha256 != first.weights_sha256


def test_a_cast_copy_counts(tmp_path: Path) -> None:
    networks = Networks(weights_folder=tmp_path, memory_mib=14)
    networks.get("squeezenet1_1-random")
    network = networks.get("squeezenet1_0-random")
    before = network.nbytes
    network.fast_module()
    assert network.nbytes > before
    assert networks.get("squeezenet1_0-random") is network
    assert sum(networks.get(model).nbytes for model in networks.loaded()) <= 14 * 2**20


def test_one_network_larger_than_the_budget(tmp_path: Path) -> None:
    networks = Networks(weights_folder=tmp_path, memory_mib=100)
    networks.get("squeezenet1_1-random")
    with pytest.raises(MethodError, match="553,430,176 bytes") as caught:
        networks.get("vgg16-random")
    assert caught.value.problem == "out-of-memory"
    assert networks.loaded() == ["squeezenet1_1-random"]


def test_cards_are_what_the_protocol_says_and_are_kept(tmp_path: Path) -> None:
    card = Networks(weights_folder=tmp_path).card("resnet18")
    checked = ModelCard(**card)
    assert checked.parameters == 11_689_512
    assert checked.preprocess.resizable
    assert checked.preprocess.minimum_size <= 32
    assert checked.max_pools == 1
    assert checked.layer("layer1.0.relu#2").call == 2
    (kept,) = (tmp_path / "cards").iterdir()
    kept.write_text(json.dumps(card | {"title": "from the disk"}))
    assert Networks(weights_folder=tmp_path).card("resnet18")["title"] == "from the disk"
    kept.write_text("{")
    assert Networks(weights_folder=tmp_path).card("resnet18") == card
    assert json.loads(kept.read_text()) == card


def test_twins_have_cards_of_their_own(tmp_path: Path) -> None:
    networks = Networks(weights_folder=tmp_path)
    assert networks.card("alexnet")["entry_digest"] != networks.card("alexnet-random")["entry_digest"]
    assert not ModelCard(**networks.card("vit_b_16")).preprocess.resizable


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    networks = Networks(weights_folder=tmp_path, cards_folder=tmp_path / "file" / "cards")
    assert networks.card("alexnet")["id"] == "alexnet"


def test_official_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    networks = Networks(weights_folder=tmp_path)
    with pytest.raises(MethodError, match=r"resnet18-f37072fd.pth.*convscope models pull.*-random") as caught:
        networks.get("resnet18")
    assert caught.value.problem == "weights-unavailable"
    assert {line["id"]: line["available"] for line in networks.catalogue()}["resnet18"] is False


def test_official_weights_that_lie_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    networks = Networks(weights_folder=tmp_path)
    twin = networks.get("squeezenet1_1-random")
    torch.save(twin.module.state_dict(), tmp_path / "squeezenet1_1-b8a52dc0.pth")
    assert {line["id"]: line["available"] for line in networks.catalogue()}["squeezenet1_1"] is True
    assert torch.equal(networks.get("squeezenet1_1").module.classifier[1].weight, twin.module.classifier[1].weight)


def test_googlenets_training_heads_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import googlenet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    whole = googlenet(weights=None, aux_logits=True, init_weights=False, transform_input=True).eval()
    torch.save(whole.state_dict(), tmp_path / "googlenet-1378be20.pth")
    inputs = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours = Networks(weights_folder=tmp_path).get("googlenet").module(inputs)
        torch.testing.assert_close(ours, whole(inputs))


def test_several_threads_at_once(tmp_path: Path) -> None:
    networks = Networks(weights_folder=tmp_path)
    models = ["squeezenet1_1-random", "alexnet", "resnet18", "squeezenet1_1-random", "efficientnet_lite0", "resnet18"]
    cards: list[dict[str, object]] = []
    loaded: list[LoadedNetwork] = []

    def work(model: str) -> None:
        cards.append(networks.card(model))
        if model.endswith(("random", "lite0")):
            loaded.append(networks.get(model))

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = Networks(weights_folder=tmp_path / "other")
    assert all(card == alone.card(str(card["id"])) for card in cards)
    assert len(cards) == 6
    assert len({id(network) for network in loaded}) == 2
    assert {network.weights_sha256 for network in loaded} == {alone.weights_sha256(network.id) for network in loaded}


def test_the_environment_names_code_and_libraries(tmp_path: Path) -> None:
    assert len(Networks(weights_folder=tmp_path).environment()) == 64
    assert len(code_digest()) == 64
    assert libraries()["torch"] == torch.__version__.partition("+")[0]


def test_the_package_needs_neither_pydantic_nor_redis() -> None:
    """It must work on a machine that has torch and little else."""
    code = (
        "import sys\n"
        "for name in ('pydantic', 'redis', 'fastapi', 'obstore'): sys.modules[name] = None\n"
        "import workers.networks, workers.methods.classify, workers.methods.feature_maps, workers.methods.kernels\n"
        "ours = {name for name in sys.modules if name.startswith(('convscope', 'service'))}\n"
        "assert ours == {'convscope', 'convscope.recent'}, ours\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_program_lists_pulls_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {
        "CONVSCOPE_DATA": tmp_path,
        "TORCH_HOME": tmp_path,
        "https_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, str(value))
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "efficientnet_lite0"
    assert main(["pull", "efficientnet_lite0", "alexnet", "no-such"]) == 1
    said = capsys.readouterr()
    assert "efficientnet_lite0: good, SHA-256 57934424" in said.out
    assert "alexnet: https://download.pytorch.org" in said.err
    assert f"folder of weights: {tmp_path / 'weights'}; catalogue: {tmp_path / 'catalogue.toml'}" in said.err
    assert "no network 'no-such'" in said.err
    assert main(["check", "vgg11"]) == 1
    assert "weights are not here" in capsys.readouterr().err
    (tmp_path / "catalogue.toml").write_text("[networks.bad]\nsource = 'torchvision:nothing'\n")
    monkeypatch.setenv("CONVSCOPE_CATALOGUE", str(tmp_path / "catalogue.toml"))
    assert main(["check"]) == 1
    said = capsys.readouterr()
    assert "bad: torchvision has no classification network 'nothing'" in said.err
    assert "vgg16: weights not here" in said.out
