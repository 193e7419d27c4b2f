"""When a step is recorded for replaying, when it is let go, and that nobody keeps what the next replay overwrites.

The device is the CPU with a maker whose memory behaves as a graph's (`tests.workers.replaying`); what only a GPU can
show is in `tests/gpu`.
"""

from __future__ import annotations

import gc
import logging
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.workers.methods.ascents import METHOD, channel, request, started, step, tiny
from tests.workers.replaying import StaticBuffers
from workers.contract import Outputs
from workers.engine.memory import release_memory
from workers.networks.build import load
from workers.passes import replay
from workers.passes.replay import COMES_BACK, GRAPHS_KEPT, LONGEST_S, MOST_BYTES, Function, Replays, replay_bytes
from workers.passes.scores import OUTPUT


def double(inputs: Tensor) -> tuple[Tensor, ...]:
    return (2.0 * inputs,)


def come(replays: Replays, times: int, rows: int = 1, key: str = "key") -> Tensor:
    """A shape that comes back so many times; the last output."""
    for _ in range(times):
        (found,) = replays.run(double, torch.ones(rows, 3, requires_grad=True), key)
    return found.clone()


def test_a_shape_is_recorded_once_it_has_come_back_and_then_replayed() -> None:
    buffers = StaticBuffers()
    replays = Replays(buffers.maker())
    come(replays, COMES_BACK - 1)
    assert not buffers.shapes and replays.nbytes == 0
    come(replays, 1)
    assert buffers.shapes == [(1, 3)] and replays.nbytes == 100
    measured = buffers.replays
    assert torch.equal(come(replays, 5), torch.full((1, 3), 2.0))
    assert buffers.replays == measured + 5 and buffers.shapes == [(1, 3)]


def test_each_shape_and_each_set_of_layers_counts_for_itself() -> None:
    buffers = StaticBuffers()
    replays = Replays(buffers.maker())
    for rows, key in ((1, "a"), (2, "a"), (1, "b")):
        come(replays, COMES_BACK - 1, rows, key)
    assert not buffers.shapes
    come(replays, 1, 2, "a")
    assert buffers.shapes == [(2, 3)]


@pytest.mark.parametrize(
    ("buffers", "recorded"),
    [
        (StaticBuffers(0.01, 0.0095), 1),
        (StaticBuffers(0.01, 0.02), 1),
        (StaticBuffers(1.01 * LONGEST_S), 0),
    ],
    ids=["hardly quicker", "slower", "long anyway"],
)
def test_what_does_not_pay_is_never_tried_again(buffers: StaticBuffers, recorded: int) -> None:
    replays = Replays(buffers.maker())
    come(replays, 2 * COMES_BACK)
    tried = buffers.replays
    assert torch.equal(come(replays, 5 * COMES_BACK), torch.full((1, 3), 2.0))
    assert len(buffers.shapes) == recorded and replays.nbytes == 0
    assert buffers.replays == tried


def test_what_was_too_large_is_tried_again_ever_less_often() -> None:
    """A network that another thread loaded meanwhile may have been taken for the graph's memory."""
    buffers = StaticBuffers(nbytes=MOST_BYTES + 1)
    replays = Replays(buffers.maker())
    for tried in (1, 2, 3):
        come(replays, 2 ** (tried - 1) * COMES_BACK - 1)
        assert len(buffers.shapes) == tried - 1
        come(replays, 1)
        assert len(buffers.shapes) == tried
    assert replays.nbytes == 0


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted when stream is capturing"), AssertionError()])
def test_what_cannot_be_recorded_goes_on_without_and_says_so_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    buffers = StaticBuffers(error=error)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(come(Replays(buffers.maker()), 5 * COMES_BACK), torch.full((1, 3), 2.0))
    assert [record.getMessage() for record in caplog.records] == ["a step cannot be replayed"]
    assert len(buffers.shapes) == 1


def test_what_was_recorded_of_one_input_alone_is_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    """As a graph that nothing was recorded in, or of a network that decides by its numbers what it does."""

    def frozen(function: Function, inputs: Tensor) -> tuple[Function, int]:
        (found,) = function(inputs.detach())
        return lambda given: (found + 0.0 * given,), 100

    replays = Replays(replace(StaticBuffers().maker(), record=frozen))
    with caplog.at_level(logging.WARNING):
        for number in range(COMES_BACK + 2):
            inputs = torch.arange(3.0)[None] + number
            (found,) = replays.run(double, inputs.requires_grad_(), "key")
            assert torch.equal(found, 2.0 * inputs)
    assert "not what they were recorded from" in str(vars(caplog.records[-1])) and replays.nbytes == 0


def test_a_device_with_more_memory_keeps_larger_graphs() -> None:
    roomy = replace(StaticBuffers(nbytes=2 * MOST_BYTES).maker(), most_bytes=lambda _: 2 * MOST_BYTES)
    replays = Replays(roomy)
    come(replays, COMES_BACK)
    assert replays.nbytes == 2 * MOST_BYTES


