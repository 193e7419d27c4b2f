"""Facts of a result as tables for a terminal: whatever an operation declares, without knowing the operation.

Imports nothing of ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

MOST_ROWS = 40
LONGEST_CELL = 60


def facts_tables(facts: Mapping[str, Any]) -> Iterator[RenderableType]:
    """One table of the single values, then one for each list of objects."""
    single = Table(show_header=False, box=None, pad_edge=False)
    lists: list[tuple[str, Sequence[Mapping[str, Any]]]] = []
    for name, value in facts.items():
        _sort_in(name, value, single, lists)
    if single.row_count:
        yield single
    for name, rows in lists:
        yield _rows_table(name, rows)


def cell(value: object) -> str:
    """A value in a table cell: numbers short, anything else as JSON, cut where it is long."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
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


def _rows_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, title=name, title_justify="left")
    for row in rows[:MOST_ROWS]:
        table.add_row(*(cell(row.get(column)) for column in columns))
    if len(rows) > MOST_ROWS:
        table.caption = f"and {len(rows) - MOST_ROWS} more; -o facts.json has all"
    return table
