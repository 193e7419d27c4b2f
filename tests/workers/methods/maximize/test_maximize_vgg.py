"""The tutorials' recipe on VGG16: the loss of live channels rises at every step, and rows stop one by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workers.methods.ascents import channel, outcome, request
from workers.networks.build import LoadedNetwork, load

CHANNELS, STEPS = 6, 20


@pytest.fixture(scope="module")
def vgg16() -> Iterator[LoadedNetwork]:
    yield load("vgg16-random")


@pytest.mark.parametrize("layer", ["block1_conv1", "conv1_1", "block2_conv1", "conv3_1"])
def test_the_tutorials_recipe_rises_at_every_step_and_rows_stop_one_by_one(vgg16: LoadedNetwork, layer: str) -> None:
    """Keras's names stand for the map after the ReLU, the paper's for the convolution's output."""
    name = next(each.name for each in vgg16.layers.values() if layer in (each.name, *each.aliases))
    asked = request("pixel", objective=[channel(c, name) for c in range(CHANNELS)], steps=STEPS, size=[32, 32])
    losses = outcome(vgg16, asked, rows=CHANNELS).arrays["loss"].tolist()
    moving = []
    for row in losses:  # a channel that is dead at the start stands at 0 until its redirected gradient wakes it
        awake = next((k for k, loss in enumerate(row) if loss != 0), STEPS)
        assert all(later > earlier for earlier, later in zip(row[awake:], row[awake + 1 :], strict=False)), row
        moving.append(awake == 0)
    assert sum(moving) >= CHANNELS // 2
    limit = sorted(row[STEPS // 2] for row in losses)[CHANNELS // 2]
    stopped = outcome(vgg16, asked | {"stop_at": limit}, rows=CHANNELS).facts["pictures"]
    for row, told in zip(losses, stopped, strict=True):
        first = next((k for k, loss in enumerate(row) if loss >= limit), None)
        assert told["steps"] == (STEPS if first is None else first + 1)
        assert told["stopped_by"] == ("steps" if first is None else "stop_at")
    assert len({told["steps"] for told in stopped}) > 1, "others go on when one has stopped"