def test_the_least_recently_used_goes_and_has_to_come_back_more_often() -> None:
    buffers = StaticBuffers()
    replays = Replays(buffers.maker())
    for rows in range(1, GRAPHS_KEPT + 2):
        buffers._cost = buffers._plain_s  # each shape is measured without a graph first
        come(replays, COMES_BACK, rows)
    assert [shape[0] for shape in buffers.shapes] == list(range(1, GRAPHS_KEPT + 2))
    assert replays.nbytes == 100 * GRAPHS_KEPT
    buffers._cost = buffers._plain_s
    come(replays, 2 * COMES_BACK - 1, 1)
    assert len(buffers.shapes) == GRAPHS_KEPT + 1
    come(replays, 1, 1)
    assert buffers.shapes[-1] == (1, 3) and replays.nbytes == 100 * GRAPHS_KEPT


# In an ascent.

OBJECTIVES: dict[str, dict[str, Any]] = {
    "a channel": {"objective": [channel(1, "2")] * 2},
    "its centre": {"objective": [channel(1, "2", "center")] * 2},
    "a class and a layer": {"objective": [{"class": 2}, {"layer": "2"}]},
    "diversity": {"objective": [channel(1, "2")] * 3, "diversity": 0.5},
}


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> StaticBuffers:
    made = StaticBuffers()
    monkeypatch.setitem(replay.MAKERS, "cpu", made.maker())
    return made


def climbed(asked: dict[str, Any], network: Any, buffers: StaticBuffers | None = None) -> dict[str, Tensor]:
    """Everything that a job's states have after their last step; buffers are overwritten after each."""
    _, states = started(network, asked)
    while not all(METHOD.done(state) for state in states):
        assert not any(step(network, states))
        if buffers is not None:
            buffers.overwrite()
    return METHOD.save(states)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("preset", ["pixel", "lucid", "maco"])
def test_a_replayed_ascent_is_the_plain_one_and_keeps_nothing_that_is_overwritten(
    name: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"crops": 8, "size": [40, 40]} if preset == "maco" else {}
    asked = request(preset, precision="fast", steps=COMES_BACK + 6, **extra, **OBJECTIVES[name])
    expected = climbed(asked, tiny())
    made = StaticBuffers()
    monkeypatch.setitem(replay.MAKERS, "cpu", made.maker())
    found = climbed(asked, tiny(), made)
    assert made.replays > 6
    for name, tensor in expected.items():
        assert torch.equal(found[name].nan_to_num(), tensor.nan_to_num()), name


def test_exact_is_never_replayed(buffers: StaticBuffers) -> None:
    climbed(request("pixel", objective=[channel(1, "2")], steps=3 * COMES_BACK), tiny())
    assert not buffers.shapes


def test_redirected_gradients_are_not_replayed(buffers: StaticBuffers) -> None:
    """The second look of a silent start has gradients of its own, which a graph of the plain ones would lose."""
    network = tiny()
    with torch.no_grad():
        network.module[2].bias.sub_(100.0)  # nothing is active, and a redirected gradient alone moves the picture
    asked = request("pixel", objective=[channel(1, "3")] * 2, steps=COMES_BACK + 4, precision="fast")
    found = climbed(asked, network, buffers)
    assert buffers.replays > 4
    assert float(found["first"].abs().amax()) > 0


def test_a_device_without_a_maker_computes_as_ever() -> None:
    module = tiny().module
    inputs = torch.rand(1, 3, 32, 32, requires_grad=True)
    for _ in range(2 * COMES_BACK):
        seen = replay.replayed_activations(module, inputs, ["3", OUTPUT], Outputs(count=10))
    assert list(seen) == ["3", OUTPUT] and seen[OUTPUT].shape == (1, 10)
    assert replay_bytes(module) == 0


def test_no_memory_left_drops_the_graphs_of_every_network(buffers: StaticBuffers) -> None:
    networks = [tiny(), tiny(1)]
    asked = request("pixel", objective=[channel(1, "2")], steps=COMES_BACK + 2, precision="fast")
    for network in networks:
        buffers._cost = buffers._plain_s
        climbed(asked, network)
    assert [replay_bytes(network.module) for network in networks] == [100, 100]
    release_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert [replay_bytes(network.module) for network in networks] == [0, 0]
    climbed(asked, networks[0], buffers)  # and it goes on
    assert len(buffers.shapes) == 2


def test_graphs_count_as_the_networks_memory_and_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        """What a graph holds."""

        def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
            return (torch.zeros(1, 8, 2, 2) + inputs.sum(),)

    held, buffers = Held(), StaticBuffers(nbytes=12345)
    gone = weakref.ref(held)
    monkeypatch.setattr(buffers, "_replayed", lambda function, inputs, held=held: held)
    monkeypatch.setitem(replay.MAKERS, "cpu", buffers.maker())
    monkeypatch.setattr(replay, "_check", lambda *ignored: None)
    network = load("squeezenet1_1-random")
    lean = network.lean_module(True)
    before = network.nbytes
    assert isinstance(lean, nn.Module)
    for _ in range(COMES_BACK):
        replay.replayed_activations(
            lean, torch.rand(1, 3, 64, 64, requires_grad=True), ["features.3.squeeze"], network.outputs
        )
    assert network.nbytes == before + 12345
    monkeypatch.undo()
    del held, buffers, lean, network
    gc.collect()
    assert gone() is None
