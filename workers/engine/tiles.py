"""How many states an iterative group steps together: fixed and padded for `exact`; `fast` learns it (`fast_tiles`).

`exact` promises the same bits alone, in company and after a resume, and a convolution's bits depend on the batch's
shape. So a group's tile is chosen once, before its first step, and never by load: the forced one, the checkpoint's, 1
on a CPU, else the largest that still pays in a measurement, which is remembered on disk so that it stays the same.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch

from workers.contract import Grant, IterativeMethod, MethodError
from workers.engine.fast_tiles import FastTiles
from workers.engine.memory import is_out_of_memory, release_memory
from workers.engine.reports import device_name
from workers.engine.runs import Run
from workers.engine_config import EngineConfig

log = logging.getLogger(__name__)

FIRST_FAST_ROWS = 8
CANDIDATES = (2, 4, 8, 16, 32, 64)
WORTH = 0.9
"""A larger tile is taken when a row costs at most this share of what it cost in the smaller one."""


class Tiles:
    """Chooses and remembers tiles.

    Args:
        config: a forced tile, the slice, the folder to remember in.
        device: decides whether to measure.
    """

    def __init__(self, config: EngineConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._path = Path(config.state_folder) / "tiles.json" if config.state_folder else None
        self.fast = FastTiles(config.slice_s, 1 if device.type == "cpu" else FIRST_FAST_ROWS)
        self._known: dict[str, int] = _read(self._path)
        self._most: dict[Hashable, int] = {}

    def known(self, key: Hashable) -> int | None:
        """The tile of an `exact` group, if nothing has to be measured for it."""
        chosen = self._config.tile or (1 if self._device.type == "cpu" else self._known.get(self._name(key)))
        return min(chosen, self._most.get(key, chosen)) if chosen else None

    def limit(self, key: Hashable, rows: int) -> None:
        """Memory allows no larger tile for this group, as long as this engine lives."""
        self._most[key] = rows

    def measure(self, key: Hashable, run: Run, states: Sequence[Any], grant: Grant) -> int:
        """Step clones of a state in growing tiles and remember the largest that pays."""
        assert isinstance(run.method, IterativeMethod)
        method, best = run.method, 1
        cost = self._seconds(method, run, clones(run, states[0], 1, grant), grant)
        for rows in CANDIDATES:
            if rows * run.row_bytes > grant.memory_bytes:
                break
            try:
                seconds = self._seconds(method, run, clones(run, states[0], rows, grant), grant)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                release_memory(error)
                break
            if seconds > self._config.slice_s or seconds / rows > WORTH * cost:
                break
            best, cost = rows, seconds / rows
        log.info("a tile was measured", extra={"key": str(key), "tile": best, "row_ms": 1000 * cost})
        self._known[self._name(key)] = best
        self._write()
        return best

    def _seconds(self, method: IterativeMethod[Any, Any], run: Run, states: list[Any], grant: Grant) -> float:
        """The quicker of two steps after one to warm up."""
        taken = []
        for _ in range(3):
            self._wait()
            began = time.perf_counter()
            errors = method.step(run.network, states, grant)
            self._wait()
            taken.append(time.perf_counter() - began)
            failed = next((error for error in errors if isinstance(error, MethodError)), None)
            if failed is not None:
                raise failed
        return min(taken[1:])

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _name(self, key: Hashable) -> str:
        return f"{device_name(self._device)}|torch {torch.__version__}|{key!r}"

    def _write(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps({**_read(self._path), **self._known}, indent=1, sort_keys=True))
        unfinished.replace(self._path)


def clones(run: Run, state: Any, count: int, grant: Grant) -> list[Any]:
    """Copies of one state, made as a resume makes them, to measure with and to pad tiles with."""
    method = run.method
    assert isinstance(method, IterativeMethod)
    make: Callable[[], list[Any]] = lambda: method.load(run.network, run.row, method.save([state]), grant)  # noqa: E731
    made: list[Any] = []
    while len(made) < count:
        made.extend(make())
    return made[:count]


def _read(path: Path | None) -> dict[str, int]:
    try:
        found = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return {str(name): int(rows) for name, rows in found.items()} if isinstance(found, dict) else {}
