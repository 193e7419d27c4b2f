"""maximize: what it finds on networks whose answer is known, and what it says about it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import overload

import pytest
import torch
from torch import nn

from tests.workers.fakes import FakeNetwork, image, traces
from tests.workers.methods.ascents import (
    GRANT,
    channel,
    climb,
    finished,
    outcome,
    request,
    started,
    step,
    tiny,
)
from workers.contract import MethodError, params
from workers.methods.maximize import METHOD
from workers.methods.maximize.ascent import PATIENCE
from workers.methods.maximize.optimizers import blur
from workers.methods.maximize.parameterizations import parameterization_of, to_bytes
from workers.methods.maximize.recipes import read_recipe
from workers.networks.build import load


def linear(weight: torch.Tensor) -> FakeNetwork:
    """One convolution over the whole 8×8 picture: a linear unit for each row of `weight` (units × 192)."""
    module = nn.Sequential(nn.Conv2d(3, len(weight), 8))
    with torch.no_grad():
        module[0].weight.copy_(weight.view(-1, 3, 8, 8))
        module[0].bias.zero_()
    return FakeNetwork(module, (8, 8))


def test_a_linear_units_picture_is_its_weights() -> None:
    weight = torch.randn(2, 192, generator=torch.Generator().manual_seed(0))
    asked = request("pixel", size=[8, 8], optimizer="ascent", learning_rate=50.0, objective=[channel(1, "0")])
    network = linear(weight)
    row, states = started(network, asked)
    before = states[0].parameters.clone()
    climb(network, states)
    moved = (states[0].parameters - before).flatten()
    assert float(torch.cosine_similarity(moved, weight[1], dim=0)) >= 0.9999
    # Four steps of 50 bytes along w/255, by hand.
    torch.testing.assert_close(moved, weight[1] * 4 * 50.0 / 255, rtol=1e-4, atol=1e-4)
    assert finished(network, row, states).facts["pictures"][0]["rank"] == 1


def test_a_negative_weight_minimizes() -> None:
    weight = torch.randn(2, 192, generator=torch.Generator().manual_seed(0))
    objective = {"sum": [{"weight": -1.0, "of": channel(0, "0")}]}
    asked = request("pixel", size=[8, 8], objective=[objective], optimizer="ascent", learning_rate=50.0)
    found = outcome(linear(weight), asked)
    means = found.arrays["channel_means"]
    assert found.facts["pictures"][0]["loss_last"] > found.facts["pictures"][0]["loss_first"]
    assert found.facts["pictures"][0]["value"] == pytest.approx(-float(means[0, 0]), rel=1e-5)


@pytest.mark.parametrize("preset", ["pixel", "flashtorch", "yosinski", "lucid", "maco"])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_every_preset_climbs_every_kind_and_says_so_in_json(preset: str, precision: str) -> None:
    objectives = [
        {"class": 2},
        channel(1),
        channel(2, "2", "max"),
        channel(2, "2", "center"),
        {"unit": {"layer": "2", "channel": 3, "y": 2, "x": 2}},
        {"layer": "3"},
        {"layer": "2", "direction": [1.0, -1, 0, 0, 0, 0, 0, 2], "cosine_power": 1.0},
        {"sum": [{"weight": 1.0, "of": channel(0, "2")}, {"weight": -0.5, "of": {"class": 1}}]},
    ]
    asked = request(preset, objective=objectives, precision=precision, steps=6)
    network = tiny()
    before = traces(network.module)
    found = outcome(network, asked, rows=3)
    told = found.facts["pictures"]
    json.dumps(found.facts, allow_nan=False)
    assert found.arrays["images"].shape == (8, 32, 32, 3)
    assert found.arrays["images"].dtype == torch.uint8
    assert found.arrays["loss"].shape == (8, 6)
    assert [one["kind"] for one in told] == [
        "class", "channel", "channel", "channel", "unit", "layer", "direction", "sum",
    ]  # fmt: skip
    assert all(math.isfinite(one["value"]) for one in told)
    if preset not in ("maco", "yosinski"):  # six steps of those are too few to say
        risen = [one["loss_last"] > one["loss_first"] for one in told]
        assert sum(risen) >= 6, told
    assert traces(network.module) == before


def test_the_check_is_of_the_final_bytes() -> None:
    network = tiny()
    found = outcome(network, request(objective=[channel(3)], steps=12))
    told = found.facts["pictures"][0]
    pixels = found.arrays["images"][0].permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        means = network.module[:4](network.normalize(pixels)).mean((2, 3))[0]
    torch.testing.assert_close(found.arrays["channel_means"][0], means)
    assert told["value"] == pytest.approx(float(means[3]), rel=1e-6)
    assert told["rank"] == 1 + int((means > means[3]).sum())
    assert told["channels"] == 8
    assert told["image_id"] is None


def test_pictures_are_compared_with_photographs() -> None:
    photographs = [image(seed=seed) for seed in range(5)]
    network = tiny()
    found = outcome(network, request(objective=[channel(3, "2")], steps=20), photographs)
    told = found.facts["pictures"][0]
    inputs, _ = network.prepare(photographs)
    with torch.no_grad():
        values = network.module[:3](inputs)[:, 3].mean((1, 2))
    assert told["percentile"] == 100.0 * float((values < told["value"]).float().mean())
    assert told["reference_max"] == pytest.approx(float(values.max()), rel=1e-5)
    assert found.facts["references"] == 5


class Photographs(Sequence[torch.Tensor]):
    """A set on a disk: remembers how many were read at once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[torch.Tensor]: ...

    def __getitem__(self, index: int | slice) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(index, int):
            self.read.append(1)
            return torch.full((32, 32, 3), index, dtype=torch.uint8)
        places = range(self._count)[index]
        self.read.append(len(places))
        return [torch.full((32, 32, 3), place, dtype=torch.uint8) for place in places]


