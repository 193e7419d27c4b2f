"""Facts of a result as tables for a terminal: whatever an operation declares, without knowing the operation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

MOST_ROWS = 40
MOST_COLUMNS = 7
FEW_ROWS = 4
LONGEST_CELL = 60


def facts_tables(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Tables of facts: single values, lists of objects, and parallel lists (one entry a channel) side by side."""
    single = _pairs_table()
    lists: list[tuple[str, Sequence[Mapping[str, Any]]]] = []
    for name, value in facts.items():
        _sort_in(name, value, single, lists)
    if single.row_count:
        yield single
    for name, rows in lists:
        parallel = [_parallel_lists(row) for row in rows]
        if all(parallel):
            for row, columns in zip(rows, parallel, strict=True):
                yield _parallel_table(row, columns)
        else:
            yield _rows_table(name, rows)


def cell(value: object) -> str:
    """A value in a table cell: numbers short, anything else as JSON, cut where it is long; nothing as a dash."""
    if value is None or value == []:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and all(isinstance(one, int | float) for one in value):
        text = ", ".join(cell(one) for one in value)
    elif isinstance(value, list) and len(value) == 1:
        text = cell(value[0])
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _sort_in(name: str, value: Any, single: Table, lists: list[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    if _is_rows(value):
        lists.append((name, value))
    elif isinstance(value, list) and value and all(_is_rows(one) for one in value):
        # One list of objects for each image.
        lists.extend((f"{name} {index}" if len(value) > 1 else name, rows) for index, rows in enumerate(value))
    else:
        single.add_row(name, cell(value))


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _rows_table(name: str, rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if len(columns) > MOST_COLUMNS and len(rows) <= FEW_ROWS:
        table = _pairs_table()
        for column in columns:
            table.add_row(column, *(cell(row.get(column)) for row in rows))
        return _titled(name, table, len(rows))
    table = Table(*columns)
    for row in rows[:MOST_ROWS]:
        table.add_row(*(cell(row.get(column)) for column in columns))
    return _titled(name, table, len(rows))


def _parallel_lists(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns of an object that are lists of one length: at least three, or it is chance; else none."""
    lists = {name: _without_shell(value) for name, value in row.items()}
    plain = {name: value for name, value in lists.items() if value and not isinstance(value[0], list | dict)}
    lengths = Counter(len(value) for value in plain.values())
    length, count = lengths.most_common(1)[0] if lengths else (0, 0)
    return {name: value for name, value in plain.items() if len(value) == length} if count >= 3 else {}


def _without_shell(value: object) -> list[Any]:
    """A list, taken out of a list that holds nothing else (facts of one image); [] for anything else."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    return value if isinstance(value, list) else []


def _parallel_table(row: Mapping[str, Any], columns: Mapping[str, list[Any]]) -> RenderableType:
    rest = ", ".join(f"{name} {cell(value)}" for name, value in row.items() if name not in columns)
    table = Table(*columns)
    values = list(zip(*columns.values(), strict=True))
    for line in values[:MOST_ROWS]:
        table.add_row(*map(cell, line))
    return _titled(rest, table, len(values))


def _pairs_table() -> Table:
    return Table(show_header=False, box=None, pad_edge=False)


def _titled(title: str, table: Table, rows: int) -> RenderableType:
    """A table below its title, with a word about the rows that are left out; rich's own wrap at a narrow table."""
    left_out = [Text(f"and {rows - MOST_ROWS} more; -o facts.json has all")] if rows > MOST_ROWS else []
    return Group(Text(title, style="bold"), table, *left_out)
