"""What must hold on any device, as classes that a test module gives a device: the pretended one, or a real GPU.

A module that subclasses them has the fixtures `device`, `closeness` (how near the CPU's numbers are to be) and
`recorded` (the shapes of steps that are recorded for replaying, on a device where every recording is kept).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.methods import ascents, cases
from tests.workers.methods.ascents import channel
from workers.contract import Grant, MethodError, Network
from workers.engine.loader import NetworkSource
from workers.engine.loop import Engine
from workers.engine.memory import Meter, is_out_of_memory, release_memory
from workers.engine.runs import Run
from workers.engine.tiles import CANDIDATES, Tiles
from workers.engine_config import EngineConfig
from workers.methods.maximize.method import METHOD, Maximize
from workers.passes.replay import COMES_BACK, replay_bytes
from workers.wire import Frame

MIB = 1024**2
TILE = 4


@dataclass(frozen=True)
class Closeness:
    """Relative differences from the CPU: of what is computed once, and of ascents, which enlarge every rounding.

    `flips` as for `assert_agree`.
    """

    once: float
    climbed: float
    flips: float


class Methods:
    """Every method gives what it gives on the CPU."""

    @pytest.mark.parametrize("name", cases.CASES)
    def test_a_method_gives_the_same(self, name: str, device: torch.device, closeness: Closeness) -> None:
        case = cases.CASES[name]
        cases.assert_agree(cases.run(case, device), cases.run(case, "cpu"), closeness.once, closeness.flips)

    @pytest.mark.parametrize("name", cases.ASCENTS)
    def test_an_ascent_makes_the_same_pictures(self, name: str, device: torch.device, closeness: Closeness) -> None:
        case = cases.ASCENTS[name]
        cases.assert_agree(cases.ascend(case, device), cases.ascend(case, "cpu"), closeness.climbed, closeness.flips)

    @pytest.mark.parametrize("name", cases.RESUMED)
    def test_an_ascent_goes_on_from_its_checkpoint(self, name: str, device: torch.device, closeness: Closeness) -> None:
        case = cases.ASCENTS[name]
        found = cases.ascend(case, device, resumed_after=1)
        cases.assert_agree(found, cases.ascend(case, "cpu"), closeness.climbed, closeness.flips)

    @pytest.mark.parametrize("name", cases.LOADED)
    def test_a_network_of_the_catalogue_answers_the_same(
        self, name: str, device: torch.device, closeness: Closeness
    ) -> None:
        found, expected = (cases.run(cases.LOADED[name], where, cases.from_catalogue) for where in (device, "cpu"))
        cases.assert_agree(found, expected, closeness.once, closeness.flips)

    def test_a_network_of_the_catalogue_is_climbed(self, device: torch.device, closeness: Closeness) -> None:
        found, expected = (cases.ascend(cases.LOADED_ASCENT, where, cases.from_catalogue) for where in (device, "cpu"))
        cases.assert_agree(found, expected, closeness.climbed, closeness.flips)

    def test_fast_copies_agree_with_the_network(self, device: torch.device) -> None:
        case = cases.LOADED["whole"]
        fast = replace(case, request={**case.request, "precision": "fast"})
        logits = [
            cases.run(one, where, cases.from_catalogue).arrays["logits"]
            for one, where in ((fast, device), (case, "cpu"))
        ]
        assert torch.corrcoef(torch.cat(logits))[0, 1] > 0.999
        climbed = replace(cases.LOADED_ASCENT, changes={**cases.LOADED_ASCENT.changes, "precision": "fast"})
        found = cases.ascend(climbed, device, cases.from_catalogue)
        expected = cases.ascend(cases.LOADED_ASCENT, "cpu", cases.from_catalogue)
        torch.testing.assert_close(found.arrays["loss"], expected.arrays["loss"], rtol=0.05, atol=0.0)


class Exact:
    """What `exact` promises."""

    def test_no_digits_are_dropped(self, device: torch.device) -> None:
        """TF32 has ten bits behind the point: it would make one of what has its last in the twelfth."""
        fine = 1.0 + 2.0**-12
        numbers = torch.full((64, 64), fine, device=device)
        assert torch.equal(numbers @ torch.eye(64, device=device), numbers)
        kernel = torch.zeros(16, 16, 3, 3, device=device)
        kernel[range(16), range(16), 1, 1] = 1.0
        maps = torch.full((2, 16, 8, 8), fine, device=device)
        # A convolution by transforms rounds in the last digits; TF32 would err by 2e-4.
        torch.testing.assert_close(torch.nn.functional.conv2d(maps, kernel, padding=1), maps, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("preset", "extra"), [("pixel", {}), ("lucid", {}), ("maco", {"crops": 2})])
    def test_rows_in_a_tile_are_bitwise_their_solo_runs(
        self, preset: str, extra: dict[str, Any], device: torch.device
    ) -> None:
        used = cases.network(device)
        changes = {"size": list(cases.SIZE), "steps": 5} | extra
        asked = [
            ascents.request(preset, objective=[channel(number, "6")], seed=number, **changes) for number in range(3)
        ]
        alone = [self._climbed(used, [one], late=0)[0] for one in asked]
        for mine, other in zip(self._climbed(used, asked, late=2), alone, strict=True):
            for name, tensor in other.items():
                assert torch.equal(mine[name].nan_to_num(), tensor.nan_to_num()), name

    def _climbed(self, used: Any, asked: Sequence[dict[str, Any]], late: int) -> list[dict[str, torch.Tensor]]:
        """Jobs in one padded tile, as the engine steps them; the last one joins some steps late."""
        jobs = [ascents.started(used, one) for one in asked]
        everybody = [state for _, states in jobs for state in states]
        row = jobs[0][0]
        for turn in range(100):
            here = everybody[:-1] if turn < late else everybody
            tile = [state for state in here if not METHOD.done(state)]
            if not tile:
                return [METHOD.save([state]) for state in everybody]
            while len(tile) < TILE:
                tile += METHOD.load(used, row, METHOD.save(everybody[:1]), ascents.GRANT)[: TILE - len(tile)]
            assert not any(ascents.step(used, tile))
        raise AssertionError("the jobs do not end")


class Replayed:
    """Steps of `fast`, recorded and replayed."""

    @pytest.mark.parametrize("name", ["lucid, fast", "diversity, fast", "maco, from an image, fast"])
    def test_a_replayed_run_reaches_the_plain_ones_loss(
        self, name: str, device: torch.device, recorded: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = cases.ASCENTS[name]
        case = replace(case, changes={**case.changes, "steps": COMES_BACK + 8})
        found = cases.ascend(case, device)
        assert len(recorded) == 1
        monkeypatch.setattr("workers.passes.replay.MAKERS", {})
        expected = cases.ascend(case, device)
        assert len(recorded) == 1
        mine, plain = found.arrays["loss"][:, -1], expected.arrays["loss"][:, -1]
        torch.testing.assert_close(mine, plain, rtol=0.05, atol=0.05 * float(plain.abs().max()))

    def test_exact_is_never_recorded(self, device: torch.device, recorded: list[tuple[int, ...]]) -> None:
        case = cases.ASCENTS["flashtorch"]
        cases.ascend(replace(case, changes={**case.changes, "steps": 2 * COMES_BACK}), device)
        assert not recorded

    def test_no_memory_left_drops_what_was_recorded(
        self, device: torch.device, recorded: list[tuple[int, ...]]
    ) -> None:
        used = cases.network(device)
        case = cases.ASCENTS["flashtorch"]
        asked = {**case.changes, "steps": COMES_BACK + 2, "precision": "fast"}
        cases.ascend(replace(case, changes=asked), device, lambda _: used)
        assert len(recorded) == 1 and replay_bytes(used.module) > 0
        release_memory(torch.OutOfMemoryError("no memory"))
        assert replay_bytes(used.module) == 0
        cases.ascend(replace(case, changes=asked), device, lambda _: used)
        assert len(recorded) == 1


class Stocked:
    """The engine's networks: one, that is there."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def held(self, model: str) -> Any:
        return self._network

    def get(self, model: str) -> Any:
        return self._network


