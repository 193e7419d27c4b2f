"""Tables on a terminal and in a pipe: no name is ever cut, and in a pipe each row is one line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def show(head: Sequence[str], rows: Sequence[Sequence[str]], *, lines: bool = False) -> None:
    """Print a table whose first column has the names.

    Args:
        lines: whether to draw a line between rows, on a terminal.
    """
    if not sys.stdout.isatty():
        cells = [[cell.replace("\n", " ") for cell in row] for row in (head, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    Console().print(terminal_table(head, rows, lines=lines))


def terminal_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, lines: bool = False) -> Table:
    """The table as a terminal shows it: names whole, everything else folded."""
    table = Table(show_lines=lines)
    longest = max((len(word) for row in rows for word in row[0].split()), default=0)
    for column, title in enumerate(head):
        table.add_column(title, overflow="fold", min_width=None if column else longest)
    for row in rows:
        table.add_row(*row)
    return table
