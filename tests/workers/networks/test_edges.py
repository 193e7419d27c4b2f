"""Edges and receptive fields of layer tables, against torchlens, which traces a network by wrapping torch itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchlens
import torchvision
from torch import Tensor, nn
from torchlens.backends.torch.wrappers import unwrap_torch

from workers.contract import Layer
from workers.networks.edges import INPUT
from workers.networks.layers import Table, describe, meta_copy

SIZE = (96, 96)

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "googlenet": lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
    "shufflenet": torchvision.models.shufflenet_v2_x0_5,
    "mobilenet_v3": torchvision.models.mobilenet_v3_small,
    "efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0"),
}

LONG = ("shufflenet",)

SPELT = {"iadd": "add", "radd": "add", "imul": "mul", "rmul": "mul", "concat": "cat", "concatenate": "cat"}
"""Other spellings of one function."""


class Oracle:
    """What torchlens saw: which operation gave each call's output, and which operations that read."""

    def __init__(self, network: nn.Module) -> None:
        try:
            self._trace = torchlens.trace(network.eval(), torch.randn(1, 3, *SIZE))
        finally:
            unwrap_torch()  # it leaves torch's functions wrapped: tables of later tests would not know them
        operations = list(self._trace.ops)
        self.by_label = {one.layer_label if one.layer.num_passes == 1 else one.label: one for one in operations}
        self.by_label |= {one.label: one for one in operations}
        self.of_call: dict[str, Any] = {}
        functional: Counter[str] = Counter()
        for one in operations:
            for call in one.output_of_module_calls:
                path, _, number = str(call).rpartition(":")
                self.of_call[path if number == "1" else f"{path}#{number}"] = one
            path = str(one.module or "").rpartition(":")[0]
            function = one.func_name.strip("_")
            name = f"{path}.@{SPELT.get(function, function)}"
            functional[name] += 1
            self.of_call.setdefault(name if functional[name] == 1 else f"{name}#{functional[name]}", one)

    def read(self, operation: Any, reported: set[str]) -> set[str]:
        """The nearest operations above that gave a reported call's output, or the input."""
        found: set[str] = set()
        for parent in (self.by_label[label] for label in operation.parents):
            if parent.is_input or parent.label in reported:
                found.add(parent.label)
            else:
                found |= self.read(parent, reported)
        return found


def known_calls(table: Table, oracle: Oracle) -> dict[str, Layer]:
    """Calls that torchlens saw as well; it and the table name all modules alike."""
    known = {layer.name: layer for layer in table.layers if layer.name in oracle.of_call}
    missing = [layer.name for layer in table.layers if layer.name not in known]
    assert not missing, missing
    return known


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow if one in LONG else ()) for one in NETWORKS])
def test_against_torchlens(name: str) -> None:
    table = describe(meta_copy(NETWORKS[name]), SIZE)
    oracle = Oracle(NETWORKS[name]())
    known = known_calls(table, oracle)
    reported = {oracle.of_call[call].label for call in known}
    edges = fields = 0
    for call, layer in known.items():
        own = oracle.of_call[call]
        told = {"input" if one == INPUT else oracle.of_call[one].label for one in layer.inputs}
        if own.label in told:
            assert told == {own.label}, f"{call} hands on what it was given, and so has one input"
            continue
        expected = {"input" if oracle.by_label[one].is_input else one for one in oracle.read(own, reported)}
        assert told == expected, call
        edges += len(told)
        fields += check_field(layer, own)
    # torchlens knows no field behind pools that round up, nor behind padding by a function.
    assert edges > len(known) // 2 and fields >= {"resnet18": 40}.get(name, 0)


def check_field(layer: Layer, operation: Any) -> bool:
    """Whether both know a receptive field; where they do, it is the same box."""
    seen = operation.receptive_field
    if layer.box is None or not layer.spatial or str(seen.status.value) != "exact" or seen.size is None:
        return False
    assert tuple(seen.size) == layer.box.size, layer.name
    assert tuple(map(float, seen.jump)) == layer.box.jump, layer.name
    centre = [start + (size - 1) / 2 for start, size in zip(layer.box.start, layer.box.size, strict=True)]
    assert list(map(float, seen.center0)) == centre, layer.name
    return True


class Shapes(nn.Module):
    """A shortcut, a side branch through an identity, a call in place, a call made twice, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.same = nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 1))
        self.bias = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        side = self.same(y)
        z = self.act(self.b(y))
        z = z + side + self.bias
        z = self.act(z)
        return F.relu(self.inner(z) + y)


def test_by_hand() -> None:
    inputs = {layer.name: set(layer.inputs) for layer in describe(Shapes().eval(), (8, 8)).layers}
    assert inputs == {
        "a": {INPUT},
        "same": {"a"},
        "b": {"a"},  # not the identity that was given the same tensor
        "act": {"b"},
        "@add": {"act", "same"},
        "act#2": {"@add"},  # what is added to a map of the network is a layer, a constant that is added is none
        "inner.0": {"act#2"},
        "inner": {"inner.0"},
        "@add#2": {"inner", "a"},
        "@relu": {"@add#2"},
    }


def test_what_reads_nothing_of_the_input_has_no_inputs() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(x) + self.a(torch.ones(1, 2, device=x.device))[:, :, None, None]

    inputs = {layer.name: layer.inputs for layer in describe(Constant().eval(), (8, 8)).layers}
    assert inputs == {"a": (), "b": (INPUT,)}