@pytest.mark.parametrize("start", ["noise", "image"])
def test_a_set_of_photographs_is_never_in_memory_as_a_whole(start: str) -> None:
    photographs = Photographs(120)
    found = outcome(tiny(), request("pixel", start=start), photographs)
    assert sum(photographs.read) == 120 and max(photographs.read) <= 32
    assert found.facts["references"] == (120 if start == "noise" else 119)


def test_a_class_is_ranked_among_logits() -> None:
    found = outcome(tiny(), request("pixel", objective=[{"class": 7}], steps=20))
    assert found.arrays["channel_means"].shape == (1, 10)
    assert found.facts["pictures"][0]["rank"] == 1


def test_same_seed_same_bytes_and_another_seed_another_picture() -> None:
    network = tiny()
    first, again = (outcome(network, request(seed=3)) for _ in range(2))
    assert torch.equal(first.arrays["images"], again.arrays["images"])
    assert torch.equal(first.arrays["loss"], again.arrays["loss"])
    assert not torch.equal(first.arrays["images"], outcome(network, request(seed=4)).arrays["images"])


def test_a_channels_picture_does_not_depend_on_its_place_in_the_list() -> None:
    network = tiny()
    together = outcome(network, request(objective=[channel(1), channel(2), channel(2)])).arrays["images"]
    alone = outcome(network, request(objective=[channel(2)])).arrays["images"]
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[2], alone[0]), "the second copy of an objective starts elsewhere"


def dead_channel(bias: float) -> FakeNetwork:
    """Channel 0 of the ReLU6 is far below 0 everywhere (or far above 6); channel 1 lives."""
    network = tiny()
    with torch.no_grad():
        network.module[2].bias[0] = bias
        network.module[2].weight[0] *= 0.5
    return network


def test_a_dead_start_is_rescued_by_the_redirected_gradient() -> None:
    network = dead_channel(-1.5)
    asked = request("pixel", steps=40, learning_rate=8.0)
    told = outcome(network, asked).facts["pictures"][0]
    assert told["loss_first"] == 0.0
    assert not told["dead"]
    assert told["value"] > 0
    left = outcome(network, asked | {"redirect_steps": 0}).facts["pictures"][0]
    assert left["dead"]
    assert left["stopped_by"] == "dead"
    assert left["steps"] == PATIENCE


