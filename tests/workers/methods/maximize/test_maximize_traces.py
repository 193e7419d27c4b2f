"""A step of `maximize` that breaks off, and a job that is given up, leave nothing behind in the network."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tests.workers.engine.test_ascents import Ascents
from tests.workers.engine.test_loop import Bench
from tests.workers.fakes import FakeNetwork, image, traces
from tests.workers.methods.ascents import channel, climb, request, started, step, tiny
from workers.contract import Grant, MethodError
from workers.engine.loader import NetworkCatalogue
from workers.methods.maximize import METHOD
from workers.networks.build import load

PRECISIONS = pytest.mark.parametrize("precision", ["exact", "fast"])


class _BreaksBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        raise RuntimeError("the fuse has blown")


class Fuse(nn.Module):
    """Lets so many forward passes through; the next one breaks, there or on its way back."""

    def __init__(self, backward: bool) -> None:
        super().__init__()
        self.backward, self.left = backward, 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left >= 0:
            return x.clone()
        if self.backward:
            return cast(Tensor, _BreaksBackward.apply(x))
        raise RuntimeError("the fuse has blown")


def fused(backward: bool, silent: bool = False) -> tuple[FakeNetwork, Fuse]:
    """Two convolutions with a fuse between them; the ReLU behind the second may be dead, so that a step looks twice."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        fuse = Fuse(backward)
        module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), fuse, nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True))
        with torch.no_grad():
            cast(Tensor, cast(nn.Conv2d, module[3]).bias).sub_(100.0 if silent else 0.0)
    return FakeNetwork(module, (32, 32)), fuse


def left_in(network: Any) -> list[Any]:
    """All that a step could leave behind: in the network, in those that share its weights, and in this thread."""
    modules = [network.module, network.fast_module(), network.lean_module(fast=False), network.lean_module(fast=True)]
    return [
        *(traces(module) for module in modules),
        torch.is_grad_enabled(),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
    ]


def is_clean(network: Any) -> bool:
    """No hook, no training, no gradient: what a network is before anybody has used it."""
    found = traces(network.module)
    untouched = all(not requires_grad and no_grad for *_, requires_grad, no_grad in found["weights"])
    return found["hooks"] == 0 and not any(found["training"]) and untouched


@PRECISIONS
@pytest.mark.parametrize(
    "objective",
    [
        channel(99, "2"),
        channel(99, "3"),
        {"class": 99},
        {"unit": {"layer": "2", "channel": 2, "y": 40, "x": 1}},
        {"layer": "2", "direction": [1.0, 2.0], "cosine_power": 0},
    ],
    ids=["channel", "channel-of-relu", "class", "position", "direction"],
)
def test_an_objective_that_the_network_cannot_have_fails_its_row_and_leaves_nothing(
    precision: str, objective: dict[str, Any]
) -> None:
    """A tile of a row that is refused and, where the layer is the same, one that moves."""
    network = tiny()
    _, (bad,) = started(network, request(objective=[objective], precision=precision))
    before, saved = left_in(network), METHOD.save([bad])
    layer = objective.get("layer") or objective.get("unit", {}).get("layer")
    good_one = {"class": 3} if layer is None else channel(1, layer)
    _, (good,) = started(network, request(objective=[good_one], precision=precision))
    refused, moved = step(network, [bad, good])
    assert isinstance(refused, MethodError) and moved is None and good.step == 1
    assert left_in(network) == before and is_clean(network)
    same(METHOD.save([bad]), saved)


@PRECISIONS
def test_a_layer_that_never_runs_breaks_the_step_and_leaves_nothing(precision: str) -> None:
    network = tiny()
    _, states = started(network, request(objective=[channel(0, "2#2")], precision=precision))
    before, saved = left_in(network), METHOD.save(states)
    with pytest.raises(KeyError, match="never happened"):
        step(network, states)
    assert left_in(network) == before and is_clean(network)
    same(METHOD.save(states), saved)


@PRECISIONS
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("layer", ["3", "4", "4+0", "output"])
@torch.no_grad()
def test_a_network_that_raises_in_the_middle_of_a_step_keeps_nothing_of_it(
    precision: str, backward: bool, layer: str
) -> None:
    """At a convolution (which `fast` computes in the channels wanted), behind it, at two layers, and at the end.

    Gradients stay off for the caller.
    """
    network, fuse = fused(backward)
    wanted: dict[str, Any] = channel(1, layer)
    if layer == "4+0":
        wanted = {"sum": [{"weight": 1.0, "of": channel(1, "4")}, {"weight": 0.5, "of": channel(0, "0")}]}
    elif layer == "output":
        wanted = {"class": 7}
    _, states = started(network, request(objective=[wanted, wanted], precision=precision))
    before = left_in(network)
    assert step(network, states) == [None, None]
    saved, fuse.left = METHOD.save(states), 0
    with pytest.raises(RuntimeError, match="the fuse has blown"):
        step(network, states)
    assert left_in(network) == before and is_clean(network)
    same(METHOD.save(states), saved)
    fuse.left = 10**9
    assert step(network, states) == [None, None] and states[0].step == 2


