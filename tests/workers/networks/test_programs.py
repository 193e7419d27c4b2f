"""Programs of torch.export as networks: the same layers, the same answers in every operation; nothing in them runs."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from tests.workers.fakes import outcome
from workers.contract import Grant, IterativeMethod, MethodError, Outcome, Row, params
from workers.engine.registry import find_methods
from workers.networks import LoadedNetwork, Networks
from workers.networks.sources import Options, SourceError, find_source
from workers.networks.weights import file_sha256

SIDE = 64


def upload(seed: int = 0) -> Tensor:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return torch.from_numpy(np.repeat(np.repeat(coarse, 8, 0), 8, 1).copy())


def export(network: nn.Module, path: Path, *, batch: bool = True, sides: bool = False, side: int = SIDE) -> Path:
    """The network as a .pt2, with a free number of images, or of pixels too, or for one image of one size."""
    free: dict[int, Any] = {0: Dim("batch", min=1, max=64)} if batch else {}
    if sides:
        free |= {2: Dim("rows", min=32, max=512), 3: Dim("columns", min=32, max=512)}
    inputs = (torch.rand(2 if batch else 1, 3, side, side),)
    torch.export.save(torch.export.export(network.eval(), inputs, dynamic_shapes=(free,) if free else None), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with one ResNet-18 three times: by its architecture, and exported with a free and a fixed batch."""
    found = tmp_path_factory.mktemp("programs")
    torch.manual_seed(6)
    network = torchvision.models.resnet18(weights=None, num_classes=4).eval()
    save_file(network.state_dict(), found / "w.safetensors")
    export(network, found / "free.pt2")
    export(network, found / "fixed.pt2", batch=False)
    how = f"[networks.{{}}.preprocess]\nsize = {SIDE}\nresize = {SIDE}\nmean = 0.5\nstd = 0.25\n"
    text = '[networks.eager]\nsource = "torchvision:resnet18"\nweights = "file:w.safetensors"\nnum_classes = 4\n'
    text += how.format("eager")
    for kind in ("free", "fixed"):
        text += f'[networks.{kind}]\nsource = "export:{kind}.pt2"\n' + how.format(kind)
    (found / "catalogue.toml").write_text(text)
    return found


@pytest.fixture(scope="module")
def networks(folder: Path) -> Networks:
    return Networks(weights_folder=folder / "weights", catalogue=folder / "catalogue.toml")


@pytest.mark.parametrize("kind", ["free", "fixed"])
def test_layers_are_those_of_the_network_that_was_exported(networks: Networks, kind: str) -> None:
    eager, program = (ModelCard(**networks.card(model)) for model in ("eager", kind))
    assert [line["problem"] for line in networks.catalogue()[:3]] == [None] * 3
    assert program.layers == eager.layers
    assert program.default_layers == eager.default_layers
    assert program.rectifications == eager.rectifications == {"relu": 17}
    assert program.max_pools == 1
    assert program.weights == "inside"
    assert program.parameters == eager.parameters
    assert not program.preprocess.resizable


def at_once(work: Any) -> Any:
    """What a method gives, in slices or not."""
    if not isinstance(work, Generator):
        return work
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


ASKED: dict[str, dict[str, Any]] = {
    "classify": {},
    "feature-maps": {"layers": ["layer1.0.relu#2", "layer3", "layer2.0.@add"]},
    "kernels": {"layer": "conv1"},
    "deconv": {"layer": "layer2.0.conv1", "channels": [1, 3]},
    "saliency": {"method": "guided"},
    "occlusion": {"window": 32, "stride": 16},
    "cam": {"methods": ["gradcam", "layercam", "scorecam"], "targets": ["predicted", 2]},
    "maximize": {"layer": "layer2", "channels": [5], "steps": 4, "size": 64},
    "cka": {"mode": "channels", "layer": "layer1.0.conv1"},
}


def answered(networks: Networks, model: str, name: str, precision: str) -> Outcome:
    """An operation's outcome, its request made canonical as the service does."""
    operation, card, network = operations()[name], ModelCard(**networks.card(model)), networks.get(model)
    count = {"kernels": 0, "maximize": 0, "cka": 4}.get(name, 1)
    images = {"images": [{"id": f"img-{k}"} for k in range(count)]} if count else {}
    resolved = operation.resolve(operation.request(**ASKED[name], **images, precision=precision), card)
    row = Row(params(resolved.model_dump(mode="json")), [upload(k) for k in range(count)])
    method = find_methods()[name]
    if not isinstance(method, IterativeMethod):
        return outcome(method, network, row)
    grant = Grant()
    states = at_once(method.start(network, row, grant))
    while not all(method.done(state) for state in states):
        assert method.step(network, states, grant) == [None] * len(states)
    found = at_once(method.finish(network, row, states, grant))
    assert isinstance(found, Outcome)
    return found


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("name", ASKED)
def test_a_program_answers_as_the_network_itself(networks: Networks, name: str, precision: str) -> None:
    assert set(ASKED) <= set(operations())
    eager = answered(networks, "eager", name, precision)
    for kind in ("free", "fixed"):
        program = answered(networks, kind, name, precision)
        assert set(program.arrays) == set(eager.arrays)
        for array, own in eager.arrays.items():
            found, own = program.arrays[array].double(), own.double()
            scale = float(own.nan_to_num().abs().max()) or 1.0
            # What was exported for one image is given its images singly, which sums in another order than a batch.
            share = 2e-2 if precision == "fast" and kind == "fixed" else 1e-5
            torch.testing.assert_close(found, own, atol=share * scale, rtol=0, equal_nan=True)


