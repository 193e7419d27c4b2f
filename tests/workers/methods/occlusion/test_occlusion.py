"""occlusion against loops written out, by hand, and its shortcut against the whole network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from torch import Tensor, nn

from tests.workers.fakes import FakeNetwork, digit, finish, image, outcome, traces
from tests.workers.methods.occlusion.test_incremental import pooled_net
from workers.contract import Grant, MethodError, Row
from workers.methods.occlusion import METHOD
from workers.methods.occlusion.incremental import Tape
from workers.methods.occlusion.recording import NoTape
from workers.networks.build import load

UNIT = {"layer": "0", "channel": None, "y": None, "x": None}
DEFAULTS = {
    "window": [6, 6], "stride": [3, 3], "fill": "mean", "target": "predicted", "incremental": False,
    "precision": "exact", "preprocess": None, "seed": 0,
}  # fmt: skip


def row(picture: Tensor, unit: dict[str, Any] | None = None, **wanted: Any) -> Row:
    """A row with defaults."""
    request = {**DEFAULTS, **wanted, "unit": SimpleNamespace(**{**UNIT, **(unit or {})})}
    return Row(SimpleNamespace(**request), [picture])


@pytest.mark.parametrize("incremental", [False, True])
@pytest.mark.parametrize(
    ("window", "stride", "fill"), [((6, 6), (3, 3), "grey"), ((5, 9), (4, 7), "mean"), ((40, 40), (1, 1), "black")]
)
def test_three_maps_against_a_loop_written_out(window: Any, stride: Any, fill: str, incremental: bool) -> None:
    network = FakeNetwork(pooled_net(), (29, 34), mean=(0.4, 0.5, 0.3), std=(0.2, 0.2, 0.3))
    picture = image((29, 34), 3)
    wanted = row(
        picture,
        {"layer": "9", "channel": 2},
        window=window,
        stride=stride,
        fill=fill,
        target=1,
        incremental=incremental,
    )
    found = outcome(METHOD, network, wanted)
    x, _ = network.prepare([picture])
    colour = {"mean": torch.zeros(3), "grey": network.normalize(torch.full((1, 3, 1, 1), 0.5))[0, :, 0, 0]}
    colour["black"] = network.normalize(torch.zeros(1, 3, 1, 1))[0, :, 0, 0]
    height, width = min(window[0], 29), min(window[1], 34)
    rows, columns = range(0, 29 - height + 1, stride[0]), range(0, 34 - width + 1, stride[1])
    assert found.arrays["probability"].shape == (1, len(rows), len(columns))
    assert found.arrays["top_class"].dtype == torch.int32
    for i, upper in enumerate(rows):
        for j, left in enumerate(columns):
            hidden = x.clone()
            hidden[0, :, upper : upper + height, left : left + width] = colour[fill][:, None, None]
            with torch.no_grad():
                scores, maps = network.module(hidden), network.module[:10](hidden)
            assert float(found.arrays["probability"][0, i, j]) == pytest.approx(
                float(scores.softmax(1)[0, 1]), rel=1e-4
            )
            assert float(found.arrays["activation"][0, i, j]) == pytest.approx(
                float(maps[0, 2].sum()), rel=1e-4, abs=1e-5
            )
            assert int(found.arrays["top_class"][0, i, j]) == int(scores.argmax())
    lowest = found.facts["lowest_probability"]
    assert lowest["value"] == float(found.arrays["probability"].min())
    assert float(found.arrays["probability"][0, lowest["row"], lowest["column"]]) == lowest["value"]
    assert lowest["box"][:2] == [lowest["row"] * stride[0], lowest["column"] * stride[1]]
    assert found.facts["incremental"] is incremental


class Linear(nn.Module):
    """Logits (w · x, 0)."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 1, tuple(weights.shape[1:]), bias=False)
        with torch.no_grad():
            self.body.weight.copy_(weights[None])

    def forward(self, x: Tensor) -> Tensor:
        value = self.body(x).flatten(1)
        return torch.cat([value, torch.zeros_like(value)], 1)