@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_what_stays_dead_is_told_and_its_picture_withheld(bias: float) -> None:
    found = outcome(dead_channel(bias), request("pixel", objective=[channel(0), channel(1)], steps=60))
    told = found.facts["pictures"]
    assert [one["dead"] for one in told] == [True, False]
    assert told[0]["stopped_by"] == "dead"
    assert not found.arrays["images"][0].any()
    assert found.arrays["images"][1].any()
    assert bool(found.arrays["loss"][0, told[0]["steps"] :].isnan().all())


def test_a_saturated_unit_is_no_dead_one() -> None:
    network = tiny()
    with torch.no_grad():
        network.module[2].weight[0] *= 50
    told = outcome(network, request("pixel", steps=200, learning_rate=20.0)).facts["pictures"][0]
    assert told["stopped_by"] == "saturated"
    assert not told["dead"]
    assert told["value"] == pytest.approx(6.0, abs=0.5)


def test_an_image_that_saturates_its_objective_already_is_no_dead_one() -> None:
    """ReLU6 ends at 6: nothing can grow, and the image is as good as can be."""
    asked = request("pixel", objective=[channel(0)], steps=40, start="image")
    found = outcome(dead_channel(1e4), asked, [image((32, 32), seed=5)])
    (told,) = found.facts["pictures"]
    assert (told["dead"], told["stopped_by"], told["loss_last"]) == (False, "saturated", 6.0)
    assert found.arrays["images"].any()


def test_what_an_image_had_and_lost_is_dead() -> None:
    state = started(tiny(), request("pixel", objective=[channel(0)], start="image"), [image((32, 32))])[1][0]
    state.losses, state.stopped_by = [0.5, 0.0, 0.0], "dead"
    assert state.dead


def test_two_tiny_steps_that_come_to_the_same_number_are_not_dead() -> None:
    asked = request("pixel", objective=[channel(1)], steps=2, learning_rate=1e-12)
    (told,) = outcome(tiny(), asked).facts["pictures"]
    assert told["loss_first"] == told["loss_last"] > 0 and not told["dead"]


def test_the_tutorials_recipe_rises_and_stops_row_by_row() -> None:
    network = tiny()
    free = outcome(network, request("pixel", objective=[channel(c, "2") for c in range(8)], steps=30))
    losses = free.arrays["loss"]
    assert bool((losses.diff(dim=1) > 0).all()), "every live channel's loss rises at every step"
    limit = float(losses[:, 10].median())
    stopped = outcome(network, request("pixel", objective=[channel(c, "2") for c in range(8)], steps=30, stop_at=limit))
    for row, told in zip(losses, stopped.facts["pictures"], strict=True):
        first = next((k for k, loss in enumerate(row.tolist()) if loss >= limit), None)
        assert told["steps"] == (30 if first is None else first + 1)
        assert told["stopped_by"] == ("steps" if first is None else "stop_at")
    assert len({told["steps"] for told in stopped.facts["pictures"]}) > 3


def test_yosinskis_step_in_the_order_of_his_toolbox() -> None:
    network = tiny()
    asked = request("yosinski", steps=5, learning_rate=1e4, decay=0.1, blur_every=2, objective=[channel(1, "2")])
    _, (state,) = started(network, asked)
    ours = state.parameters.clone()
    for number in range(5):
        pixels = ours.clone().requires_grad_()
        maps = network.module[:3](network.normalize(pixels[None] / 255))
        (slopes,) = torch.autograd.grad(maps[0, 1].mean(), pixels)
        ours = 127.5 + (ours + 1e4 * slopes - 127.5) * 0.9
        if number % 2 == 0:
            ours = blur(ours / 255, 1.0) * 255
        ours = ours.clamp(0, 255)
        assert step(network, [state]) == [None]
        torch.testing.assert_close(state.parameters, ours, rtol=1e-4, atol=1e-2)
    assert state.losses[-1] > state.losses[0]


