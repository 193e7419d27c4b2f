"""The service is small: importing it brings neither torch nor anything of the workers."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["service.app", "service.__main__", "convscope.cli"])
def test_no_torch(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "print([name for name in sys.modules if name.partition('.')[0] in "
        "('torch', 'torchvision', 'timm', 'workers', 'matplotlib', 'scipy')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
