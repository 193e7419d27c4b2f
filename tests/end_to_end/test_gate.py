"""`convscope compare` as a pipeline runs it: the real command against the real service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.end_to_end.test_image_sets import crops

LITE = ["efficientnet_lite0", "efficientnet_lite1"]
SMALL = ["--field", 'preprocess={"size": 96}', "--field", "shown=2", "--field", "batch_images=4"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gate") / "crops.zip"
    path.write_bytes(crops(8))
    return path


def compare(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "convscope.cli", "compare", *arguments, "--url", address]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_a_network_passes_against_itself(address: str, archive: Path, tmp_path: Path) -> None:
    required = [
        "--require",
        "cka.min >= 1",
        "--require",
        "cam.rank_correlation.p05 >= 1",
        "--require",
        "agreement == 1",
    ]
    report, picture = tmp_path / "report.json", tmp_path / "moved.png"
    done = compare(
        address, LITE[0], LITE[0], "--set", str(archive), *SMALL, *required, "--report", str(report),
        "--picture", str(picture),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert [one["met"] for one in told["requirements"]] == [True] * 3
    assert told["job"]["result"]["facts"]["figures"]["cam.mass_moved.worst"] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_another_network_falls_short_and_learned_requirements_do_not(
    address: str, archive: Path, tmp_path: Path
) -> None:
    learned, junit, summary = tmp_path / "learned.txt", tmp_path / "junit.xml", tmp_path / "summary.md"
    done = compare(
        address, *LITE, "--set", str(archive), *SMALL, "--require", "cka.min >= 0.9999", "--require", "cka.mim >= 0",
        "--require", "cka.mean >= -1", "--junit", str(junit), "--markdown", str(summary), "--calibrate", str(learned),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT MET  cka.min is" in done.stdout and "no figure cka.mim" in done.stdout
    suite = ElementTree.fromstring(junit.read_bytes()).find("testsuite")
    assert suite is not None and (suite.get("tests"), suite.get("failures")) == ("3", "2")
    assert "**2 of 3 requirements are not met.**" in summary.read_text()
    assert compare(address, *LITE, "--set", str(archive), *SMALL, "--require-file", str(learned)).returncode == 0


def test_what_cannot_be_compared_or_read_is_another_status(address: str, archive: Path) -> None:
    done = compare(address, LITE[0], "no-such-network", "--set", str(archive))
    assert done.returncode == 2 and "no-such-network" in done.stderr
    done = compare(address, *LITE, "--set", str(archive), "--require", "cka.min is high")
    assert done.returncode == 2 and "no requirement" in done.stderr
    done = compare(address, *LITE, "--set", "set-0")
    assert done.returncode == 2 and "not-found" in done.stderr
