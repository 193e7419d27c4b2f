"""import-linter's contracts hold, and each is seen to fail when it is broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.trees import ROOT, copy_tree, on_path

LINT = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        LINT, cwd=tree, env=on_path(tree), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def test_the_directions_hold() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("convscope/render/__init__.py", "import service", "convscope stands alone"),
        ("convscope/cli/facts.py", "import torch", "convscope stands alone"),
        ("service/forms.py", "import torch", "the service never sees the workers or torch"),
        ("service/app.py", "from workers import contract", "the service never sees the workers or torch"),
        ("workers/contract.py", "import convscope.render", "workers know the protocol only"),
        ("workers/methods/classify.py", "import convscope.protocol", "methods: torch and shared mathematics only"),
        ("workers/methods/classify.py", "from workers.methods import kernels", "methods never import each other"),
        ("workers/supervision/supervisor.py", "import torch", "the supervisor and the scheduler have no torch"),
        ("workers/engine/loop.py", "import redis", "the engine has no Redis"),
        ("service/results.py", "import obstore", "only artifacts.py knows obstore"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, line: str, contract: str) -> None:
    tree = copy_tree(tmp_path)
    with (tree / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    result = lint(tree)
    assert result.returncode != 0
    broken = [text for text in result.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(text.startswith(contract) for text in broken), result.stdout