def test_linear_network_by_formula() -> None:
    """The score falls by the sum of w · (x − fill) under the square."""
    weights = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(2)) * 0.1
    network = FakeNetwork(Linear(weights), (12, 12))
    picture = image((12, 12))
    found = outcome(
        METHOD, network, row(picture, {"layer": "body", "channel": 0}, window=(4, 4), stride=(2, 2), target=0)
    )
    x, _ = network.prepare([picture])
    change = (x[0] * weights).sum(0)
    for i in range(5):
        for j in range(5):
            fall = float(change[2 * i : 2 * i + 4, 2 * j : 2 * j + 4].sum())
            expected = found.facts["baseline"]["activation"] - fall
            assert float(found.arrays["activation"][0, i, j]) == pytest.approx(expected, rel=1e-5, abs=1e-5)
            logit = torch.tensor([expected, 0.0])
            assert float(found.arrays["probability"][0, i, j]) == pytest.approx(float(logit.softmax(0)[0]), rel=1e-4)


@pytest.mark.parametrize("incremental", [False, True])
def test_a_square_of_the_images_own_colour_changes_nothing(incremental: bool) -> None:
    network = FakeNetwork(pooled_net(), (28, 28))
    picture = torch.full((28, 28, 3), 255, dtype=torch.uint8)
    found = outcome(METHOD, network, row(picture, {"layer": "4"}, fill="white", incremental=incremental))
    baseline = found.facts["baseline"]
    torch.testing.assert_close(
        found.arrays["probability"], torch.full_like(found.arrays["probability"], baseline["probability"])
    )
    torch.testing.assert_close(
        found.arrays["activation"], torch.full_like(found.arrays["activation"], baseline["activation"])
    )
    assert found.facts["top_classes"].keys() == {str(baseline["top_class"])}


@pytest.mark.parametrize("incremental", [False, True])
def test_a_square_outside_the_receptive_field_of_a_unit_changes_nothing(incremental: bool) -> None:
    network = FakeNetwork(pooled_net(), (28, 28))
    unit = {"layer": "4", "channel": 3, "y": 1, "x": 2}
    box = network.layers["4"].box
    assert box is not None
    top, left, bottom, right = box.of(1, 2, 28, 28)
    found = outcome(METHOD, network, row(image((28, 28)), unit, window=(4, 4), stride=(4, 4), incremental=incremental))
    values = found.arrays["activation"][0]
    rows = torch.tensor([4 * i < bottom and 4 * i + 4 > top for i in range(7)])
    columns = torch.tensor([4 * j < right and 4 * j + 4 > left for j in range(7)])
    touched = rows[:, None] & columns[None]
    touched[6, 6] = True  # alone in the last batch, where sums may be rounded otherwise
    outside = values[~touched]
    assert bool((outside == outside[0]).all())
    assert float(outside[0]) == pytest.approx(found.facts["baseline"]["activation"], rel=1e-6)
    assert bool((values[touched] != outside[0]).any())


