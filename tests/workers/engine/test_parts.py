"""Small parts of the engine: the registry, checkpoints, memory, the outbox, the choice of tiles."""

from __future__ import annotations

import ctypes
import json
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.workers.engine.networks import Small
from workers.contract import Grant, IterativeMethod, OneShotMethod, Row, params
from workers.engine import checkpoints, outbox
from workers.engine.checkpoints import CheckpointError
from workers.engine.memory import Meter, estimate_row_bytes, is_out_of_memory
from workers.engine.outbox import Outbox
from workers.engine.registry import find_methods
from workers.engine.runs import Run
from workers.engine.tiles import Tiles
from workers.engine_config import EngineConfig
from workers.wire import Channel

MIB = 1024**2


def test_the_registry_finds_methods_by_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = find_methods("tests.workers.engine.dummies")
    assert isinstance(found["sums"], OneShotMethod) and isinstance(found["climb"], IterativeMethod)
    package = tmp_path / "thrown_away"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "two_words.py").write_text("from tests.workers.engine.dummies.sums import METHOD\n")
    (package / "helper.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(find_methods("thrown_away")) == ["two-words"]
    (package / "wrong.py").write_text("METHOD = 'a word'\n")
    with pytest.raises(TypeError, match=r"thrown_away\.wrong\.METHOD is a str"):
        find_methods("thrown_away")
    sys.modules.pop("thrown_away", None)


def test_the_configuration_survives_json():
    config = EngineConfig(device="cpu", tile=4, catalogue="x.toml")
    assert EngineConfig(**json.loads(json.dumps(config.json()))) == config


# Checkpoints.

REQUEST = {"layer": "a", "steps": 3}
DIGEST = checkpoints.request_digest("maximize", REQUEST)


def packed() -> bytes:
    shared = torch.arange(6.0)
    return checkpoints.pack(
        {"x": shared, "same memory": shared.view(2, 3), "n": torch.tensor(7)}, digest=DIGEST, step=5, tile=4
    )


def test_a_checkpoint_comes_back_whole():
    found = checkpoints.unpack(packed(), digest=DIGEST)
    assert (found.step, found.tile) == (5, 4) and checkpoints.tile_of(packed()) == 4
    assert torch.equal(found.tensors["same memory"], torch.arange(6.0).view(2, 3)) and int(found.tensors["n"]) == 7


def test_checkpoints_are_safetensors_of_every_kind_and_shape():
    whole = torch.arange(24, dtype=torch.float32)
    tensors = {f"of {kind}": torch.tensor([[0, 1], [2, 3]]).to(kind) for kind in checkpoints.DTYPES}
    tensors |= {
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(2.5),
        "part": whole[3:9],
        "turned": whole.view(4, 6).T,
    }
    tensors |= {"twice": whole, "again": whole}
    data = checkpoints.pack(tensors, digest="d", step=3, tile=2)
    theirs = safetensors.torch.load(data)
    assert theirs.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert theirs[name].dtype == tensor.dtype and torch.equal(theirs[name], tensor), name
    assert checkpoints.unpack(data, digest="d").step == 3 and checkpoints.tile_of(data) == 2


def test_a_checkpoint_of_another_request_or_schema_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CheckpointError, match="another"):
        checkpoints.unpack(packed(), digest=checkpoints.request_digest("maximize", {**REQUEST, "steps": 4}))
    old = packed()
    monkeypatch.setattr(checkpoints, "SCHEMA", "2")
    with pytest.raises(CheckpointError, match="schema"):
        checkpoints.unpack(old, digest=DIGEST)


@pytest.mark.parametrize("data", [b"", b"x" * 7, b"\xff" * 64, packed()[:-3], packed()[:20], b"\x02\0\0\0\0\0\0\0{}"])
def test_damaged_bytes_are_no_checkpoint(data: bytes):
    with pytest.raises(CheckpointError):
        checkpoints.unpack(data, digest=DIGEST)


def test_the_tile_of_damaged_bytes_is_unknown():
    assert checkpoints.tile_of(b"\xff" * 64) is None and checkpoints.tile_of(b"") is None


# Memory.


def test_an_estimate_counts_every_activation_forward_and_backward():
    network = Small("small")
    assert estimate_row_bytes(network) == 2 * 4 * (64 + 16)
    assert estimate_row_bytes(network, pixels=64) == 4 * 2 * 4 * (64 + 16)


def test_a_meter_measures_the_peak_of_a_slice():
    meter = Meter(torch.device("cpu"))
    assert meter.row_bytes("k", 123) == 123
    # What earlier tests freed may still be the process's own, and a block that fits into it would measure nothing.
    ctypes.CDLL(None).malloc_trim(0)
    meter.begin()
    block = torch.ones(128 * MIB // 4)
    del block
    meter.end("k", rows=2)
    assert 50 * MIB < meter.row_bytes("k", 123) < 200 * MIB


def test_failed_allocations_are_known_whatever_raises_them():
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60)
    assert is_out_of_memory(failed.value)
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    for said in (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
    ):
        assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(RuntimeError("shapes do not match")) and not is_out_of_memory(ValueError("memory"))


