"""findings/ is well kept: its index is current and each script has the form that findings/index.md promises.

The scripts themselves are not run here: they install packages, and fail when somebody else's library has changed.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.trees import PACKAGES, ROOT

FOLDER = ROOT / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
PROGRAM = re.compile(r"<<'END'\n(.*?)\nEND$", re.DOTALL | re.MULTILINE)


def written_index(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, folder / "write_index.py"], capture_output=True, text=True)


def test_the_index_is_current() -> None:
    assert written_index(FOLDER).stdout == (FOLDER / "index.md").read_text(encoding="utf-8")
    assert len(SCRIPTS) >= 10


def test_a_script_without_its_sentence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "write_index.py").write_text((FOLDER / "write_index.py").read_text("utf-8"), "utf-8")
    (tmp_path / "a.sh").write_text("#!/bin/sh\n# A thing is so.\n", "utf-8")
    assert "| [a.sh](a.sh) | A thing is so. |\n" in written_index(tmp_path).stdout
    for second in ("# a title", "echo.", "A thing is so."):
        (tmp_path / "b.sh").write_text(f"#!/bin/sh\n{second}\n", "utf-8")
        assert "in one sentence" in written_index(tmp_path).stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_names_its_packages_and_runs_without_us(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    (sourced,) = re.findall(r"^\. .*/packages\" (.*)$", text, re.MULTILINE)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", package) for package in sourced.split()), (
        "every package has its version"
    )
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    programs = [ast.parse(program) for program in PROGRAM.findall(text)]
    assert any(isinstance(node, ast.Assert) for program in programs for node in ast.walk(program)), "it can fail"
    imported = {
        name.partition(".")[0]
        for program in programs
        for node in ast.walk(program)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert imported.isdisjoint(PACKAGES)
