"""Two networks compared: by hand, against a slow reference, a network with itself, saved and resumed."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, image, traces
from tests.workers.methods.ascents import tiny
from tests.workers.methods.compare.trials import compared
from workers.contract import MethodError, Outcome
from workers.methods.compare.alignment import align, batch_edges
from workers.methods.compare.explaining import Explained, agreement
from workers.methods.compare.looking import silent
from workers.passes.calls import capture

IMAGES = [image(seed=seed) for seed in range(24)]


@pytest.fixture(scope="module")
def pair() -> tuple[FakeNetwork, FakeNetwork]:
    return tiny(0), tiny(1)


@pytest.fixture(scope="module")
def found(pair: tuple[FakeNetwork, FakeNetwork]) -> Outcome:
    return compared(*pair, IMAGES)


def test_a_network_has_no_difference_from_itself(pair: tuple[FakeNetwork, FakeNetwork]) -> None:
    same = compared(pair[0], tiny(0), IMAGES)
    figures = same.facts["figures"]
    assert figures["agreement"] == figures["cka.min"] == figures["cka.low.min"] == 1.0
    assert figures["flips"] == figures["logits.largest_difference"] == 0.0
    assert figures["cam.rank_correlation.worst"] == 1.0
    assert figures["cam.mass_moved.worst"] == 0.0
    assert figures["channels.died"] == figures["channels.woke"] == 0.0
    assert same.facts["flips"] == same.facts["shown"] == []
    assert bool((same.arrays["cka_resamples"] == 1).all())


def test_two_networks_differ_and_are_left_as_they_were(pair: tuple[FakeNetwork, FakeNetwork]) -> None:
    before = [traces(network.module) for network in pair]
    figures = compared(*pair, IMAGES[:6]).facts["figures"]
    assert [traces(network.module) for network in pair] == before
    assert figures["cka.min"] < 1.0
    assert figures["logits.largest_difference"] > 0.0
    assert figures["cam.mass_moved.mean"] > 0.0


def test_answers_and_flips_against_the_networks_themselves(
    pair: tuple[FakeNetwork, FakeNetwork], found: Outcome
) -> None:
    logits = [network.module(network.prepare(IMAGES)[0]) for network in pair]
    tops = [one.argmax(dim=1) for one in logits]
    for side, one in zip(("model", "other"), range(2), strict=True):
        assert found.arrays[f"prediction/{side}"].tolist() == tops[one].tolist()
        sure = logits[one].softmax(dim=1).amax(dim=1)
        torch.testing.assert_close(found.arrays[f"confidence/{side}"], sure, rtol=1e-4, atol=1e-6)
    furthest = (logits[0] - logits[1]).abs().amax(dim=1)
    torch.testing.assert_close(found.arrays["logits_difference"], furthest, rtol=1e-4, atol=1e-5)
    differs = (tops[0] != tops[1]).nonzero()[:, 0].tolist()
    assert sorted(one["image"] for one in found.facts["flips"]) == differs
    assert found.facts["figures"]["agreement"] == 1 - len(differs) / len(IMAGES)
    sure = [min(one["confidence"], one["other_confidence"]) for one in found.facts["flips"]]
    assert sure == sorted(sure, reverse=True)


def slow_hsic(x: Tensor, y: Tensor) -> float:
    """HSIC1 of linear kernels by equation 4 of Song 2012, index by index."""
    n = len(x)
    k, m = ((one @ one.T).double().fill_diagonal_(0) for one in (x, y))
    ones = torch.ones(n, dtype=torch.float64)
    trace = float((k @ m).trace())
    return (
        trace
        + float(ones @ k @ ones) * float(ones @ m @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * float(ones @ k @ m @ ones)
    ) / (n * (n - 3))


def test_cka_is_what_the_formula_gives(pair: tuple[FakeNetwork, FakeNetwork], found: Outcome) -> None:
    edges = batch_edges(len(IMAGES), 16)
    for place, layer in enumerate(("1", "3")):
        sums = [0.0, 0.0, 0.0]
        for begin, end in pairwise(edges):
            x, y = (
                capture(network.module, network.prepare(IMAGES[begin:end])[0], [layer])[0][layer].flatten(1).double()
                for network in pair
            )
            for k, (one, other) in enumerate(((x, y), (x, x), (y, y))):
                sums[k] += slow_hsic(one, other)
        told = found.facts["layers"][place]
        assert told["cka"] == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), rel=1e-4)
        assert told["low"] < told["cka"] < told["high"]
    assert found.facts["figures"]["cka.min"] == min(one["cka"] for one in found.facts["layers"])


def test_an_interval_holds_what_is_true_for_most_draws() -> None:
    """HSICs that scatter about a CKA of 0.5: about 95 of 100 intervals hold it, and surely more than 80."""
    held = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        noise = 1 + 0.1 * torch.randn(40, 1, 3, dtype=torch.float64, generator=generator)
        aligned = align(torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64) * noise, 200, seed)
        assert aligned.low is not None and aligned.high is not None
        held += bool(aligned.low[0] <= 0.5 <= aligned.high[0])
    assert held >= 48


@pytest.mark.parametrize(
    ("images", "most", "sizes"), [(3, 16, {3}), (7, 16, {7}), (20, 16, {4}), (64, 16, {8}), (100, 16, {12, 13})]
)
def test_batches_are_nearly_equal_and_several(images: int, most: int, sizes: set[int]) -> None:
    edges = batch_edges(images, most)
    assert {end - begin for begin, end in pairwise(edges)} == sizes


def test_too_few_images_have_no_cka_and_say_so(pair: tuple[FakeNetwork, FakeNetwork]) -> None:
    found = compared(*pair, IMAGES[:2])
    assert found.facts["figures"]["cka.min"] is None
    assert "at least 4 images" in found.facts["notes"][0]
    few = compared(*pair, IMAGES[:6])
    assert few.facts["figures"]["cka.min"] is not None and few.facts["figures"]["cka.low.min"] is None
    assert "at least 20 images" in few.facts["notes"][0]


def test_evidence_by_hand() -> None:
    """Half of it moves from the first place to the last; ranks by Spearman's formula 1 − 6·Σd²/(n(n² − 1))."""
    one, other = torch.tensor([[4.0, 2.0], [1.0, 0.0]]), torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    correlation, moved = agreement(one, other)
    assert correlation == pytest.approx(1 - 6 * (4 + 0 + 1 + 9) / (4 * 15))
    assert moved == pytest.approx((3 + 0 + 1 + 4) / 7 / 2)


