"""Layers that no module returns by itself: sums, concatenations, resized maps, members of lists and mappings."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workers.networks.layers import describe
from workers.passes.calls import capture, reduce

Pair = namedtuple("Pair", ["fine", "coarse"])


class Neck(nn.Module):
    """Two laterals, as a list, a tuple, a mapping or a named tuple."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        self.form = form

    def forward(self, maps: list[Tensor]) -> Any:
        top = self.lateral[1](maps[1])
        fine = self.lateral[0](maps[0]) + F.interpolate(top, scale_factor=2.0)
        if self.form == "mapping":
            return {"p3": fine, "p4": top, "sizes": [tuple(fine.shape)]}
        return {"list": list, "tuple": tuple, "nested": lambda pair: (pair[0], [pair[1]]), "named": Pair._make}[
            self.form
        ]([fine, top])


class Pyramid(nn.Module):
    def __init__(self, form: str = "list") -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.neck = Neck(form)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.one(x)
        pooled, _ = self.pool(first)
        found = self.neck([first, pooled])
        fine, top = list(found.values())[:2] if isinstance(found, dict) else found
        top = top[0] if isinstance(top, list) else top
        top = torch.cat([top, top * 2], 1)[:, :4]
        again, _ = self.neck([first, pooled])[:2] if self.neck.form == "list" else (fine, None)
        return self.head(torch.cat([fine.mean((2, 3)) + again.mean((2, 3)), top.mean((2, 3))], 1))


NAMES = {
    "list": ("neck[0]", "neck[1]"),
    "tuple": ("neck[0]", "neck[1]"),
    "nested": ("neck[0]", "neck[1][0]"),
    "named": ("neck[0]", "neck[1]"),
    "mapping": ("neck[p3]", "neck[p4]"),
}


def network(form: str) -> Pyramid:
    torch.manual_seed(0)
    return Pyramid(form).eval()


@pytest.mark.parametrize("form", list(NAMES))
def test_members_are_layers_and_their_values_are_the_members(form: str) -> None:
    module, x = network(form), torch.randn(2, 3, 16, 16)
    found = {layer.name: layer for layer in describe(module, (16, 16)).layers}
    assert [found[name].shape for name in NAMES[form]] == [(4, 8, 8), (4, 4, 4)]
    with torch.no_grad():
        first = module.one(x)
        pooled, _ = module.pool(first)
        top = module.neck.lateral[1](pooled)
        fine = module.neck.lateral[0](first) + top.repeat_interleave(2, 2).repeat_interleave(2, 3)
        expected = dict(zip(NAMES[form], (fine, top), strict=True))
        expected |= {"neck.@add": fine, "neck.@interpolate": top.repeat_interleave(2, 2).repeat_interleave(2, 3)}
        expected |= {"pool": pooled, "@cat": torch.cat([top, 2 * top], 1)}
        seen, output = capture(module, x, list(expected), to_output=True)
        assert output is not None
        torch.testing.assert_close(output, module(x))
    for name, tensor in expected.items():
        torch.testing.assert_close(seen[name], tensor)
        assert found[name].shape == tuple(tensor.shape[1:])


def test_the_second_call_of_a_member_has_its_number() -> None:
    module, x = network("list"), torch.randn(1, 3, 16, 16)
    names = [layer.name for layer in describe(module, (16, 16)).layers]
    assert names.index("neck[0]") < names.index("neck[0]#2")
    sums = reduce(module, x, ["neck[1]#2", "neck[0]"], lambda tensor: float(tensor.detach().sum()))
    with torch.no_grad():
        seen, _ = capture(module, x, ["neck[1]"])
    assert sums["neck[1]#2"] == pytest.approx(float(seen["neck[1]"].sum()))


def test_a_change_of_a_member_goes_on_through_the_network_and_gradients_come_back() -> None:
    module, x = network("mapping"), torch.randn(1, 3, 16, 16)
    plain = module(x)
    _, changed = capture(module, x, [], to_output=True, change={"neck[p3]": torch.zeros_like})
    assert changed is not None
    with torch.no_grad():
        fine = capture(module, x, ["neck[p3]"])[0]["neck[p3]"].mean((2, 3))
        expected = plain - 2 * fine @ module.head.weight[:, :4].T
    torch.testing.assert_close(changed, expected)
    seen, output = capture(module, x, ["neck[p3]", "neck.@add", "@cat"], to_output=True)
    assert output is not None
    slopes = torch.autograd.grad(output[:, 0].sum(), [seen["neck[p3]"], seen["neck.@add"], seen["@cat"]])
    weights = module.head.weight[0, :4].detach()
    # The head takes twice the mean of 8×8 positions.
    torch.testing.assert_close(slopes[0], (2 * weights / 64).view(1, 4, 1, 1).expand(1, 4, 8, 8))
    torch.testing.assert_close(slopes[1], slopes[0])
    torch.testing.assert_close(slopes[2][:, 4:], torch.zeros(1, 4, 4, 4))


class InPlace(nn.Module):
    """`+=` and `add_` of maps, a bias that is no sum of maps, a functional pool with its switches."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 2, 1, bias=False)
        self.bias = nn.Parameter(torch.ones(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.one(x) + self.bias
        second = first * 3
        second += first
        third, switches = F.max_pool2d(second, 2, return_indices=True)
        del switches
        fourth = third.clone().add_(third)
        return fourth.relu_().mean((2, 3))


def test_sums_in_place_and_pools_with_switches() -> None:
    module = InPlace().eval()
    with torch.no_grad():
        module.one.weight.fill_(2.0)
    names = [layer.name for layer in describe(module, (4, 4), 1).layers]
    assert names == ["one", "@add", "@max_pool2d", "@add#2", "@relu"]
    x = torch.arange(16.0).view(1, 1, 4, 4)
    with torch.no_grad():
        seen, _ = capture(module, x, names[1:])
    torch.testing.assert_close(seen["@add"], (4 * (2 * x + 1)).expand(1, 2, 4, 4))
    pooled = (4 * (2 * torch.tensor([[5.0, 7.0], [13.0, 15.0]]) + 1)).expand(1, 2, 2, 2)
    torch.testing.assert_close(seen["@max_pool2d"], pooled)
    torch.testing.assert_close(seen["@add#2"], 2 * pooled)
