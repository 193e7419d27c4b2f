"""Ascents of the real network in the engine's loop: whoever joins, leaves or is sent again, each ends as if alone.

Eight `lucid` jobs of 64 steps and a ninth that is cancelled. Three come later; two are dropped in the middle with a
checkpoint and sent again, one of them twice, before and after its picture begins to be averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workers.engine.test_loop import Bench
from tests.workers.methods.ascents import channel, request
from workers.engine.fast_tiles import FastTiles
from workers.engine.loader import NetworkCatalogue, NetworkSource
from workers.engine.loop import Engine
from workers.engine.registry import find_methods
from workers.methods.maximize.method import Maximize
from workers.networks import Networks
from workers.wire import Frame

MODEL = "efficientnet_lite0"
STEPS = 64
CHANNELS = (3, 0, 17, 8, 21, 30, 12, 39)
CLASSES = (281, 1, 817, 963, 417, 88, 980, 323)
LAYER: list[dict[str, Any]] = [
    request(objective=[channel(number, "blocks.2")], seed=seed, steps=STEPS, size=[64, 64])
    for seed, number in enumerate(CHANNELS)
]
LOGITS: list[dict[str, Any]] = [
    request(objective=[{"class": number}], seed=seed, steps=STEPS, size=[32, 32]) for seed, number in enumerate(CLASSES)
]
"""Half the side, and three solo runs: these go through the whole network, at four times the time."""
JOIN, CANCEL, DROP, AGAIN = 10, 16, 20, 32
"""Steps of the first job at which others join, one is cancelled, two are dropped, and are sent again."""
EARLY, LATE, UNTROUBLED = 1, 6, 4
"""The jobs that are dropped, one of the first and one of those that join; and one that is not."""


class Ascents(Bench):
    """An engine with the real `maximize` and the real network."""

    def __init__(self, networks: NetworkCatalogue, tile: int = 0) -> None:
        # The slice is long, so that no `fast` tile is halved by a machine that stands still.
        # And no checkpoint is made but where a test asks for one.
        super().__init__(
            methods="workers.methods", default_model=MODEL, tile=tile, slice_s=60.0, preview_s=0.5, checkpoint_s=3600.0
        )
        self.engine.close()
        source = NetworkSource(networks, "code", {})
        methods = find_methods(self.config.methods)
        self.engine = Engine(self.config, torch.device("cpu"), source, methods, self.said)  # type: ignore[arg-type]
        # A `fast` group begins with all its rows in one step, whatever is quickest here: that is what is looked at.
        self.engine._tiles.fast = FastTiles(self.config.slice_s, first=len(LAYER))

    def ascend(self, asked: dict[str, Any], checkpoint: bytes | None = None) -> str:
        return self.send("maximize", images=0, checkpoint=checkpoint, model=MODEL, **asked)

    def reach(self, run: str, step: int) -> None:
        """Go on until the run has made so many steps."""
        self.until(lambda: run in self.engine._runs and self.engine._runs[run].steps >= step)

    def drop(self, run: str) -> tuple[bytes, int]:
        """Save a run and send it away, as for others that need its room; its checkpoint and where that stands."""
        self.engine.inbox.put(Frame({"type": "save", "run": run}))
        self.cancel(run)
        self.until(lambda: self.of(run, "dropped"))
        (taken,) = self.of(run, "checkpoint")
        assert 0 < taken.header["step"] < STEPS
        return bytes(taken.blobs[0]), taken.header["step"]

    def resume(self, asked: dict[str, Any], checkpoint: bytes, step: int) -> str:
        """Send a dropped run again; it stands where it was dropped."""
        run = self.ascend(asked, checkpoint)
        self.until(lambda: run in self.engine._runs and self.engine._runs[run].states)
        assert self.engine._runs[run].steps == step and not self.of(run, "refused-checkpoint")
        return run

    def found(self, run: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The picture and its losses."""
        arrays = self.arrays(run)
        assert arrays["images"].shape[0] == 1 and arrays["loss"].shape == (1, STEPS)
        return arrays["images"][0], arrays["loss"][0]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """The network is loaded once; every engine of this file computes with it."""
    folder: Path = tmp_path_factory.mktemp("weights")
    loaded = Networks(weights_folder=folder, default_model=MODEL)
    loaded.get(MODEL)
    return loaded


