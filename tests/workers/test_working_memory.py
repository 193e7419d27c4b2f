"""The largest admitted request of each operation takes no more memory than the setting says: really run, one by one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.workers.harness import ROOT

MEMORY_MIB = 1024
SMALL = {"preprocess": {"size": [448, 448]}}
ALLOCATOR_MIB = 160
"""What the allocator and the libraries hold beside; measured with a single forward pass."""

CASES: list[tuple[str, dict[str, Any]]] = [
    ("classify", SMALL),
    ("feature-maps", {**SMALL, "layers": ["blocks.0"], "channels": "first:4"}),
    ("kernels", {}),
    ("saliency", {**SMALL, "method": "gradient"}),
    ("saliency", {**SMALL, "method": "smoothgrad", "samples": 4}),
    ("cam", {**SMALL, "methods": ["gradcam", "fullgrad"]}),
    ("deconv", {**SMALL, "layers": ["blocks.2"], "channels": "first:2"}),
    ("occlusion", {**SMALL, "window": 224, "stride": 112}),
    ("cka", {"preprocess": {"size": [640, 640]}, "layer": "blocks.2", "samples": "positions", "permutations": 0}),
    ("cka", {**SMALL, "layer": "blocks.2", "samples": "rows", "kernel": "rbf", "permutations": 2}),
    (
        "cka",
        {
            **SMALL,
            "layer": "blocks.4",
            "channels": "first:8",
            "samples": "positions",
            "intervals": 10,
            "permutations": 2,
        },
    ),
    ("cka", {**SMALL, "mode": "layers", "permutations": 2, "intervals": 10}),
    ("maximize", {"objective": {"layer": "blocks.2", "channel": 1}, "size": 448, "steps": 2, "preset": "lucid"}),
    ("top-activations", {**SMALL, "layers": ["blocks.2"], "channels": "first:2"}),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("operation", "asked"), CASES)
def test_row_45_the_largest_admitted_request_stays_within_the_memory_it_was_admitted_with(
    operation: str, asked: dict[str, Any]
) -> None:
    command = [sys.executable, "-m", "tests.workers.largest_request", operation, json.dumps(asked), str(MEMORY_MIB)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    print(operation, asked, told)
    assert told["grew_mib"] <= MEMORY_MIB + ALLOCATOR_MIB
    assert told["counted_mib"] <= MEMORY_MIB
