"""kernels: the weights themselves, chosen and ordered, and how they are drawn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.kernels import KernelsFacts
from convscope.protocol.pictures import ArrayInfo
from convscope.protocol.problems import ProblemError
from convscope.render import RenderOptions, render
from convscope.render.colors import table
from tests.convscope.render.helpers import Png
from tests.workers.fakes import FakeNetwork, finish, outcome, traces
from workers.contract import Grant, MethodError, Outcome, Row, params
from workers.methods.kernels import METHOD
from workers.networks import Networks, load

OPERATION = operations()["kernels"]


def request(layer: str = "0", **changes: Any) -> Any:
    return params({"layer": layer, "filters": "all", "inputs": "all", "precision": "exact", **changes})


@pytest.fixture
def small() -> FakeNetwork:
    convolution = nn.Conv2d(3, 4, 1)
    # Norms of the filters 1, 5, 5, 0; of the inputs √(1+9), √(16+25), 0.
    convolution.weight.data = torch.tensor([[1.0, 0.0, 0.0], [-3.0, 4.0, 0.0], [0.0, -5.0, 0.0], [0.0, 0.0, 0.0]]).view(
        4, 3, 1, 1
    )
    return FakeNetwork(nn.Sequential(convolution, nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4)), size=(8, 8))


def test_by_hand(small: FakeNetwork) -> None:
    before = traces(small.module)
    found = outcome(METHOD, small, Row(request()))
    assert torch.equal(found.arrays["weights"], small.module[0].weight)  # type: ignore[index]
    assert found.facts == {
        "layer": "0", "shape": [4, 3, 1, 1], "filters": [0, 1, 2, 3], "inputs": [0, 1, 2], "groups": 1,
        "minimum": -5.0, "maximum": 4.0, "norms": [1.0, 5.0, 5.0, 0.0],
    }  # fmt: skip
    KernelsFacts(**json.loads(json.dumps(found.facts)))
    assert traces(small.module) == before


@pytest.mark.parametrize(
    ("filters", "inputs", "expected"),
    [
        ("top:2", "all", ([1, 2], [0, 1, 2])),  # equal norms: the lower index first
        ("strongest", "strongest", ([1], [1])),
        ("first:2", "top:2", ([0, 1], [1, 0])),
        ([3, 0], [2], ([3, 0], [2])),
        ("top:99", "first:99", ([1, 2, 0, 3], [0, 1, 2])),
    ],
)
def test_selection(small: FakeNetwork, filters: Any, inputs: Any, expected: tuple[list[int], list[int]]) -> None:
    found = outcome(METHOD, small, Row(request(filters=filters, inputs=inputs)))
    assert (found.facts["filters"], found.facts["inputs"]) == expected
    weight = small.module[0].weight  # type: ignore[index]
    by_loop = np.array([[weight[o, i].detach().numpy() for i in expected[1]] for o in expected[0]])
    np.testing.assert_array_equal(found.arrays["weights"].numpy(), by_loop)
    assert found.facts["minimum"] == -5.0  # of the whole layer, whatever was chosen


def test_grouped_convolutions_count_the_inputs_of_a_group(small: FakeNetwork) -> None:
    found = outcome(METHOD, small, Row(request("2")))
    assert found.arrays["weights"].shape == (8, 1, 3, 3)
    assert found.facts["groups"] == 4


def test_where_there_are_no_kernels(small: FakeNetwork) -> None:
    rows = [Row(request("1")), Row(request("0")), Row(request("none"))]
    results, _ = finish(METHOD.run(small, rows, Grant()))
    assert [type(result) for result in results] == [MethodError, Outcome, MethodError]
    small.module[0].weight.data[0, 0] = float("nan")  # type: ignore[index,union-attr]
    results, _ = finish(METHOD.run(small, [Row(request())], Grant()))
    assert isinstance(results[0], MethodError)
    assert results[0].problem == "numerical-error"


def test_the_stem_of_the_default_network() -> None:
    network = load("efficientnet_lite0")
    found = outcome(METHOD, network, Row(request("conv_stem", filters="first:64", precision="fast")))
    assert torch.equal(found.arrays["weights"], network.module.get_submodule("conv_stem").weight)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return Networks(weights_folder=tmp_path_factory.mktemp("weights"))


def test_the_request(cards: Networks) -> None:
    vgg = ModelCard(**cards.card("vgg11"))
    resolved = OPERATION.resolve(OPERATION.request(), vgg)
    assert (resolved.layer, resolved.filters, resolved.inputs) == ("features.0", "first:64", "all")
    assert OPERATION.resolve(resolved, vgg) == resolved
    assert OPERATION.cost(resolved, vgg, 0).result_bytes == 4 * 64 * 3 * 9
    assert OPERATION.resolve(OPERATION.request(layer="conv2_1"), vgg).layer == "features.3"
    for values, problem in (
        ({"layer": "features.1"}, "not-applicable"),
        ({"layer": "none"}, "unknown-layer"),
        ({"filters": [64]}, "channel-out-of-range"),
        ({"inputs": [3]}, "channel-out-of-range"),
    ):
        with pytest.raises(ProblemError) as caught:
            OPERATION.resolve(OPERATION.request(**values), vgg)
        assert caught.value.name == problem


def pictures(network: FakeNetwork, **changes: Any) -> Any:
    found = outcome(METHOD, network, Row(request(**changes)))
    arrays = {name: ArrayInfo(tuple(array.shape), "float32") for name, array in found.arrays.items()}
    (picture,) = OPERATION.pictures({"model": "fake"}, found.facts, arrays)
    return picture


def test_three_inputs_are_colours_on_the_layers_own_scale(small: FakeNetwork) -> None:
    picture = pictures(small, filters=[0, 3])
    assert [tile.parts[0].index for tile in picture.tiles] == [(0,), (1,)]
    assert (picture.normalize, picture.value_range) == ("layer", (-5.0, 4.0))
    assert len({tile.group for tile in picture.tiles}) == 1


def test_others_are_a_tile_for_each_pair_about_zero(small: FakeNetwork) -> None:
    picture = pictures(small, inputs=[1])
    assert [tile.parts[0].index for tile in picture.tiles] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert [tile.titles["index"] for tile in picture.tiles] == ["0, 1", "1, 1", "2, 1", "3, 1"]
    assert (picture.normalize, picture.signed, picture.value_range) == ("symmetric", True, (-5.0, 5.0))


def test_a_picture_of_too_many_pairs_says_so() -> None:
    network = FakeNetwork(nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 130, 3)), size=(8, 8))
    picture = pictures(network, layer="1", filters="first:128")
    assert len(picture.tiles) == 8192
    assert "pairs" not in picture.heading
    picture = pictures(network, layer="1", filters="all")
    assert len(picture.tiles) == 8192
    assert "the first 8192 of 8320 pairs" in picture.heading


def test_kernels_of_one_pixel_are_a_matrix_of_outputs_and_inputs() -> None:
    network = FakeNetwork(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1)), size=(8, 8))
    found = outcome(METHOD, network, Row(request(layer="1", filters=[4, 0, 2], inputs="all")))
    weights = found.arrays["weights"].numpy()
    (picture,) = OPERATION.pictures({"model": "fake"}, found.facts, {})
    assert picture.views == ("matrix",)
    assert (picture.row_labels, picture.column_labels) == (("4", "0", "2"), tuple("012345"))
    page = Png.of(render(picture, {"weights": weights}.__getitem__, None, RenderOptions(scale=2)))
    largest = float(network.module.get_submodule("1").weight.abs().max())
    colours = table("RdBu_r", True)
    block = page.body(6, 12)[::2, ::2]
    for row, output in enumerate((4, 0, 2)):
        for column in range(6):
            weight = float(network.module.get_submodule("1").weight[output, column, 0, 0])
            level = int(min(max(weight / largest * 127 + 128.5, 1), 255))
            assert (block[row, column] == colours[level]).all()
