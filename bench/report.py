"""How every bench says what it measured: a table for people, JSON for machines, with the machine and the commit."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"


def median_s(
    work: Callable[[], object],
    repeats: int = 5,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median seconds of `work` over `repeats` runs after `warmup` runs, by `clock`."""
    for _ in range(warmup):
        work()
    taken = []
    for _ in range(repeats):
        began = clock()
        work()
        taken.append(clock() - began)
    return statistics.median(taken)


def alternating_s(
    works: Mapping[str, Callable[[], object]],
    repeats: int = 3,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each work, the works taking turns, so that a machine busy with others is so for all of them."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warmup + repeats):
        for name, work in works.items():
            began = clock()
            work()
            if turn >= warmup:
                taken[name].append(clock() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


PROCESSOR_TIME = "processor time, one thread"
"""The clock of a bench with --cpu: what a machine busy with other work distorts least."""


def alternating_best_s(
    works: Mapping[str, Callable[[], T]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, float], dict[str, T]]:
    """The shortest time of each work, the works taking turns, and what each returned."""
    best = dict.fromkeys(works, float("inf"))
    found: dict[str, T] = {}
    for _ in range(rounds):
        for name, work in works.items():
            began = clock()
            found[name] = work()
            best[name] = min(best[name], clock() - began)
    return best, found


def machine() -> dict[str, Any]:
    """The machine a figure was measured on: processor, cores, Python, torch where there is one, commit."""
    try:
        commit = _git("describe", "--always")
        # Figures of another run, or the first of this one's, are no change of what is measured.
        if _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)bench/results"):
            commit += "-dirty"
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit,
        "when": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }
    try:
        import torch
    except ImportError:
        return facts
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {**facts, "torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}


def _git(*words: str) -> str:
    command = ["git", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table and write them to bench/results/<name>.json with the machine.

    A row compares two things measured in the same run: `work`, `ours_s`, `peer`, `peer_s`, `target` (the least ratio
    wanted, or None) and whatever else is worth saying.
    """
    for row in rows:
        if row.get("peer_s") and row.get("ours_s"):
            row["ratio"] = row["peer_s"] / row["ours_s"]
    columns = list(dict.fromkeys(key for row in rows for key in row if not isinstance(row[key], (list, dict))))
    table = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    RESULTS.mkdir(exist_ok=True)
    content = {"bench": name, "machine": machine(), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
