"""feature-maps: against cloning hooks in plain PyTorch, by hand, in company, and leaving nothing behind."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from convscope.protocol.operations.feature_maps import FeatureMapsFacts
from convscope.protocol.pictures import ArrayInfo
from convscope.protocol.problems import ProblemError
from tests.workers.fakes import FakeNetwork, finish, image, outcome, traces
from workers.contract import Grant, MethodError, Row, params
from workers.methods.feature_maps import METHOD
from workers.networks import LoadedNetwork, Networks, load

OPERATION = operations()["feature-maps"]


def request(layers: list[str], **changes: Any) -> Any:
    return params(
        {"layers": layers, "channels": "all", "by": "mean", "precision": "exact", "preprocess": None} | changes
    )


def by_hooks(network: LoadedNetwork, uploads: list[Tensor]) -> dict[str, list[Tensor]]:
    """Every module's outputs, call by call, cloned by a plain forward hook."""
    seen: dict[str, list[Tensor]] = defaultdict(list)

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen[name].append(output.clone())

    handles = [module.register_forward_hook(keep(name)) for name, module in network.module.named_modules() if name]
    inputs, _ = network.prepare(uploads)
    with torch.no_grad():
        network.module(inputs)
    for handle in handles:
        handle.remove()
    return seen


UPLOADS = [image((80, 100), seed=1), image((64, 64), seed=2)]


@pytest.fixture(scope="module")
def lite0() -> LoadedNetwork:
    return load("efficientnet_lite0")


@pytest.mark.parametrize(
    ("model_id", "layers"),
    [
        ("efficientnet_lite0", ["conv_stem", "bn1", "blocks.2.0", "conv_head", "classifier"]),
        # In place: the ReLU after each convolution overwrites its output.
        ("squeezenet1_1-random", ["features.0", "features.1", "features.3.expand3x3", "classifier.1"]),
        # The same ReLU twice in each block, and an addition in place before its second call.
        ("resnet18-random", ["bn1", "layer1.0.relu", "layer1.0.relu#2", "layer1.0.bn2", "layer4.1.relu#2", "fc"]),
    ],
)
def test_maps_equal_a_cloning_hook(model_id: str, layers: list[str]) -> None:
    network = load(model_id)
    before = traces(network.module)
    expected = by_hooks(network, UPLOADS)
    found = outcome(METHOD, network, Row(request(layers), UPLOADS))
    for layer in layers:
        name, _, call = layer.partition("#")
        maps = expected[name][int(call or 1) - 1]
        maps = maps[:, :, None, None] if maps.dim() == 2 else maps
        torch.testing.assert_close(found.arrays[f"maps/{layer}"], maps, rtol=1e-5, atol=1e-5)
    assert traces(network.module) == before
    if "features.0" in layers:
        assert found.arrays["maps/features.0"].min() < 0