@pytest.mark.parametrize(
    ("one", "other", "moved"),
    [
        ([1.0, 0.0], [0.0, 3.0], 1.0),
        ([1.0, 3.0], [2.0, 6.0], 0.0),
        ([1.0, 0.0], [-1.0, -2.0], 1.0),
        ([-1.0, 0.0], [-1.0, -2.0], math.nan),
    ],
)
def test_moved_mass_at_its_ends(one: list[float], other: list[float], moved: float) -> None:
    found = agreement(torch.tensor([one]), torch.tensor([other]))[1]
    assert found == moved or (math.isnan(found) and math.isnan(moved))


def test_maps_of_other_inputs_are_compared_at_the_same_places_of_the_upload() -> None:
    """A ramp along the upload, seen whole by one network and in its middle by the other."""
    whole = {"upload_size": [100, 100], "input_size": [50, 50], "scale": [2.0, 2.0], "offset": [0.0, 0.0]}
    middle = {"upload_size": [100, 100], "input_size": [60, 60], "scale": [1.0, 1.0], "offset": [20.0, 20.0]}
    first = torch.arange(10.0).add(0.5).mul(10).expand(10, 10)  # the upload's column at each cell's centre
    second = (torch.arange(12.0).add(0.5) * 5 + 20).expand(12, 12)
    one, other = Explained((first, second), (whole, middle)).on_one_grid()
    assert sorted(set(one.tolist())) == [25.0, 35.0, 45.0, 55.0, 65.0, 75.0]
    torch.testing.assert_close(one, other)


def muted(network: FakeNetwork, layer: int, channel: int) -> FakeNetwork:
    """The same network with a channel that a rectification always cuts off."""
    with torch.no_grad():
        network.module[layer].weight[channel] = 0  # type: ignore[index]
        network.module[layer].bias[channel] = -1  # type: ignore[index]
    return network


