"""Tables never cut a name, on a narrow terminal or in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from convscope.cli.listing import show, terminal_table
from convscope.cli.settings_table import setting_lines, show_table

HEAD = ("id", "weights", "problem")
ROWS = [("efficientnet_lite0-random (default)", "package:" + "w" * 60, "p " * 60), ("short", "random", "")]


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_shows_whole_names(width: int) -> None:
    paper = io.StringIO()
    Console(file=paper, width=width).print(terminal_table(HEAD, ROWS))
    shown = paper.getvalue()
    assert "…" not in shown and all(len(line) <= width for line in shown.splitlines())
    assert shown.count("w") >= 60
    if width == 80:
        assert "efficientnet_lite0-random" in shown


def test_in_a_pipe_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(HEAD, ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["id", ROWS[0][0], "short"]
    assert ROWS[0][1] in lines[1] and lines[2].endswith("random")


def test_the_settings_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    show_table()
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(setting_lines())
    for line, setting in zip(lines, setting_lines(), strict=True):
        assert line.startswith(f"{setting.variable} {setting.flag}") and setting.meaning in line