def test_the_picture_is_the_mean_of_the_last_steps_but_of_a_row_that_reached_its_threshold() -> None:
    network = tiny()
    asked = request(objective=[channel(1, "2")], steps=9, average=0.5)  # of 9 steps the last 4
    _, (state,) = started(network, asked)
    passed = []
    while not METHOD.done(state):
        step(network, [state])
        passed.append(state.parameters)
        assert torch.equal(state.shown, state.parameters) == (len(passed) <= 6), "the first of a mean is the mean"
    mean = torch.stack(passed[-4:]).mean(0)
    torch.testing.assert_close(state.shown, mean)
    whole = outcome(network, asked)
    decoded = parameterization_of(state.recipe).decode(mean[None])
    torch.testing.assert_close(whole.arrays["images"].float(), to_bytes(decoded).float(), rtol=0, atol=1)
    last = outcome(network, asked | {"average": 0.0}).arrays
    assert torch.equal(last["loss"], whole.arrays["loss"]), "the way is the same"
    assert not torch.equal(last["images"], whole.arrays["images"])

    limit = float(whole.arrays["loss"][0, 7])
    reached = outcome(network, asked | {"stop_at": limit})
    unaveraged = outcome(network, asked | {"stop_at": limit, "average": 0.0})
    assert reached.facts["pictures"][0]["stopped_by"] == "stop_at"
    assert torch.equal(reached.arrays["images"], unaveraged.arrays["images"])


def test_what_an_older_service_resolved_and_an_older_worker_saved_goes_on() -> None:
    network = tiny()
    asked = request(objective=[channel(1, "2")], steps=8, average=0.5)
    older = {name: value for name, value in asked.items() if name != "average"}
    assert read_recipe(params(older), network).average == 0.0
    assert METHOD.room(network, params(older))[1] < METHOD.room(network, params(asked))[1]
    row, (state,) = started(network, asked)
    for _ in range(6):
        step(network, [state])
    saved = {name: tensor for name, tensor in METHOD.save([state]).items() if name not in ("mean", "averaged")}
    (resumed,) = METHOD.load(network, row, saved, GRANT)
    passed = []
    while not METHOD.done(resumed):
        step(network, [resumed])
        passed.append(resumed.parameters)
    torch.testing.assert_close(resumed.shown, torch.stack(passed).mean(0))


def test_from_a_picture() -> None:
    photograph = image((48, 32), seed=5)
    asked = request(start="image", learning_rate=1e-6, steps=1)
    found = outcome(tiny(), asked, [photograph, image(seed=6)])
    expected = photograph[8:40].float()  # the largest centred square
    torch.testing.assert_close(found.arrays["images"][0].float(), expected, rtol=0, atol=2)
    assert found.facts["references"] == 1
    dream = outcome(tiny(), asked | {"objective": [{"layer": "2"}], "learning_rate": 0.05, "steps": 20}, [photograph])
    assert dream.facts["pictures"][0]["loss_last"] > dream.facts["pictures"][0]["loss_first"]


def test_top_channels_are_ranked_on_the_start_picture() -> None:
    network, photograph = tiny(), image(seed=7)
    asked = request(start="image", objective=None, layer="2", channels="top:3", steps=1)
    found = outcome(network, asked, [photograph])
    with torch.no_grad():
        means = network.module[:3](network.prepare([photograph])[0]).mean((2, 3))[0]
    assert [one["channel"] for one in found.facts["pictures"]] == means.argsort(descending=True)[:3].tolist()


def test_diversity_pushes_pictures_apart() -> None:
    def likeness_at_the_end(weight: float) -> float:
        network = tiny()
        asked = request("pixel", objective=[channel(1, "2")] * 3, steps=25, diversity=weight)
        _, states = started(network, asked | {"diversity": max(weight, 1e-9)})
        climb(network, states)
        grams = [state.grams[max(state.grams)] for state in states]
        return float(sum((grams[a] * grams[b]).sum() for a in range(3) for b in range(a)) / 3)

    assert likeness_at_the_end(30.0) < likeness_at_the_end(0.0) - 0.05


