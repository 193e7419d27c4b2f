"""Methods and engine run where only torch is installed: the types of their requests are the type checker's affair."""

from __future__ import annotations

import subprocess
import sys

from convscope.protocol.operations import operations

_SCRIPT = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pydantic", "pydantic_core", "pydantic_settings", "redis", "obstore"):
            raise ModuleNotFoundError(name)
        if name.startswith("convscope.protocol"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refusing())

import torch
import workers.engine.loop
from tests.workers.fakes import FakeNetwork, outcome
from workers.contract import Row, params
from workers.engine.registry import find_methods

methods = find_methods()
network = FakeNetwork(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), size=(4, 4))
asked = params({"layers": ["0"], "channels": "all", "by": "max", "precision": "exact"})
found = outcome(methods["feature-maps"], network, Row(asked, [torch.zeros(4, 4, 3, dtype=torch.uint8)]))
print(len(methods), tuple(found.arrays["maps/0"].shape))
"""


def test_every_method_is_found_and_one_runs_without_pydantic() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == [str(len(operations())), "(1, 2, 4, 4)\n"]
