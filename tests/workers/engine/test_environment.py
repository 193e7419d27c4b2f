"""What is set before libraries are loaded: seen from processes that load them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

LOOK = """
import json, os, resource, sys
from workers.engine.environment import prepare_process, compile_kernels
prepare_process(sys.argv[1])
import torch
def step():
    return [torch.empty(4, 64, 224, 224, dtype=torch.bfloat16).fill_(1) for _ in range(4)]
for _ in range(6):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps({"faults": faults, "variables": dict(os.environ)}))
"""


def looked(folder: Path, path: str, **variables: str) -> dict[str, dict[str, str]]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("GOMP", "NUMBA", "CUBLAS"))
    }
    command = [sys.executable, "-c", LOOK, str(folder)]
    done = subprocess.run(
        command, env={**environment, "PYTHONPATH": path, **variables}, check=True, capture_output=True
    )
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def test_memory_of_a_step_stays_and_what_is_set_already_stays(tmp_path: Path) -> None:
    found = looked(tmp_path, str(Path.cwd()), GOMP_SPINCOUNT="7")
    assert int(found["faults"]) < 1000, "100 MB would be 25,000 pages"
    assert found["variables"]["GOMP_SPINCOUNT"] == "7"
    assert found["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "NUMBA_CACHE_DIR" not in found["variables"], "beside its source, which can be written to"


def test_an_installation_that_cannot_be_written_to_keeps_what_it_compiled_elsewhere(tmp_path: Path) -> None:
    """In a process of its own, since the C library's settings stay; as root only pretended."""
    code = """
import os, sys
os.access = lambda path, mode: path.name != "engine"
from workers.engine.environment import prepare_process
prepare_process(sys.argv[1])
print(os.environ["NUMBA_CACHE_DIR"])
"""
    unset = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=unset, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "compiled")


def test_kernels_compile_where_what_is_compiled_can_be_kept_nowhere() -> None:
    """As root a test cannot take the right to write away, so numba is left without any folder."""
    code = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
from workers.engine.environment import compile_kernels
compile_kernels()
from workers.compiled import tile_transforms
assert tile_transforms.take_tiles.signatures, "compiled all the same"
"""
    # Nothing runs what is compiled here, so that it need not be optimized.
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_OPT": "0"}, check=True)
