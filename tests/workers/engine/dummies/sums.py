"""A one-shot method: sums the images, and misbehaves as the request says."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch

from workers.contract import Grant, MethodError, Network, OneShotMethod, Outcome, Progress, Result, Row


class Sums(OneShotMethod):
    """`act` of the request: none, refuse, raise, raise-together, oom-above:N, exit, hang, flag:PATH, nan-facts, big."""

    def group_key(self, request: Any) -> Hashable | None:
        return None if getattr(request, "lonely", False) else "sums"

    def models(self, request: Any) -> Sequence[str]:
        return getattr(request, "further", ())

    def run(self, network: Network, rows: Sequence[Row], grant: Grant) -> Generator[Progress, None, list[Result]]:
        slices = max(getattr(row.request, "slices", 0) for row in rows)
        try:
            for row in rows:
                self._act(row, len(rows))
            for index in range(slices):
                _note(rows)
                pause_s = max(getattr(row.request, "slice_s", 0.0) for row in rows)
                if pause_s:  # nothing to wait for where a test has changed the clocks under us
                    time.sleep(pause_s)
                yield Progress(index + 1, slices)
            return [self._result(row, len(rows), network, grant) for row in rows]
        finally:
            for row in rows:
                if getattr(row.request, "closed", None):
                    Path(row.request.closed).touch()

    def _act(self, row: Row, rows: int) -> None:
        act = getattr(row.request, "act", "")
        if act == "raise" or (act == "raise-together" and rows > 1):
            raise RuntimeError("a bug in the method")
        if act.startswith("oom-above:") and rows > int(act.partition(":")[2]):
            raise torch.OutOfMemoryError("no memory for this batch")
        if act == "exit":
            os._exit(139)
        if act == "hang":
            time.sleep(3600)

    def _result(self, row: Row, rows: int, network: Network, grant: Grant) -> Result:
        act = getattr(row.request, "act", "")
        if act == "refuse":
            return MethodError("not-applicable", "The request said so.")
        sums = [float(image.sum()) for image in row.images]
        facts: dict[str, Any] = {"sums": sums, "batch": rows, "network": network.id, "memory": grant.memory_bytes}
        if act == "nan-facts":
            facts["loss"] = float("nan")
        count = 512 * 1024 if act == "big" else 4
        return Outcome({"sums": torch.tensor(sums), "ramp": torch.arange(count, dtype=torch.float32)}, facts)


def _note(rows: Sequence[Row]) -> None:
    """Write the seeds of a slice as a line into the file that their requests name as `trace`."""
    for path in {getattr(row.request, "trace", "") for row in rows} - {""}:
        with Path(path).open("a") as file:
            file.write(" ".join(str(row.request.seed) for row in rows) + "\n")


METHOD = Sums()
