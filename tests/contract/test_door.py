"""What meets who comes from outside: licence, changes, forms, hooks and CI say what is true."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.trees import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
DOOR = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", ".github/pull_request_template.md")


def loaded(path: str) -> dict[str, Any]:
    found = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def recipe(target: str) -> list[str]:
    """The commands of a target, with the targets before it left out."""
    rule = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    assert rule is not None, target
    return [line.strip() for line in rule[1].splitlines()]


def test_the_licence_is_the_one_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["license"] == "MIT" and text.startswith("MIT License\n")
    assert f"\n## {project['version']}, " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_and_hooks_run_what_make_runs() -> None:
    (job,) = loaded(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    hooks = [hook for repo in loaded(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {hook["id"]: (hook["entry"], hook["stages"]) for hook in hooks} == {
        "lint": ("make lint", ["pre-commit"]),
        "check": ("make check", ["pre-push"]),
    }
    assert re.search(r"^test: lint ", MAKEFILE, re.MULTILINE) and re.search(r"^check: lint ", MAKEFILE, re.MULTILINE)
    assert all("--fix" not in command for command in recipe("lint"))


def test_every_make_target_that_a_document_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    for name in DOOR:
        named = set(re.findall(r"(?:`|^)make ([a-z]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, name


def test_the_quick_tests_are_there_and_none_waits_for_processes() -> None:
    said = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = [line for line in said.splitlines() if "/pytest" in line]
    paths = [Path(word) for word in command.split() if word.startswith("tests/")]
    assert len(paths) > 4 and all((ROOT / path).exists() for path in paths)
    waiting = ("Launched(", "with Service(", "subprocess.Popen")
    for path in paths:
        for file in [ROOT / path] if path.suffix else sorted((ROOT / path).rglob("test_*.py")):
            if file != Path(__file__):
                assert not any(word in file.read_text(encoding="utf-8") for word in waiting), file


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one(form: Path) -> None:
    """The keys that GitHub's forms have to have: without them nobody sees the form."""
    found = loaded(str(form.relative_to(ROOT)))
    assert set(found) == {"name", "description", "labels", "body"}
    ids = [part["id"] for part in found["body"]]
    assert len(set(ids)) == len(ids)
    for part in found["body"]:
        assert part["type"] in {"textarea", "input", "dropdown", "checkboxes"} and part["attributes"]["label"]
        assert set(part.get("validations", {})) <= {"required"}


def test_editors_are_told_the_line_length_of_the_linter() -> None:
    length = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["line-length"]
    assert f"max_line_length = {length}\n" in (ROOT / ".editorconfig").read_text(encoding="utf-8")
