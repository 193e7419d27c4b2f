"""The explorer's files: vendored ones are those that were pinned, all are shipped and served, and none leads out."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import cmap
import httpx2
import numpy as np
import pytest

from service.routes.explorer import shipped
from tests.contract.trees import ROOT
from tests.explorer.vendoring import VENDOR, pins

EXPLORER = ROOT / "service" / "explorer"
OURS = [path for path in EXPLORER.rglob("*") if path.is_file() and VENDOR not in path.parents]
SCRIPTS = [path for path in OURS if path.suffix == ".js"]


def test_vendored_files_are_those_that_are_pinned() -> None:
    pinned = {file["to"]: file["sha256"] for package in pins()["packages"].values() for file in package["files"]}
    there = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()} - {"vendor.json"}
    assert there == set(pinned)
    for name, digest in pinned.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    for name, package in pins()["packages"].items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"]) and package["integrity"].startswith("sha512-"), name
        assert package["license"] in {"MIT", "BSD-3-Clause"}


def test_every_file_is_served_with_its_type_and_known_again(client: httpx2.Client) -> None:
    types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "jpg": "image/jpeg"}
    for path in OURS:
        name = path.relative_to(EXPLORER).as_posix()
        answer = client.get(f"/explorer/{name}")
        assert answer.content == path.read_bytes(), name
        assert answer.headers["content-type"] == types.get(path.suffix[1:], answer.headers["content-type"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(f"/explorer/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/").content == (EXPLORER / "index.html").read_bytes()


@pytest.mark.parametrize("path", ["none.js", "../app.py", "%2e%2e/app.py", "..%2fapp.py", "vendor", "", "/etc/passwd"])
def test_nothing_else_is_served(client: httpx2.Client, path: str) -> None:
    assert client.get(f"/explorer/{path}").status_code == 404


def test_the_package_holds_every_file() -> None:
    """What setuptools puts into a wheel is what lies here: the patterns of pyproject reach all folders."""
    patterns = re.search(r"^service = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert patterns is not None
    base = Path(str(files("service")))
    packed = {path for pattern in json.loads(patterns[1]) for path in base.glob(pattern) if path.is_file()}
    assert {EXPLORER / name for name in shipped()} <= packed


def test_nothing_in_our_files_leads_to_another_host() -> None:
    allowed = {"http://www.w3.org/2000/svg"}
    for path in OURS:
        if path.suffix in {".js", ".css", ".html", ".svg"}:
            found = set(re.findall(r"(?:https?:)?//[a-zA-Z0-9][\w.-]+\.[a-z]{2,}[^\s\"'`)]*", path.read_text()))
            assert found <= allowed, (path.name, found)


def test_imports_lead_to_files() -> None:
    seen = 0
    for path in [*SCRIPTS, *VENDOR.rglob("*.js")]:
        for target in re.findall(r"""(?:from|import)\s*\(?["'](\.{1,2}/[^"'$]+)["']""", path.read_text()):
            assert (path.parent / target).resolve().is_file(), (path.name, target)
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_modules_without_markup_of_strangers(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) <= 400
    assert text.startswith("/*"), "a module says what it is for"
    for forbidden in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "unsafeHTML", "new Function"):
        assert forbidden not in text, forbidden


@pytest.mark.skipif(shutil.which("node") is None, reason="node is no requirement of this project")
def test_scripts_parse() -> None:
    for script in SCRIPTS:
        done = subprocess.run(["node", "--check", "--input-type=module"], stdin=script.open(), capture_output=True)
        assert done.returncode == 0, (script.name, done.stderr.decode()[:500])


@pytest.mark.parametrize("name", ["viridis", "RdBu_r", "magma"])
def test_colour_maps_are_those_of_pictures(name: str) -> None:
    text = re.search(rf"{name}: decoded\(\s*'([^']+)'", (EXPLORER / "colors.js").read_text())
    assert text is not None
    found = np.frombuffer(base64.b64decode(text[1]), np.uint8).reshape(256, 3)
    expected = (np.asarray(cmap.Colormap(name).lut(256))[:, :3] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(found, expected)