class Hungry(Maximize):
    """`maximize` whose step wants more memory than any device has, for tiles of more than so many rows."""

    def __init__(self, most: int) -> None:
        self._most = most

    def step(self, network: Network, states: Sequence[Any], grant: Grant) -> list[MethodError | None]:
        if len(states) > self._most:
            torch.empty(2**50, dtype=torch.uint8, device=network.device)
        return super().step(network, states, grant)


class Said:
    """An outbox that keeps what is said."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def say(self, kind: str, blobs: Any = (), **header: Any) -> None:
        self.frames.append(Frame({"type": kind, **header}, blobs))


class OnTheEngine:
    """Memory, tiles, and whole jobs in the engine's loop."""

    def test_the_meter_measures_the_peak_of_a_slice(self, device: torch.device) -> None:
        meter = Meter(device)
        ctypes.CDLL(None).malloc_trim(0)  # on the CPU a block that fits into what was freed before measures nothing
        meter.begin()
        block = torch.ones(128 * MIB // 4, device=device)
        del block
        meter.end("k", rows=2)
        assert 50 * MIB < meter.row_bytes("k", 123) < 200 * MIB

    def test_a_failed_allocation_is_known_and_nothing_is_lost(self, device: torch.device) -> None:
        kept = torch.arange(4.0, device=device)
        with pytest.raises(RuntimeError) as failed:
            torch.empty(2**50, dtype=torch.uint8, device=device)
        assert is_out_of_memory(failed.value)
        release_memory(failed.value)
        assert (kept + 1).tolist() == [1.0, 2.0, 3.0, 4.0]

    def test_a_tile_is_measured_and_remembered(self, device: torch.device, tmp_path: Path) -> None:
        config = EngineConfig(state_folder=str(tmp_path), slice_s=0.05)
        used = cases.network(device)
        row, states = ascents.started(
            used, ascents.request("pixel", size=list(cases.SIZE), objective=[channel(1, "6")])
        )
        run = Run("r", "maximize", {}, "batch", METHOD, row, needs=("fake",), networks={"fake": used})
        tile = Tiles(config, device).measure("key", run, states, Grant())
        assert tile in (1, *CANDIDATES)
        assert Tiles(config, device).known("key") == tile
        assert states[0].step == 0

    @pytest.mark.parametrize(("most", "tile"), [(TILE, TILE), (2, 2)], ids=["fits", "is halved"])
    def test_a_job_runs_in_forced_tiles_and_a_tile_without_memory_is_halved(
        self, most: int, tile: int, device: torch.device
    ) -> None:
        request = ascents.request("lucid", size=list(cases.SIZE), objective=[channel(k, "6") for k in range(TILE)])
        frame = self._run(Hungry(most), request, device)
        assert frame.type == "result", frame.header
        assert frame.header["provenance"]["tile"] == tile
        assert [one["stopped_by"] for one in frame.header["facts"]["pictures"]] == ["steps"] * TILE

    def test_a_row_too_large_fails_and_says_so(self, device: torch.device) -> None:
        frame = self._run(Hungry(0), ascents.request(size=list(cases.SIZE), objective=[channel(0, "6")]), device)
        assert frame.type == "failed" and frame.header["problem"] == "out-of-memory"

    def _run(self, method: Maximize, request: dict[str, Any], device: torch.device) -> Frame:
        """One job in an engine of its own; how it ended."""
        network: Any = cases.network(device)
        network.weights_sha256 = "5ha256"
        said, source = Said(), NetworkSource(Stocked(network), "code", {})  # type: ignore[arg-type]
        engine = Engine(EngineConfig(tile=TILE), device, source, {"maximize": method}, said)  # type: ignore[arg-type]
        header = {"type": "run", "run": "r", "operation": "maximize", "lane": "batch", "deadline_s": None}
        header |= {"alone": False, "images": [], "checkpoint": False, "request": {"model": "fake", **request}}
        engine.inbox.put(Frame(header, ()))
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                engine._receive(0.01)
                engine.turn()
                ended = [one for one in said.frames if one.type in ("result", "failed")]
                if ended:
                    return ended[0]
        finally:
            engine.close()
        raise AssertionError(f"it never ended; said: {[one.header for one in said.frames]}")