class Odd(nn.Module):
    """Does something that no rule of the shortcut covers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(self.body(x)).abs().mean((2, 3))


def test_a_network_with_an_unknown_operation_is_run_whole() -> None:
    module = Odd()
    with pytest.raises(NoTape):
        Tape(module, torch.randn(1, 3, 16, 16))
    network = FakeNetwork(module, (16, 16))
    found = outcome(METHOD, network, row(image((16, 16)), {"layer": "body"}, incremental=True))
    assert found.facts["incremental"] is False
    plain = outcome(METHOD, network, row(image((16, 16)), {"layer": "body"}))
    assert torch.equal(found.arrays["probability"], plain.arrays["probability"])


def test_peer_agrees_where_windows_do_not_overlap() -> None:
    network = FakeNetwork(pooled_net(), (28, 28))
    picture = image((28, 28), 8)
    found = outcome(METHOD, network, row(picture, window=(7, 7), stride=(7, 7), target=2, incremental=True))
    x, _ = network.prepare([picture])
    peer = CaptumOcclusion(lambda x: network.module(x).softmax(1))
    theirs = peer.attribute(x, sliding_window_shapes=(3, 7, 7), strides=(3, 7, 7), target=2)
    fall = found.facts["baseline"]["probability"] - found.arrays["probability"][0]
    torch.testing.assert_close(fall, theirs[0, 0, ::7, ::7].float(), rtol=1e-3, atol=1e-6)


def test_unit_and_target_choices() -> None:
    network = FakeNetwork(pooled_net(), (28, 28), classes=["a", "b", "c", "d"])
    picture = image((28, 28), 8)
    x, _ = network.prepare([picture])
    with torch.no_grad():
        scores, maps = network.module(x), network.module[:10](x)
    found = outcome(METHOD, network, row(picture, {"layer": "9"}))
    assert found.facts["target"] == int(scores.argmax())
    assert found.facts["target_name"] == "abcd"[int(scores.argmax())]
    assert found.facts["unit"]["channel"] == int(maps[0].sum((1, 2)).argmax())
    assert found.facts["baseline"]["activation"] == pytest.approx(float(maps[0].sum((1, 2)).max()), rel=1e-5)
    assert found.facts["baseline"]["probability"] == pytest.approx(float(scores.softmax(1).max()), rel=1e-5)


@pytest.mark.parametrize("incremental", [False, True])
def test_chunks_progress_cancel_and_no_trace(incremental: bool) -> None:
    network = FakeNetwork(pooled_net(), (28, 28))
    before = traces(network.module)
    wanted = row(image((28, 28)), {"layer": "9"}, incremental=incremental)
    many, said = finish(METHOD.run(network, [wanted], Grant()))
    assert [one.total for one in said] == [64.0] * len(said)
    assert said[-1].done == 64
    single, ones = finish(METHOD.run(network, [wanted], Grant(memory_bytes=1)))
    assert len(ones) == 64
    assert not isinstance(many[0], MethodError)
    assert not isinstance(single[0], MethodError)
    for name in ("probability", "activation"):
        torch.testing.assert_close(many[0].arrays[name], single[0].arrays[name], rtol=1e-5, atol=1e-6)
    work = METHOD.run(network, [wanted], Grant())
    next(work)
    work.close()
    with pytest.raises(KeyError):
        outcome(METHOD, network, row(image((28, 28)), {"layer": "nowhere"}))
    assert traces(network.module) == before


def test_numbers_that_are_not_finite_are_an_error() -> None:
    module = pooled_net()
    with torch.no_grad():
        module[-1].bias.fill_(float("nan"))
    with pytest.raises(MethodError) as refusal:
        outcome(METHOD, FakeNetwork(module, (28, 28)), row(image((28, 28)), target=0))
    assert refusal.value.problem == "numerical-error"


def test_hiding_the_stroke_of_a_digit_lowers_its_class_more_than_hiding_the_background() -> None:
    network = load("digits")
    better = 0
    for label in range(10):
        picture = digit(label, 3)
        wanted = row(
            picture,
            {"layer": "features.12"},
            window=(6, 6),
            stride=(2, 2),
            fill="black",
            target=label,
            incremental=True,
        )
        found = outcome(METHOD, network, wanted)
        assert found.facts["incremental"] is True
        fall = found.facts["baseline"]["probability"] - found.arrays["probability"][0]
        x, _ = network.prepare([picture])
        ink = (x[0, 0] > 0).float().unfold(0, 6, 2).unfold(1, 6, 2).mean((2, 3))
        assert ink.shape == fall.shape
        better += float(fall[ink > 0.4].mean()) > float(fall[ink == 0].abs().mean())
    assert better >= 9