def test_channels_that_died_and_woke_are_found() -> None:
    found = compared(muted(tiny(0), 2, 5), muted(tiny(0), 0, 2), IMAGES[:4])
    by_layer = {one["layer"]: one for one in found.facts["channels"]}
    assert by_layer["1"]["died"] == [2] and by_layer["1"]["woke"] == []
    assert by_layer["3"]["woke"] == [5] and by_layer["3"]["died"] == []
    assert found.facts["figures"]["channels.died"] == found.facts["figures"]["channels.woke"] == 1.0
    ranges = found.arrays["channels/1"]
    assert ranges.shape == (2, 6, 2) and ranges[1, 2].tolist() == [0.0, 0.0] and float(ranges[0, 2, 1]) > 0


def test_rounding_is_no_life() -> None:
    assert silent(torch.tensor([[1.0, 1.0 + 1e-7], [0.0, 5.0], [0.0, 1e-5]])).tolist() == [True, False, False]


@pytest.mark.parametrize("changes", [{}, {"precision": "fast", "batch_images": 5}])
def test_interrupted_it_gives_the_same_bits(pair: tuple[FakeNetwork, FakeNetwork], changes: dict[str, Any]) -> None:
    whole, resumed = (compared(*pair, IMAGES[:20], interrupted=each, **changes) for each in (False, True))
    assert whole.facts == resumed.facts
    assert whole.arrays.keys() == resumed.arrays.keys()
    for name, values in whole.arrays.items():
        torch.testing.assert_close(values, resumed.arrays[name], rtol=0, atol=0, equal_nan=True)


def test_those_that_moved_most_are_shown_with_the_maps_that_were_compared(found: Outcome) -> None:
    moved = found.arrays["mass_moved"].nan_to_num(0.0)
    shown = found.facts["shown"]
    first = [one for one in shown if one["moved"]]
    assert [one["image"] for one in first] == moved.argsort(descending=True, stable=True)[: len(first)].tolist()
    assert len(first) == 10
    for one in first[:3]:
        maps = found.arrays["maps/model"][one["item"]], found.arrays["maps/other"][one["item"]]
        correlation, share = agreement(*maps)
        assert one["mass_moved"] == pytest.approx(share)
        assert one["rank_correlation"] == pytest.approx(correlation)


def test_accuracy_needs_a_class_an_image(pair: tuple[FakeNetwork, FakeNetwork], found: Outcome) -> None:
    right = found.arrays["prediction/model"][:6].tolist()
    figures = compared(*pair, IMAGES[:6], truth=right).facts["figures"]
    assert figures["accuracy.model"] == 1.0
    assert figures["accuracy.other"] == figures["agreement"]
    with pytest.raises(MethodError, match="5 classes for 6 images"):
        compared(*pair, IMAGES[:6], truth=right[:5])


def test_a_layer_that_never_changes_has_no_cka_and_no_minimum() -> None:
    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.still = nn.Conv2d(3, 2, 1)
            self.lively = nn.Conv2d(3, 2, 1)
            nn.init.zeros_(self.still.weight)

        def forward(self, x: Tensor) -> Tensor:
            return (self.still(x) + F.relu(self.lively(x))).mean(dim=(2, 3))

    torch.manual_seed(0)
    network = FakeNetwork(Still(), (8, 8))
    layers = {"layers": ["still", "lively"], "other_layers": ["still", "lively"], "channel_layers": ["lively"]}
    cams = {"cam_layer": "lively", "other_cam_layer": "lively"}
    found = compared(network, network, [image((8, 8), seed) for seed in range(5)], **layers, **cams)
    assert [one["cka"] for one in found.facts["layers"]] == [None, 1.0]
    assert found.facts["figures"]["cka.min"] is None


def test_an_answer_that_is_not_finite_is_told() -> None:
    broken = tiny(0)
    with torch.no_grad():
        broken.module[6].weight.fill_(math.inf)  # type: ignore[index]
    with pytest.raises(MethodError, match="finite"):
        compared(tiny(0), broken, IMAGES[:4])
