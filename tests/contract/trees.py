"""Copies of our source, to plant things in and run them there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("convscope", "service", "workers")
CLIENT = "client"


def copy_tree(to: Path) -> Path:
    """Our packages and pyproject.toml, without caches of bytecode."""
    for package in (*PACKAGES, CLIENT):
        shutil.copytree(ROOT / package, to / package, ignore=_but_what_is_compiled)
    shutil.copy(ROOT / "pyproject.toml", to)
    return to


def _but_what_is_compiled(folder: str, names: list[str]) -> set[str]:
    """Bytecode stays behind; what numba compiled comes along: it takes half a minute, and knows its source by time."""
    if Path(folder).name == "__pycache__":
        return {name for name in names if not name.endswith((".nbi", ".nbc"))}
    return set()


def on_path(tree: Path) -> dict[str, str]:
    """This environment, with the packages of the copied tree before the installed ones."""
    return {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / CLIENT}", "PYTHONDONTWRITEBYTECODE": "1"}
