"""Facts as tables: any shape of JSON that an operation may declare is drawn so that a person can read it."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from convscope.cli.facts import MOST_ROWS, cell, facts_tables


def drawn(facts: dict[str, Any]) -> str:
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        for table in facts_tables(facts):
            console.print(table)
    return captured.get()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.123456, "0.1235"), (3, "3"), ("word", "word"), ([1, 2.5], "1, 2.5"), ([[1, 2]], "1, 2"),
     ({"a": 1}, '{"a": 1}'), (True, "true"), ("x" * 80, "x" * 59 + "…")],
)  # fmt: skip
def test_a_cell(value: object, text: str) -> None:
    assert cell(value) == text


def test_objects_are_rows() -> None:
    lines = drawn({"predictions": [[{"index": 967, "name": "espresso", "probability": 0.95693}]]}).splitlines()
    assert any("index" in line and "name" in line for line in lines)
    assert any("967" in line and "espresso" in line and "0.9569" in line for line in lines)


def test_objects_of_several_images_are_told_apart() -> None:
    text = drawn({"predictions": [[{"index": 1}], [{"index": 2}]]})
    assert "predictions 0" in text and "predictions 1" in text


def test_parallel_lists_stand_side_by_side() -> None:
    layer = {
        "layer": "conv",
        "channels": [[4, 7]],
        "mean": [[0.5, 0.25]],
        "maximum": [[2.0, 1.0]],
        "dead_channels": [[]],
    }
    lines = [line.replace(" ", "") for line in drawn({"layers": [layer]}).splitlines()]
    assert any("layerconv" in line for line in lines)
    assert any("dead_channels–" in line for line in lines)
    assert "│4│0.5│2│" in lines and "│7│0.25│1│" in lines


def test_a_wide_object_stands_upright() -> None:
    lines = drawn({"maps": [{f"fact_{index}": index for index in range(12)}]}).splitlines()
    assert any(line.split() == ["fact_11", "11"] for line in lines)


def test_long_lists_are_cut_and_it_is_said() -> None:
    assert "and 5 more" in drawn({"rows": [{"a": index} for index in range(MOST_ROWS + 5)]})
    assert "and 5 more" in drawn({"rows": [{name: list(range(MOST_ROWS + 5)) for name in "abc"}]})


def test_nothing_is_drawn_of_nothing() -> None:
    assert drawn({}) == ""