def test_functional_activations() -> None:
    network = load("googlenet-random")
    found = outcome(METHOD, network, Row(request(["conv1.bn", "conv1.@relu", "inception3a.branch2.1.@relu"]), UPLOADS))
    expected = by_hooks(network, UPLOADS)
    torch.testing.assert_close(found.arrays["maps/conv1.bn"], expected["conv1.bn"][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.arrays["maps/conv1.@relu"], expected["conv1"][0], rtol=1e-5, atol=1e-5)
    inner = expected["inception3a.branch2.1"][0]
    torch.testing.assert_close(found.arrays["maps/inception3a.branch2.1.@relu"], inner, rtol=1e-5, atol=1e-5)


def counting() -> FakeNetwork:
    """Four channels made by hand from an image of one colour: −1, 0, 2·red and a map with one spot."""
    convolution = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(convolution.weight)
    convolution.bias.data = torch.tensor([-1.0, 0.0, 0.0, 0.5])
    convolution.weight.data[2, 0] = 2.0
    convolution.weight.data[3, 1] = 1.0
    return FakeNetwork(nn.Sequential(convolution, nn.ReLU(inplace=True)), size=(2, 2))


def test_statistics_by_hand() -> None:
    upload = torch.zeros(2, 2, 3, dtype=torch.uint8)
    upload[:, :, 0] = 255
    upload[0, 1, 1] = 255
    found = outcome(METHOD, counting(), Row(request(["0", "1"]), [upload]))
    first, second = found.facts["layers"]
    assert first["shape"] == [4, 2, 2]
    assert first["channels"] == [[0, 1, 2, 3]]
    assert first["mean"] == [[-1.0, 0.0, 2.0, 0.75]]
    assert first["minimum"] == [[-1.0, 0.0, 2.0, 0.5]]
    assert first["maximum"] == [[-1.0, 0.0, 2.0, 1.5]]
    # Values .5, 1.5, .5, .5: variance .1875.
    assert first["std"][0] == pytest.approx([0.0, 0.0, 0.0, 0.1875**0.5])
    assert first["zeros"] == [[0.0, 1.0, 0.0, 0.0]]
    assert first["dead_channels"] == [[1]]
    assert second["dead_channels"] == [[0, 1]]
    assert second["minimum"][0][0] == 0.0
    FeatureMapsFacts(**json.loads(json.dumps(found.facts, allow_nan=False)))


def test_what_only_rounding_keeps_from_zero_is_dead() -> None:
    convolution = nn.Conv2d(3, 5, 1, bias=False)
    with torch.no_grad():
        for channel, size in enumerate((1.0, 1e-5, 3e-7, 1e-10, 0.0)):
            convolution.weight[channel] = size
    upload = torch.full((2, 2, 3), 255, dtype=torch.uint8)
    upload[0, 0] = 0
    found = outcome(METHOD, FakeNetwork(nn.Sequential(convolution), (2, 2)), Row(request(["0"]), [upload]))
    assert found.facts["layers"][0]["dead_channels"] == [[2, 3, 4]]
    shape = tuple(found.arrays["maps/0"].shape)
    (picture,) = operations()["feature-maps"].pictures(
        {"model": "fake"}, found.facts, {"maps/0": ArrayInfo(shape, "float32")}
    )
    assert [tile.dead for tile in picture.tiles] == [False, False, True, True, True]
    assert [tile.titles["index"] for tile in picture.tiles] == ["0", "1", "2 dead", "3 dead", "4 dead"]


@pytest.mark.parametrize(
    ("channels", "by", "expected"),
    [
        ("all", "mean", [0, 1, 2, 3]),
        ("first:2", "mean", [0, 1]),
        ("top:2", "mean", [2, 3]),
        ("strongest", "max", [2]),
        ("top:99", "mean", [2, 3, 0, 1]),  # after the ReLU the first two are equal: the lower index first
        ([3, 0, 3], "mean", [3, 0, 3]),
    ],
)
def test_selection(channels: Any, by: str, expected: list[int]) -> None:
    upload = torch.full((2, 2, 3), 255, dtype=torch.uint8)
    found = outcome(METHOD, counting(), Row(request(["1"], channels=channels, by=by), [upload]))
    assert found.facts["layers"][0]["channels"] == [expected]
    whole = outcome(METHOD, counting(), Row(request(["1"]), [upload])).arrays["maps/1"]
    assert torch.equal(found.arrays["maps/1"], whole[:, expected])


def test_each_image_has_its_own_strongest(lite0: LoadedNetwork) -> None:
    found = outcome(METHOD, lite0, Row(request(["blocks.1"], channels="top:3"), UPLOADS))
    whole = outcome(METHOD, lite0, Row(request(["blocks.1"]), UPLOADS)).arrays["maps/blocks.1"]
    for k, chosen in enumerate(found.facts["layers"][0]["channels"]):
        means = whole[k].mean(dim=(1, 2))
        assert means[chosen].tolist() == sorted(means.tolist(), reverse=True)[:3]
        torch.testing.assert_close(found.arrays["maps/blocks.1"][k], whole[k, chosen], rtol=1e-5, atol=1e-5)


def test_rows_of_one_run_differ_in_channels_only(lite0: LoadedNetwork) -> None:
    rows = [
        Row(request(["blocks.2"], channels=chosen), [upload])
        for chosen, upload in (([1], UPLOADS[0]), ("top:2", UPLOADS[1]))
    ]
    assert len({METHOD.group_key(row.request) for row in rows}) == 1
    assert METHOD.group_key(request(["blocks.3"])) != METHOD.group_key(rows[0].request)
    results, _ = finish(METHOD.run(lite0, rows, Grant()))
    for row, found in zip(rows, results, strict=True):
        alone = outcome(METHOD, lite0, row)
        assert not isinstance(found, MethodError)
        assert found.facts["layers"][0]["channels"] == alone.facts["layers"][0]["channels"]
        torch.testing.assert_close(found.arrays["maps/blocks.2"], alone.arrays["maps/blocks.2"], rtol=1e-5, atol=1e-5)


def test_the_forward_stops_at_the_deepest_layer(lite0: LoadedNetwork) -> None:
    reached: list[str] = []
    handle = lite0.module.get_submodule("blocks.3").register_forward_pre_hook(lambda *_: reached.append("blocks.3"))
    try:
        outcome(METHOD, lite0, Row(request(["conv_stem", "blocks.2"]), UPLOADS[:1]))
    finally:
        handle.remove()
    assert reached == []


def test_a_flip_of_the_image_flips_a_symmetric_filters_map() -> None:
    convolution = nn.Conv2d(3, 2, 3, padding=1)
    convolution.weight.data += convolution.weight.data.flip(3).clone()
    network = FakeNetwork(nn.Sequential(convolution), size=(16, 16))
    upload = image((16, 16))
    plain = outcome(METHOD, network, Row(request(["0"]), [upload])).arrays["maps/0"]
    flipped = outcome(METHOD, network, Row(request(["0"]), [upload.flip(1)])).arrays["maps/0"]
    torch.testing.assert_close(flipped, plain.flip(3), rtol=1e-5, atol=1e-5)


def test_maps_that_are_not_finite() -> None:
    network = counting()
    network.module[0].weight.data[2, 0] = float("inf")  # type: ignore[index,union-attr]
    results, _ = finish(METHOD.run(network, [Row(request(["0"]), [image((2, 2))])], Grant()))
    assert isinstance(results[0], MethodError)
    assert results[0].problem == "numerical-error"


def test_fast_is_close(lite0: LoadedNetwork) -> None:
    exact = outcome(METHOD, lite0, Row(request(["blocks.2"]), UPLOADS)).arrays["maps/blocks.2"]
    fast = outcome(METHOD, lite0, Row(request(["blocks.2"], precision="fast"), UPLOADS)).arrays["maps/blocks.2"]
    assert fast.dtype == torch.float32
    assert F.cosine_similarity(exact.flatten(), fast.flatten(), dim=0) > 0.99


@pytest.fixture(scope="module")
def vgg_card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return ModelCard(**Networks(weights_folder=tmp_path_factory.mktemp("weights")).card("vgg11"))


def wish(**values: Any) -> Any:
    return OPERATION.request(image={"id": "a"}, **values)


def test_defaults_of_the_request(vgg_card: ModelCard) -> None:
    resolved = OPERATION.resolve(wish(), vgg_card)
    assert (resolved.layers, resolved.channels, resolved.by) == (["features.0"], "first:64", "mean")
    assert OPERATION.resolve(resolved, vgg_card) == resolved
    named = OPERATION.resolve(wish(layers="conv2_1,block2_conv1,features.3"), vgg_card)
    assert named.layers == ["features.3", "features.4"]
    assert len(OPERATION.resolve(wish(layers="convolutions"), vgg_card).layers) == 8


def test_refusals_of_the_request(vgg_card: ModelCard) -> None:
    for values, problem in (
        ({"layer": "features.99"}, "unknown-layer"),
        ({"channels": [64]}, "channel-out-of-range"),
        ({"preprocess": {"size": [16, 16]}}, "not-applicable"),
    ):
        with pytest.raises(ProblemError) as caught:
            OPERATION.resolve(wish(**values), vgg_card)
        assert caught.value.name == problem


def test_cost_is_the_size_of_the_arrays(vgg_card: ModelCard) -> None:
    resolved = OPERATION.resolve(wish(layers="features.0,fc8", channels="all"), vgg_card)
    assert OPERATION.cost(resolved, vgg_card, 2).result_bytes == 2 * 4 * (64 * 224 * 224 + 1000)
    larger = OPERATION.resolve(wish(preprocess={"size": [448, 448]}), vgg_card)
    assert OPERATION.cost(larger, vgg_card, 1).result_bytes == 4 * 64 * 448 * 448


def test_pictures_name_every_map() -> None:
    found = outcome(
        METHOD, counting(), Row(request(["0", "1"], channels="top:2"), [image((2, 2)), image((2, 2), seed=4)])
    )
    arrays = {name: ArrayInfo(tuple(array.shape), "float32") for name, array in found.arrays.items()}
    pictures = OPERATION.pictures({"model": "fake"}, found.facts, arrays)
    assert [picture.name for picture in pictures] == ["0/0", "0/1", "1/0", "1/1"]
    assert [len(picture.tiles) for picture in pictures] == [2] * 4
    assert pictures[1].image == 1
    assert pictures[0].tiles[0].titles["index"] == str(found.facts["layers"][0]["channels"][0][0])
