"""The strongest units of a set of images: against all activations at once, by hand, saved and resumed, and shown."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convscope.protocol.operations.top_activations import TopActivationsFacts
from tests.workers.fakes import FakeNetwork, image
from tests.workers.methods.ascents import at_once, tiny
from workers.contract import Grant, MethodError, Outcome, Row, params
from workers.methods.deconv import METHOD as DECONV
from workers.methods.top_activations import METHOD

GRANT = Grant()
IMAGES = [image(seed=seed) for seed in range(7)]


def request(**changes: Any) -> dict[str, Any]:
    """A resolved request as JSON."""
    filled: dict[str, Any] = {"layers": ["1", "3"], "channels": "all", "k": 3, "by": "max", "per_image": 1}
    filled |= {"patches": True, "projection": "guided", "preprocess": None, "precision": "exact", "seed": 0}
    return filled | changes


def swept(network: Any, images: Sequence[Tensor], interrupted: bool = False, **changes: Any) -> Outcome:
    """A whole job; `interrupted`, it is saved and loaded between any two slices."""
    row = Row(params(request(**changes)), images)
    states = at_once(METHOD.start(network, row, GRANT))
    grant = Grant(slice_s=0.0) if interrupted else GRANT
    while not METHOD.done(states[0]):
        (error,) = METHOD.step(network, states, grant)
        if error is not None:
            raise error
        if interrupted:
            states = METHOD.load(network, row, METHOD.save(states), GRANT)
    outcome = at_once(METHOD.finish(network, row, states, GRANT))
    assert isinstance(outcome, Outcome)
    TopActivationsFacts.model_validate(outcome.facts)
    return outcome


def all_maps(network: FakeNetwork, layer: str, images: Sequence[Tensor]) -> Tensor:
    """Every activation, N×C×H×W, by running the modules one after the other."""
    with torch.no_grad():
        return network.module[: int(layer) + 1](network.prepare(images)[0])  # type: ignore[index,no-any-return]


@pytest.mark.parametrize("layer", ["1", "3"])
def test_units_are_those_of_a_full_sort(layer: str) -> None:
    network = tiny()
    found = swept(network, IMAGES)
    maps = all_maps(network, layer, IMAGES)
    strongest = maps.flatten(2).max(dim=2)
    order = strongest.values.sort(dim=0, descending=True, stable=True).indices[:3]  # 3×C
    images = found.arrays[f"images/{layer}"]
    assert images.dtype == torch.int64 and images.tolist() == order.T.tolist()
    values, units = found.arrays[f"values/{layer}"], found.arrays[f"units/{layer}"]
    assert values.dtype == torch.float32 and units.dtype == torch.int64
    for channel in range(maps.shape[1]):
        for number in range(3):
            y, x = units[channel, number].tolist()
            one = maps[images[channel, number], channel]
            assert float(values[channel, number]) == pytest.approx(float(one[y, x]), rel=1e-5)
            assert float(one[y, x]) == pytest.approx(float(one.max()), rel=1e-5)


def test_by_hand() -> None:
    """A 1×1 convolution that gives red and minus green: the reddest image comes first; green is never above zero."""
    module = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, 0, 0], [0, -1.0, 0]]).view(2, 3, 1, 1))
    reds = [51, 255, 102]
    images = [torch.full((4, 4, 3), 0, dtype=torch.uint8) for _ in reds]
    for one, red in zip(images, reds, strict=True):
        one[2, 3, 0] = red
    network = FakeNetwork(module, (4, 4))
    found = swept(network, images, layers=["1"], k=2, projection="deconvnet")
    assert found.arrays["values/1"].tolist() == [pytest.approx([1.0, 0.4]), [0.0, 0.0]]
    assert found.arrays["images/1"].tolist() == [[1, 2], [0, 1]]
    assert found.arrays["units/1"][0].tolist() == [[2, 3], [2, 3]]
    facts = found.facts["layers"][0]
    assert (facts["dead_channels"], facts["dead_share"]) == ([1], 0.5)
    assert facts["channels"][0]["active"] == 1.0 and facts["channels"][1]["active"] == 0.0
    assert facts["channels"][0]["mean"] == pytest.approx((0.2 + 1.0 + 0.4) / 3)
    assert facts["channels"][0]["quantiles"]["1"] == pytest.approx(1.0)
    assert found.arrays["patch/1"][0, 0].tolist() == [[[255, 0, 0]]]
    # The unit's value 1 through the transposed kernel: red 1, nothing else.
    assert found.arrays["projection/1"][0, 0].flatten().tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_a_mean_counts_once_an_image_and_shows_the_whole_of_it() -> None:
    network = tiny()
    found = swept(network, IMAGES, layers=["3"], by="mean", projection="none")
    means = all_maps(network, "3", IMAGES).mean((2, 3))
    order = means.sort(dim=0, descending=True, stable=True).indices[:3]
    assert found.arrays["images/3"].tolist() == order.T.tolist()
    assert bool((found.arrays["units/3"] == -1).all())
    assert found.arrays["patch/3"].shape == (8, 3, 32, 32, 3)
    np.testing.assert_array_equal(found.arrays["patch/3"][0, 0], IMAGES[int(order[0, 0])])


def test_interrupted_between_any_two_images_it_has_the_same_bits() -> None:
    whole, resumed = swept(tiny(), IMAGES), swept(tiny(), IMAGES, interrupted=True)
    assert whole.facts == resumed.facts
    assert set(whole.arrays) == set(resumed.arrays)
    for name, array in whole.arrays.items():
        assert torch.equal(array, resumed.arrays[name]), name


def test_fewer_images_than_asked_for_leave_places_empty() -> None:
    found = swept(tiny(), IMAGES[:2], layers=["3"], k=5)
    assert bool(found.arrays["values/3"][:, 2:].isnan().all()) and bool((found.arrays["images/3"][:, 2:] == -1).all())
    assert bool((found.arrays["units/3"][:, 2:] == -1).all())
    assert all(len(channel["best"]) == 2 for channel in found.facts["layers"][0]["channels"])


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_projections_are_those_of_deconv(rule: str) -> None:
    """The strongest unit of an image, projected here, is what `deconv` draws of that image."""
    network = tiny()
    found = swept(network, IMAGES, layers=["3"], channels=[2], k=1, projection=rule)
    place = int(found.arrays["images/3"][0, 0])
    asked = {"layers": ["3"], "channels": [2], "by": "max", "seed_unit": "max", "rule": rule, "switches": "sum"}
    asked |= {"nonstandard_gate": False, "preprocess": None, "precision": "exact"}
    (alone,) = at_once(DECONV.run(network, [Row(params(asked), [IMAGES[place]])], GRANT))
    assert isinstance(alone, Outcome)
    assert torch.equal(found.arrays["projection/3"][0, 0], alone.arrays["patch_projection/3"][0])
    assert torch.equal(found.arrays["patch/3"][0, 0], alone.arrays["patch/3"][0])


def test_images_are_read_one_after_the_other() -> None:
    """A set of any size needs no memory: at most as many images as one forward takes are read at once."""
    network = tiny()

    class Counted(Sequence[Tensor]):
        most = 0

        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: Any) -> Any:
            if isinstance(index, slice):
                chosen = range(40)[index]
                Counted.most = max(Counted.most, len(chosen))
                return [image(seed=number) for number in chosen]
            return image(seed=index)

    found = swept(network, Counted(), layers=["3"])
    assert found.facts["images"] == 40
    assert Counted.most == 1


def test_units_at_another_input_size_are_places_of_its_own_maps() -> None:
    """At 64 px the maps are twice as wide as the layer table says."""
    network = tiny()
    large = [image((64, 64), seed=seed) for seed in range(4)]
    found = swept(network, large, layers=["3"], preprocess={"size": [64, 64]})
    with torch.no_grad():
        maps = network.module[:4](network.prepare(large, params({"size": [64, 64]}))[0])  # type: ignore[index,operator]
    assert maps.shape[3] > network.layers["3"].shape[2]
    for channel in range(8):
        place, (y, x) = int(found.arrays["images/3"][channel, 0]), found.arrays["units/3"][channel, 0].tolist()
        assert float(maps[place, channel, y, x]) == pytest.approx(float(maps[:, channel].max()), rel=1e-5)


def test_an_image_beyond_the_finite_numbers_is_told() -> None:
    network = tiny()
    with torch.no_grad():
        network.module[0].weight.fill_(torch.inf)  # type: ignore[index,union-attr,operator]
    with pytest.raises(MethodError, match="left the finite numbers"):
        swept(network, IMAGES, layers=["1"])


def test_a_checkpoint_of_another_number_of_images_is_refused() -> None:
    network, row = tiny(), Row(params(request()), IMAGES)
    saved = METHOD.save(at_once(METHOD.start(network, row, GRANT)))
    with pytest.raises(ValueError, match="7 images, not 6"):
        METHOD.load(network, Row(params(request()), IMAGES[:6]), saved, GRANT)


def test_progress_counts_images() -> None:
    network, row = tiny(), Row(params(request()), IMAGES)
    states = at_once(METHOD.start(network, row, GRANT))
    METHOD.step(network, states, Grant(slice_s=0.0))
    said = METHOD.progress(states, preview=True)
    assert (said.done, said.total) == (1, 7)


def finish_yields(network: Any, row: Row, states: list[Any]) -> Generator[Any, None, Any]:
    return METHOD.finish(network, row, states, GRANT)


def test_showing_takes_a_slice_an_image() -> None:
    network, row = tiny(), Row(params(request(layers=["3"], k=1)), IMAGES)
    states = at_once(METHOD.start(network, row, GRANT))
    while not METHOD.done(states[0]):
        METHOD.step(network, states, GRANT)
    said = list(finish_yields(network, row, states))
    shown = {int(place) for place in states[0].layers[0].strongest.images.flatten()}
    assert len(said) == len(shown)
