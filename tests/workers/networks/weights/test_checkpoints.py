"""Checkpoints as training programs save them: read whatever is around the weights, refused with the true reason."""

from __future__ import annotations

import argparse
import enum
import pathlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from workers.contract import MethodError
from workers.networks.weights import Fitted, fit, read_checkpoint, weight_bytes

State = dict[str, Tensor]


class Small(nn.Module):
    """A network with a normalisation, as most have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Outer(nn.Module):
    """A network whose own attribute is called as DataParallel calls its."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Small()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class Stage(enum.Enum):
    """What a pickle calls by its class."""

    LATE = 3


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def put(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def read(path: Path, network: nn.Module, **how: Any) -> Fitted:
    wanted = network.state_dict(keep_vars=True)
    return fit(read_checkpoint(path, weight_bytes(wanted)), wanted, **how)


def same(found: dict[str, Tensor], state: State) -> bool:
    return list(found) == list(state) and all(torch.equal(found[name], state[name]) for name in state)


def training_state(network: nn.Module) -> dict[str, Any]:
    """An optimizer after one step."""
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


BESIDE: dict[str, Any] = {
    "args": argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("/data")),
    "best": np.float64(71.5),
    "history": np.arange(3.0),
    "stage": Stage.LATE,
    "config": SimpleNamespace(depth=18),
    "counts": defaultdict(int, {"a": 1}),
    "epoch": 3,
    "when": torch.tensor(7),
    "generator": torch.get_rng_state(),
}

