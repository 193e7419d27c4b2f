"""The recipes of CONTRIBUTING.md, followed word for word in a copy of our source.

An operation, a source of networks and a rendering are there, documented, offered by the command line, and served.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.contract.guide import StepError, follow, sections
from tests.contract.trees import ROOT, copy_tree, on_path
from tests.convscope.cli.launched import Launched, wait_until

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = {name: text for name, text in sections(GUIDE).items() if name.startswith("Add ")}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our source in which all recipes were followed."""
    copied = copy_tree(tmp_path_factory.mktemp("tree"))
    shutil.copytree(ROOT / "tests", copied / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    assert list(RECIPES) == ["Add an operation", "Add a network source", "Add a rendering"]
    for name, least in (("Add an operation", 4), ("Add a network source", 4), ("Add a rendering", 5)):
        assert len(follow(RECIPES[name], copied)) == least
    return copied


@pytest.fixture(scope="module")
def server(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """Everything, run from the copy."""
    variables = {"PYTHONPATH": str(tree), "CONVSCOPE_CATALOGUE": str(tree / "catalogue.toml")}
    with Launched(tmp_path_factory.mktemp("data"), standins=False, **variables) as running:
        # What is compiled of the copy's loops is compiled anew.
        wait_until(lambda: "Convscope listens on" in running.output, deadline_s=170, what="the server of the copy")
        yield running


@pytest.fixture
def client(server: Launched) -> Iterator[httpx2.Client]:
    """Asks it, and waits."""
    with httpx2.Client(base_url=server.address, trust_env=False, timeout=90, headers={"Prefer": "wait=60"}) as asking:
        yield asking


def run(tree: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=tree, env=on_path(tree), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def photograph() -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(7).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return pixels, file.getvalue()


def test_an_operation_is_in_the_openapi_document(tree: Path) -> None:
    document = json.loads(run(tree, "-m", "service.write_openapi"))
    body = document["paths"]["/v1/brightness"]["post"]["requestBody"]["content"]
    assert set(body) >= {"multipart/form-data", "application/x-www-form-urlencoded", "application/json"}
    assert "power" in json.dumps(document["components"]["schemas"]["BrightnessRequest"])
    assert '"bars"' in json.dumps(document)


def test_the_command_line_offers_it(tree: Path) -> None:
    assert "--power" in run(tree, "-m", "convscope.cli", "run", "brightness", "--help")


def test_its_own_tests_pass(tree: Path) -> None:
    assert "1 passed" in run(
        tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/workers/methods/test_brightness.py"
    )


def test_what_was_added_has_our_style(tree: Path) -> None:
    added = re.findall(r"<!-- file: (.*\.py) -->", GUIDE)
    run(tree, "-m", "ruff", "check", "--no-cache", *added)
    run(tree, "-m", "ruff", "format", "--no-cache", "--check", *added)


def test_an_operation_is_served(client: httpx2.Client, server: Launched) -> None:
    pixels, file = photograph()
    expected = (pixels.astype(np.float64) / 255).mean(-1) ** 2
    parts = [("image", ("a.png", file, "image/png")), ("power", (None, b"2"))]
    answer = client.post("/v1/brightness", files=parts)
    assert answer.status_code == 200, answer.text + server.output
    result = answer.json()["result"]
    assert result["facts"]["means"] == [pytest.approx(expected.mean(), abs=1e-6)]
    np.testing.assert_allclose(result["arrays"]["grey/0"]["data"], expected, atol=1e-6)
    picture = client.post("/v1/brightness", files=parts, headers={"Accept": "image/png"})
    assert Image.open(io.BytesIO(picture.content)).format == "PNG"
    refused = client.post("/v1/brightness", files=[*parts, ("strength", (None, b"2"))])
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid-request")


def test_a_source_is_in_the_catalogue_and_answers(client: httpx2.Client) -> None:
    card = client.get("/v1/models/three-deep").json()
    assert (card["source"], card["classes"]) == ("stack:3", ["dark", "bright"])
    parts = [("image", ("a.png", photograph()[1], "image/png")), ("model", (None, b"three-deep"))]
    answer = client.post("/v1/classify", files=parts)
    assert answer.status_code == 200, answer.text
    (names,) = [{each["name"] for each in image} for image in answer.json()["result"]["facts"]["predictions"]]
    assert names == {"dark", "bright"}


def test_a_rendering_is_drawn(client: httpx2.Client) -> None:
    parts = [("image", (f"{number}.png", photograph()[1], "image/png")) for number in range(2)]
    answer = client.post("/v1/brightness?view=bars", files=parts, headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text
    page = Image.open(io.BytesIO(answer.content))
    (facts,) = json.loads(page.text["convscope:scale"])
    assert (facts["view"], facts["vmin"]) == ("bars", 0.0) and 0.4 < facts["vmax"] < 0.6
    darkest = np.asarray(page.convert("L")).min()
    assert (np.asarray(page.convert("L")) == darkest).sum() > 2 * 200  # two bars, all of the greatest length
    wrong = client.post("/v1/classify?view=bars", files=parts[:1], headers={"Accept": "image/png"})
    assert wrong.status_code in (406, 422)


def test_a_step_that_cannot_be_followed_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one\ntwo\ntwo\n")
    steps = {
        "file: a.py": "is there already",
        "in: b.py; before: one": "is not one file",
        "in: a.py; before: two": "2 lines",
        "in: a.py; before: three": "0 lines",
        "in: a.py": "says no place",
    }
    for where, said in steps.items():
        with pytest.raises(StepError, match=said):
            follow(f"1. Do.\n\n   <!-- {where} -->\n   ```python\n   x\n   ```\n", tmp_path)
    follow("   <!-- in: c.py or a.py; before: one -->\n   ```python\n       zero\n   ```\n", tmp_path)
    follow("   <!-- in: a.py; instead of: one -->\n   ```python\n   1\n   ```\n", tmp_path)
    assert (tmp_path / "a.py").read_text() == "    zero\n1\ntwo\ntwo\n"