def test_a_fixed_batch_is_given_its_images_one_at_a_time(networks: Networks) -> None:
    free, fixed = networks.get("free"), networks.get("fixed")
    assert free.behaviour.alone is None
    assert "exported for 1 image" in str(fixed.behaviour.alone)


class Several(nn.Module):
    """Calls one ReLU twice, another as a function, reshapes by hand and answers a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 16 * 16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.act(self.pool(self.act(self.conv(x))) - 0.1)
        maps = nn.functional.hardtanh(maps, 0.0, 6.0)
        return {"logits": self.fc(maps.view(x.size(0), -1)), "maps": maps}


def loaded(tmp_path: Path, path: Path, more: str = "") -> LoadedNetwork:
    (tmp_path / "catalogue.toml").write_text(f'[networks.n]\nsource = "export:{path.name}"\n{more}')
    networks = Networks(weights_folder=tmp_path / "weights", catalogue=tmp_path / "catalogue.toml")
    assert networks.catalogue()[0]["problem"] is None
    return networks.get("n")


def test_calls_of_one_module_and_mappings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Several()
    program = loaded(tmp_path, export(network, tmp_path / "n.pt2", side=32))
    assert {"act", "act#2", "@hardtanh", "pool", "fc"} <= set(program.layers)
    inputs = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        own, found = network(inputs), program.module(inputs)
    assert list(found) == ["logits", "maps"]
    assert all(torch.equal(found[key], own[key]) for key in own)


def test_a_free_size_stays_free(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    program = loaded(tmp_path, export(network, tmp_path / "n.pt2", sides=True), "[networks.n.preprocess]\nsize = 96\n")
    assert program.input_size == (96, 96)
    inputs = torch.rand(3, 3, 96, 80)
    with torch.no_grad():
        assert torch.equal(program.module(inputs), network(inputs))


class Touch:
    """Unpickled, it would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def changed(path: Path, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes] | None = None) -> Path:
    """The archive with parts changed, left out and added."""
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(parts)).partition("/")[0]
    with zipfile.ZipFile(path.with_name("changed.pt2"), "w") as archive:
        for name, data in parts.items():
            if (new := change(name.removeprefix(f"{root}/"), data)) is not None:
                archive.writestr(name, new)
        for name, data in (more or {}).items():
            archive.writestr(f"{root}/{name}", data)
    return path.with_name("changed.pt2")


def edited(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, data: bytes) -> bytes:
        if name.startswith("models/"):
            assert old.encode() in data
            return data.replace(old.encode(), new.encode())
        return data

    return change


def test_nothing_that_a_program_carries_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    path = export(network, tmp_path / "n.pt2")
    # Example inputs are unpickled by torch.export.load itself; here they are left out, and the network is read.
    saved = io.BytesIO()
    torch.save(Touch(mark), saved)
    poisoned = changed(path, lambda name, data: saved.getvalue() if name.startswith("data/sample") else data)
    inputs = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(loaded(tmp_path, poisoned).module(inputs), network(inputs))
    guards = json.dumps([f"open({str(mark)!r}, 'w')"])

    def with_guards(name: str, data: bytes) -> bytes:
        return (
            json.dumps(json.loads(data) | {"guards_code": json.loads(guards)}).encode()
            if name.startswith("models/")
            else data
        )

    with torch.no_grad():
        assert torch.equal(loaded(tmp_path, changed(path, with_guards)).module(inputs), network(inputs))
    pickled = pickle.dumps(Touch(mark))
    refused = {
        "no operator of ATen": changed_copy(path, "a", edited("torch.ops.aten.relu.default", "torch.os.system")),
        "no arithmetic of sizes": changed_copy(path, "b", edited("Symbol('", "__import__('os').system('")),
        "compiled code": changed_copy(path, "c", lambda name, data: data, {"data/aotinductor/model/x.so": b"x"}),
        "is pickled": changed_copy(
            path, "d", lambda name, data: data.replace(b'"use_pickle": false', b'"use_pickle": true')
        ),
        "no program that torch.export.save wrote": changed_copy(
            path, "e", lambda name, data: None if "models" in name else data
        ),
        "cannot be loaded by torch": changed_copy(
            path, "f", lambda name, data: data if "weight_0" not in name else pickled
        ),
    }
    for reason, bad in refused.items():
        with pytest.raises(SourceError, match=reason):
            find_source(f"export:{bad.name}", Options(folders=(tmp_path,)))
    assert not mark.exists()


def changed_copy(path: Path, name: str, change: Any, more: dict[str, bytes] | None = None) -> Path:
    return changed(path, change, more).rename(path.with_name(f"{name}.pt2"))


def test_what_is_no_program_of_one_image(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    torch.export.save(torch.export.export(Two(), (torch.rand(1, 3, 8, 8),) * 2), tmp_path / "two.pt2")
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt2")
    (tmp_path / "text.pt2").write_text("no program")
    for name, reason in {
        "two": r"takes \(1, 3, 8, 8\), \(1, 3, 8, 8\), not one batch of images",
        "weights": "holds 0 programs",
        "text": "no program that torch.export.save wrote",
        "none": "neither in the folder of weights nor beside",
        "../none": "lies outside",
    }.items():
        with pytest.raises(SourceError, match=reason):
            find_source(f"export:{name}.pt2", Options(folders=(tmp_path,)))


def test_a_digest_is_checked(tmp_path: Path) -> None:
    path = export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), tmp_path / "n.pt2")
    assert loaded(tmp_path, path, f'sha256 = "{file_sha256(path)}"\n').weights_sha256 == file_sha256(path)
    with pytest.raises(MethodError, match="has SHA-256"):
        loaded(tmp_path, path, f'sha256 = "{"0" * 64}"\n')
