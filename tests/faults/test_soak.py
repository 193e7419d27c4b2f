"""Some seconds of the soak (bench/soak.py): real workers, real networks, real clients, all faults at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.harness import ROOT


@pytest.mark.timeout(600)
def test_rows_01_and_31_everything_at_once(tmp_path: Path):
    out = tmp_path / "soak.json"
    schedule = ["--minutes", "0.35", "--worker-every-s", "7", "--server-every-s", "11", "--steps", "80"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", *schedule, "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads(out.read_text())
    assert figures["lost"] == figures["twice"] == [] and figures["different_results"] == 0
    assert figures["submitted"] == sum(figures["finished"].values()) > 10
    assert figures["kills"]["worker"] >= 2 and figures["server_restarts"] >= 1
    assert set(figures["failed"]) <= {"worker-crashed"}
