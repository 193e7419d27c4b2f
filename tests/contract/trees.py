"""Copies of our source, to plant things in and run them there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("convscope", "service", "workers")
CLIENT = "client"


def copy_tree(to: Path) -> Path:
    """Our packages and pyproject.toml, without caches."""
    for package in (*PACKAGES, CLIENT):
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    return to


def on_path(tree: Path) -> dict[str, str]:
    """This environment, with the packages of the copied tree before the installed ones."""
    return {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / CLIENT}", "PYTHONDONTWRITEBYTECODE": "1"}