SAVED: dict[str, Callable[[State], Any]] = {
    "plain.pth": lambda state: state,
    "parallel.tar": lambda state: put(state, "module."),
    "compiled.bin": lambda state: put(state, "_orig_mod."),
    "both.ckpt": lambda state: put(state, "module._orig_mod."),
    "both-ways.ckpt": lambda state: put(state, "_orig_mod.module."),
    "lightning.ckpt": lambda state: {"state_dict": put(state, "model."), "hyper_parameters": dict(BESIDE), "loops": {}},
    "deep.ckpt": lambda state: {"trainer": {"student": {"weights": put(state, "backbone.encoder.")}}},
    "any-key.weird": lambda state: {"my_best_net": state, **BESIDE},
    "beside.pth.tar": lambda state: {**BESIDE, "state_dict": put(state, "module.")},
    "ordered.pth": lambda state: OrderedDict(put(state, "net.")),
    "mixed.pth": lambda state: {**state, "epoch": 3, "acc": 0.5},
    "parts-compiled.pth": lambda state: {
        (f"_orig_mod.{name}" if name.startswith("fc") else f"conv_part.{name}".removeprefix("conv_part.")): value
        for name, value in state.items()
    },
    "averaged.pth": lambda state: {"n_averaged": torch.tensor(4), **put(state, "module.")},
    "defaultdict.pth": lambda state: {"model": defaultdict(list, state)},
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_by_training_programs(tmp_path: Path, name: str) -> None:
    state = dict(small(1).state_dict())
    torch.save(SAVED[name](state), tmp_path / name)
    assert same(read(tmp_path / name, small()).tensors, state)
    torch.save(SAVED[name](state), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert same(read(tmp_path / "old.bin", small()).tensors, state)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.backbone."])
def test_safetensors_too(tmp_path: Path, prefix: str) -> None:
    state = dict(small(1).state_dict())
    save_file({name: value.clone() for name, value in put(state, prefix).items()}, tmp_path / "weights.ckpt")
    found = read(tmp_path / "weights.ckpt", small())
    assert same(found.tensors, state)
    assert found.prefix == prefix


def test_an_attribute_that_is_called_as_a_wrapper_is_kept(tmp_path: Path) -> None:
    state = dict(Outer().state_dict())
    for saved in (state, put(state, "module."), {name.removeprefix("module."): value for name, value in state.items()}):
        torch.save(saved, tmp_path / "w.pth")
        assert same(read(tmp_path / "w.pth", Outer()).tensors, state)


def test_averages_of_weights_by_choice(tmp_path: Path) -> None:
    last, average = dict(small(1).state_dict()), dict(small(2).state_dict())
    torch.save({"state_dict": last, "state_dict_ema": average, **BESIDE}, tmp_path / "w.pth")
    found = read(tmp_path / "w.pth", small())
    assert same(found.tensors, last)
    assert found.said() == "read from 'state_dict'; there is also state_dict_ema, for checkpoint_key"
    assert same(read(tmp_path / "w.pth", small(), key="state_dict_ema").tensors, average)
    with pytest.raises(MethodError, match="has no state dict 'ema'; there is 'state_dict', 'state_dict_ema'"):
        read(tmp_path / "w.pth", small(), key="ema")
    torch.save({"model": None, "ema": {"module": average}}, tmp_path / "w.pth")
    assert same(read(tmp_path / "w.pth", small()).tensors, average)


def test_the_one_that_fits_of_several(tmp_path: Path) -> None:
    state = dict(small(1).state_dict())
    torch.save({"generator": nn.Linear(3, 4).state_dict(), "discriminator": state}, tmp_path / "w.pth")
    assert read(tmp_path / "w.pth", small()).key == "discriminator"
    torch.save({"student": state, "teacher": dict(small(2).state_dict())}, tmp_path / "w.pth")
    with pytest.raises(MethodError, match=r"several state dicts that fit: 'student', 'teacher'\. Choose one with"):
        read(tmp_path / "w.pth", small())
    assert same(read(tmp_path / "w.pth", small(), key="student").tensors, state)


def test_a_whole_network_is_read_without_its_class(tmp_path: Path) -> None:
    """torch.save(network): the class is never imported, its parameters are all that is read."""
    trained = small(1)
    for saved in (trained, nn.DataParallel(trained), {"model": trained, "epoch": 3}):
        torch.save(saved, tmp_path / "w.pth")
        assert same(read(tmp_path / "w.pth", small()).tensors, dict(trained.state_dict()))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight


def test_tied_weights(tmp_path: Path) -> None:
    trained = Tied()
    save_model(trained, str(tmp_path / "w.safetensors"))
    assert same(read(tmp_path / "w.safetensors", Tied()).tensors, dict(trained.state_dict()))
    # Without the note, and the other way round.
    state = {name: value.clone() for name, value in trained.state_dict().items() if name != "one.weight"}
    save_file(state, tmp_path / "w.safetensors")
    assert same(read(tmp_path / "w.safetensors", Tied()).tensors, dict(trained.state_dict()))


def test_an_optimizer_beside_the_weights_is_no_matter(tmp_path: Path) -> None:
    trained = small(1)
    state = training_state(trained)
    state["state"][99] = {"exp_avg": torch.zeros(80, 1024, 1024)}  # 320 MiB, and the network has a kilobyte
    torch.save({"model": trained.state_dict(), "optimizer": state}, tmp_path / "w.pth")
    assert same(read(tmp_path / "w.pth", small()).tensors, dict(trained.state_dict()))


def test_the_weights_stay_when_the_file_changes(tmp_path: Path) -> None:
    state = dict(small(1).state_dict())
    for name in ("w.pth", "w.safetensors"):
        path = tmp_path / name
        torch.save(state, path) if name == "w.pth" else save_file(state, path)
        found = read(path, small()).tensors
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
        assert same(found, state)


def test_a_misfit_names_both_sides(tmp_path: Path) -> None:
    state = dict(small(1).state_dict())
    state["head.weight"] = state.pop("fc.weight")
    torch.save({"state_dict": put(state, "model.")}, tmp_path / "w.ckpt")
    with pytest.raises(MethodError) as caught:
        read(tmp_path / "w.ckpt", small())
    assert caught.value.detail == (
        "the checkpoint lacks fc.weight and has head.weight, which the network has not (1 missing, 1 surplus)."
    )


def test_a_replaced_head_is_told_from_other_misfits(tmp_path: Path) -> None:
    state = dict(small(1).state_dict())
    for kind in ("weight", "bias"):
        state[f"fc.1.{kind}"] = state.pop(f"fc.{kind}")
    torch.save(state, tmp_path / "w.ckpt")
    with pytest.raises(MethodError, match=r"lacks fc.weight and has fc.1.weight.* fc was replaced .* with head"):
        read(tmp_path / "w.ckpt", small())


def quantized() -> State:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    network[0].weight = nn.Parameter(
        torch.quantize_per_tensor(network[0].weight.detach(), 0.1, 0, torch.qint8), requires_grad=False
    )
    return dict(network.state_dict())


def test_quantized_scripted_and_other_files_say_what_they_are(tmp_path: Path) -> None:
    network = small()
    wanted = network.state_dict()
    torch.save(quantized(), tmp_path / "q.pth")
    torch.jit.script(network).save(str(tmp_path / "scripted.pt"))
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    (tmp_path / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    for name, said in {
        "scripted.pt": "scripted program (TorchScript), which is code and not weights",
        "page.pth": "an HTML or XML page, not a file of weights",
        "lfs.safetensors": "a pointer of Git LFS",
        "keras.h5": "an HDF5 file; Keras 3 saves a network as .keras",
    }.items():
        with pytest.raises(MethodError, match=said.replace("(", r"\(").replace(")", r"\)")):
            fit(read_checkpoint(tmp_path / name, weight_bytes(wanted)), wanted)
    wanted = nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict()
    with pytest.raises(MethodError, match="quantized"):
        fit(read_checkpoint(tmp_path / "q.pth", weight_bytes(wanted)), wanted)


class Runs:
    """Unpickled, it would leave a file behind."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_beside_the_weights_is_run(tmp_path: Path, zipped: bool) -> None:
    """Also what names eval, a method of a class, or a builtin; the weights are read all the same."""
    import os

    state = dict(small(1).state_dict())
    mark = tmp_path / "mark"
    attacks = [
        Runs(os.system, f"touch {mark}"),
        Runs(eval, f"open({str(mark)!r}, 'w')"),
        Runs(Path.touch, mark),
        Runs(getattr, mark, "touch"),
        Runs(map, os.mkdir, [str(mark)]),
    ]
    torch.save({"model": state, "args": attacks}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(read(tmp_path / "w.pth", small()).tensors, state)
    assert not mark.exists()
