"""The list of faults and their tests names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.workers.harness import ROOT

README = Path(__file__).with_name("README.md")


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)`: `(\w+)`", README.read_text())
    assert len(named) > 60
    lost = [f"{path}: {name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text()]
    assert lost == []


def test_every_row_that_concerns_us_has_a_test():
    rows = [int(number) for number in re.findall(r"^\* \*\*(\d+)\*\* ", README.read_text(), re.MULTILINE)]
    assert rows == sorted(set(rows)) and set(rows) >= set(range(1, 39)) - {34}