@PRECISIONS
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_network_that_raises_while_gradients_are_redirected_keeps_nothing_of_it(
    precision: str, backward: bool
) -> None:
    network, fuse = fused(backward, silent=True)
    _, states = started(network, request(objective=[channel(1, "4")], precision=precision))
    before, saved = left_in(network), METHOD.save(states)
    fuse.left = 1  # the plain look goes through and finds no gradient; the second, redirected one breaks
    with pytest.raises(RuntimeError, match="the fuse has blown"):
        step(network, states)
    assert fuse.left == -1
    assert left_in(network) == before and is_clean(network)
    same(METHOD.save(states), saved)


def test_a_job_that_is_given_up_while_it_begins_or_ends_leaves_nothing() -> None:
    """Both take many slices; here each slice is over at once, and the job is closed in every one of them."""
    network: Any = tiny()
    hurried, photograph = Grant(slice_s=0.0), image((32, 32))
    ranked = request(objective=None, layer="3", channels="top:4", start="image", steps=2)
    row, states = started(network, ranked, [photograph] * 3)
    before = left_in(network)
    begun = closed_after_each_slice(lambda: METHOD.start(network, row, hurried), lambda: left_in(network))
    climb(network, states)
    ended = closed_after_each_slice(lambda: METHOD.finish(network, row, states, hurried), lambda: left_in(network))
    assert len(begun) >= 4 and len(ended) >= 4
    assert all(found == before for found in [*begun, *ended]) and is_clean(network)


def closed_after_each_slice(make: Callable[[], Any], look: Callable[[], list[Any]]) -> list[list[Any]]:
    """What there is to see each time that a job is closed: after its first slice, after its second, and so on."""
    seen: list[list[Any]] = []
    while True:
        slices: Generator[Any, None, Any] = make()
        try:
            for _ in range(len(seen) + 1):
                next(slices)
        except StopIteration:
            return seen
        slices.close()
        seen.append(look())


class Held:
    """A catalogue of one network, which is in memory whatever it is called."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def held(self, model: str) -> Any:
        return self._network

    get = held


def engine_of(network: Any) -> Ascents:
    """An engine that computes with that network."""
    return Ascents(cast(NetworkCatalogue, Held(network)))


@pytest.fixture(autouse=True)
def _close_benches() -> Iterator[None]:
    yield
    while Bench.made:
        Bench.made.pop().engine.close()


@pytest.fixture(scope="module")
def lite0() -> Any:
    return load("efficientnet_lite0")


@PRECISIONS
@pytest.mark.parametrize("how", ["cancelled", "late", "closed", "refused"])
def test_a_real_job_that_is_given_up_in_the_middle_leaves_nothing_in_the_real_network(
    lite0: Any, precision: str, how: str
) -> None:
    asked = request(objective=[channel(3, "blocks.2")], steps=10_000, size=[64, 64], precision=precision)
    before = left_in(lite0)
    bench = engine_of(lite0)
    run = bench.ascend(asked | ({"deadline_s": 1.0} if how == "late" else {}))
    if how != "late":
        bench.reach(run, 3)
    if how == "cancelled":
        bench.cancel(run)
        bench.until(lambda: bench.of(run, "dropped"))
    elif how == "late":
        assert bench.problem(run) == "deadline-exceeded" and bench.of(run, "progress")
    elif how == "closed":
        bench.engine.close()
    else:
        other = bench.ascend(asked | {"objective": [channel(999, "blocks.2")]})
        assert bench.problem(other) == "channel-out-of-range"
        bench.reach(run, bench.engine._runs[run].steps + 2)
        bench.cancel(run)
        bench.until(lambda: bench.of(run, "dropped"))
    assert not bench.engine._runs
    assert left_in(lite0) == before and is_clean(lite0)


@PRECISIONS
def test_a_job_whose_network_raises_fails_and_leaves_nothing_in_it(precision: str) -> None:
    network, fuse = fused(backward=False)
    before = left_in(network)
    bench = engine_of(network)
    asked = request(objective=[channel(1, "4")], steps=10_000, precision=precision)
    runs = [bench.ascend(asked | {"seed": seed}) for seed in range(3)]
    bench.reach(runs[2], 2)
    fuse.left = 0
    assert [bench.problem(run) for run in runs] == ["internal-error"] * 3
    assert not bench.engine._runs
    assert left_in(network) == before and is_clean(network)


def same(mine: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """A row stands where it stood."""
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name].nan_to_num(), other[name].nan_to_num()) for name in other)