def test_a_large_network_sees_one_view_a_slice_and_a_small_one_four() -> None:
    asked = params(request("maco", size=[224, 224]))
    assert asked.crops == 32
    views = {name: read_recipe(asked, load(name)).views_per_slice for name in ("vgg16-random", "efficientnet_lite0")}
    assert views == {"vgg16-random": 1, "efficientnet_lite0": 4}


def test_macos_views_add_up_over_slices() -> None:
    """Eight views in two slices of four are one step along the mean of eight."""
    network = tiny()
    asked = request("maco", size=[48, 48], crops=8, steps=2, objective=[channel(1, "2")])
    _, (state,) = started(network, asked)
    before = state.parameters.clone()
    assert step(network, [state]) == [None]
    assert state.view == 4
    assert torch.equal(state.parameters, before)
    assert step(network, [state]) == [None]
    assert (state.step, state.view) == (1, 0)
    assert not torch.equal(state.parameters, before)
    assert state.alpha is not None
    assert bool((state.alpha >= 0).all())
    found = outcome(network, asked)
    assert found.arrays["alpha"].shape == (1, 48, 48)


def test_a_row_that_goes_wrong_fails_alone() -> None:
    network = tiny()
    _, good = started(network, request())
    _, bad = started(network, request(seed=1))
    _, unit = started(network, request(objective=[{"unit": {"layer": "3", "channel": 0, "y": 99, "x": 0}}]))
    bad[0].parameters[0, 0, 0, 0] = math.nan
    kept = bad[0].parameters.clone()
    errors = step(network, [*good, *bad, *unit])
    assert errors[0] is None
    assert isinstance(errors[1], MethodError)
    assert errors[1].problem == "numerical-error"
    assert isinstance(errors[2], MethodError)
    assert errors[2].problem == "invalid-request"
    assert good[0].step == 1
    assert bad[0].step == 0
    torch.testing.assert_close(bad[0].parameters, kept, equal_nan=True)


def test_an_exception_leaves_the_rows_as_they_were() -> None:
    network = tiny()
    _, states = started(network, request())
    before = METHOD.save(states)
    layers = network.module[2].forward
    network.module[2].forward = lambda x: (_ for _ in ()).throw(torch.OutOfMemoryError("none left"))
    with pytest.raises(torch.OutOfMemoryError):
        step(network, states)
    network.module[2].forward = layers
    for name, tensor in METHOD.save(states).items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), name


def test_progress_and_previews() -> None:
    network = tiny()
    _, states = started(network, request(objective=[channel(c) for c in range(3)]))
    step(network, states[:2])
    said = METHOD.progress(states, True)
    assert said.done == pytest.approx(2 / 3)
    assert said.total == 4
    mean = sum(state.losses[-1] for state in states[:2]) / 2
    assert said.message == f"3 of 3 pictures moving, mean objective {mean:.4g}"
    assert list(said.losses) == [states[0].losses[-1], states[1].losses[-1], None]
    assert len(METHOD.progress(states * 6, False).losses) == 16  # as many as a preview shows
    assert said.preview is not None
    assert said.preview.shape == (64, 64, 3)
    assert said.preview.dtype == torch.uint8
    for state in states:
        state.stopped_by = "steps"
    assert METHOD.progress(states, False).message == f"all 3 pictures done, mean objective {mean:.4g}"
    assert METHOD.progress(states, False).preview is None


def test_the_forward_stops_at_the_deepest_layer_needed() -> None:
    network = tiny()
    called = []
    handle = network.module[6].register_forward_hook(lambda *_: called.append(1))
    _, states = started(network, request())
    step(network, states)
    handle.remove()
    assert called == []


def test_group_keys_tell_what_may_share_a_tile() -> None:
    network = tiny()

    def key(**changes: object) -> object:
        row, _ = started(network, request(**changes))
        return METHOD.group_key(network, row.request)

    assert key() == key(seed=9, objective=[channel(5)], stop_at=3.0, steps=9)
    assert len({key(), key(objective=[channel(0, "2")]), key(size=[24, 24]), key(learning_rate=0.1)}) == 4
    assert GRANT.memory_bytes > 0