@pytest.fixture(autouse=True)
def _close_benches() -> Iterator[None]:
    yield
    while Bench.made:
        Bench.made.pop().engine.close()


@pytest.fixture
def company(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each step of `maximize`: its rows, and how many different jobs these are of."""
    seen: list[tuple[int, int]] = []
    step = Maximize.step

    def counted(self: Maximize, network: Any, states: Sequence[Any], grant: Any) -> Any:
        seen.append((len(states), len({state.seed for state in states})))
        return step(self, network, states, grant)

    monkeypatch.setattr(Maximize, "step", counted)
    return seen


def alone(
    networks: Networks, asked: dict[str, Any], tile: int = 0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What a job finds in an engine of its own."""
    bench = Ascents(networks, tile)
    return bench.found(bench.ascend(asked))


def together(bench: Ascents, jobs: Sequence[dict[str, Any]]) -> list[str]:
    """All jobs in one engine, with what may befall them; under which names they end."""
    runs = [bench.ascend(asked) for asked in jobs[:5]]
    gone = bench.ascend({**jobs[2], "seed": 99})
    bench.reach(runs[0], JOIN)
    runs += [bench.ascend(asked) for asked in jobs[5:]]
    bench.reach(runs[0], CANCEL)
    bench.cancel(gone)
    bench.until(lambda: bench.of(gone, "dropped"))
    bench.reach(runs[0], DROP)
    kept = {number: bench.drop(runs[number]) for number in (EARLY, LATE)}
    bench.reach(runs[0], AGAIN)
    for number, taken in kept.items():
        runs[number] = bench.resume(jobs[number], *taken)
    bench.reach(runs[EARLY], 3 * STEPS // 4)
    runs[EARLY] = bench.resume(jobs[EARLY], *bench.drop(runs[EARLY]))
    for run in runs:
        bench.end(run)
    assert not bench.of(gone, "result") and not bench.of(gone, "failed")
    assert len(bench.of(gone, "progress")) > 1, "it was under way"
    return runs


@pytest.mark.parametrize(
    ("jobs", "tile"), [(LAYER, 1), (LAYER, 4), (LOGITS, 4)], ids=["layer-1", "layer-4", "logits-4"]
)
def test_eight_exact_ascents_are_bitwise_their_solo_runs_whatever_befalls_them(
    networks: Networks, company: list[tuple[int, int]], jobs: list[dict[str, Any]], tile: int
) -> None:
    bench = Ascents(networks, tile)
    runs = together(bench, jobs)
    assert {rows for rows, _ in company} == {tile} and max(different for _, different in company) == tile
    assert len({bench.found(run)[0].tobytes() for run in runs}) == len(jobs)
    for number, (run, asked) in enumerate(zip(runs, jobs, strict=True)):
        image, loss = bench.found(run)
        assert loss[-1] > loss[0] and np.isfinite(loss).all()
        assert bench.end(run).header["provenance"]["tile"] == tile
        if jobs is LAYER or number in (EARLY, LATE, UNTROUBLED):
            solo_image, solo_loss = alone(networks, asked, tile)
            assert np.array_equal(image, solo_image) and np.array_equal(loss, solo_loss), asked["objective"]


def test_eight_fast_ascents_end_within_five_percent_of_their_solo_runs_whatever_befalls_them(
    networks: Networks, company: list[tuple[int, int]]
) -> None:
    jobs = [asked | {"precision": "fast"} for asked in LAYER]
    bench = Ascents(networks)
    runs = together(bench, jobs)
    assert max(different for _, different in company) >= 4
    for run, asked in zip(runs, jobs, strict=True):
        _, loss = bench.found(run)
        _, solo = alone(networks, asked)
        assert float(loss[-1]) == pytest.approx(float(solo[-1]), rel=0.05), asked["objective"]
        assert loss[-1] > loss[0]
