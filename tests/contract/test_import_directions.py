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
        ("convscope/protocol/results.py", "import redis", "the language has no wires"),
        ("convscope/protocol/results.py", "from convscope.queue import keys", "the language has no wires"),
        ("convscope/queue/keys.py", "from convscope.store import images", "convscope stands alone"),
        ("client/convscope_client/events.py", "import convscope.protocol.problems", "the client stands alone"),
        ("service/app.py", "import convscope_client", "only the command line knows the client"),
        ("convscope/cli/facts.py", "import torch", "convscope starts the others as processes"),
        ("convscope/render/__init__.py", "import service", "convscope starts the others as processes"),
        ("convscope/queue/keys.py", "import obstore", "render knows the protocol alone, and only the store"),
        ("convscope/render/scaling.py", "from convscope.queue import keys", "render draws without queue or store"),
        ("service/intake/forms.py", "import torch", "the service never sees the workers or torch"),
        ("service/app.py", "from workers import contract", "the service never sees the workers or torch"),
        ("workers/contract.py", "import convscope.render", "workers never see the service, pictures"),
        ("workers/methods/classify.py", "from workers.methods import kernels", "methods are independent of each other"),
        ("workers/methods/deconv.py", "from workers.methods.cam import maps", "methods are independent of each other"),
        ("workers/methods/classify.py", "import convscope.protocol", "methods, passes and compiled loops: no web"),
        ("workers/passes/calls.py", "from workers.methods import kernels", "compiled loops stand below passes"),
        ("workers/compiled/windows.py", "from workers.passes import calls", "compiled loops stand below passes"),
        ("workers/engine/loop.py", "from workers.supervision import tasks", "supervision and engine meet on the wire"),
        ("workers/supervision/supervisor.py", "import torch", "the supervisor and the scheduler have no torch"),
        ("workers/engine/loop.py", "import redis", "the engine has no Redis"),
        ("service/http/methods.py", "from service.answers import views", "a request walks one way"),
        ("service/intake/forms.py", "from service.answers import views", "a request walks one way"),
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