# The outbox.


def test_the_outbox_holds_a_slow_reader_s_frames_up_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outbox, "WAITING_BYTES", 3 * MIB)
    left, right = socket.socketpair()
    box, reader = Outbox(Channel(left)), Channel(right)
    said = []

    def speak() -> None:
        for number in range(12):
            box.say("blob", (bytes(MIB),), number=number)
            said.append(number)

    speaker = threading.Thread(target=speak)
    speaker.start()
    end = time.monotonic() + 20
    while len(said) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert 3 <= len(said) <= 6
    assert [reader.receive().header["number"] for _ in range(12)] == list(range(12))  # type: ignore[union-attr]
    speaker.join()
    assert box.flush(10.0)
    reader.close()


# Tiles.


class Costs(IterativeMethod):
    """An iterative method whose step takes as long as it is told, by a clock of its own, and fits so many rows."""

    now = 0.0

    def __init__(self, seconds: Any, most: int = 1000) -> None:
        self.seconds, self.most, self.sizes = seconds, most, []

    def step(self, network: Any, states: Any, grant: Any) -> Any:
        if len(states) > self.most:
            raise torch.OutOfMemoryError("no")
        self.sizes.append(len(states))
        Costs.now += self.seconds(len(states))
        return [None] * len(states)

    def group_key(self, network: Any, request: Any) -> Any: ...
    def start(self, network: Any, row: Any, grant: Any) -> Any: ...
    def done(self, state: Any) -> bool: ...
    def progress(self, states: Any, preview: bool) -> Any: ...
    def finish(self, network: Any, row: Any, states: Any, grant: Any) -> Any: ...

    def save(self, states: Any) -> Any:
        return {"state": torch.tensor([float(state.x) for state in states])}

    def load(self, network: Any, row: Any, saved: Any, grant: Any) -> Any:
        return [SimpleNamespace(x=float(x)) for x in saved["state"]]


def measured(method: Costs, folder: Path, row_bytes: int = 0, **config: Any) -> tuple[Tiles, int]:
    tiles = Tiles(EngineConfig(state_folder=str(folder), **config), torch.device("meta"))
    run = Run("r", "o", {}, "batch", method, Row(params({})), needs=("small",), networks={"small": Small("small")})
    run.row_bytes = row_bytes
    return tiles, tiles.measure("key", run, [SimpleNamespace(x=1.0)], Grant())


@pytest.fixture(autouse=True)
def _device_and_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.tiles.device_name", lambda device: "a device")
    monkeypatch.setattr("workers.engine.tiles.time", SimpleNamespace(perf_counter=lambda: Costs.now))


def test_a_tile_is_one_on_a_cpu_and_forced_by_the_setting(tmp_path: Path):
    assert Tiles(EngineConfig(), torch.device("cpu")).known("key") == 1
    assert Tiles(EngineConfig(tile=4), torch.device("cpu")).known("key") == 4
    assert Tiles(EngineConfig(), torch.device("meta")).known("key") is None


def test_the_largest_tile_that_pays_is_measured_and_remembered(tmp_path: Path):
    # A step costs the same for up to eight rows, then for every eight rows again.
    tiles, best = measured(Costs(lambda rows: 0.02 * -(-rows // 8)), tmp_path)
    assert best == tiles.known("key") == 8
    assert Tiles(EngineConfig(state_folder=str(tmp_path)), torch.device("meta")).known("key") == 8
    assert Tiles(EngineConfig(state_folder=str(tmp_path)), torch.device("meta")).known("another") is None


def test_a_tile_keeps_within_the_slice_and_the_memory(tmp_path: Path):
    assert measured(Costs(lambda rows: 0.04 * rows**0.5), tmp_path, slice_s=0.1)[1] == 4
    assert measured(Costs(lambda rows: 0.01, most=16), tmp_path)[1] == 16
    half = Grant().memory_bytes // 2
    assert measured(Costs(lambda rows: 0.01), tmp_path, row_bytes=half)[1] == 2
    tiles, _ = measured(Costs(lambda rows: 0.01, most=16), tmp_path)
    tiles.limit("key", 2)
    assert tiles.known("key") == 2


def test_a_damaged_memory_of_tiles_is_forgotten(tmp_path: Path):
    (tmp_path / "tiles.json").write_text("{")
    assert Tiles(EngineConfig(state_folder=str(tmp_path)), torch.device("meta")).known("key") is None
