"""The same tables on a terminal."""

from collections.abc import Sequence
from typing import Any

from metalearn.report.results import Row
from metalearn.report.tables import NONE, Table, tables

# what a narrow terminal does without first
LEAST = ("rotations", "split", "down", "up",
         "queries", "tasks", "seeds", "run", "budget", "transductive", "published", "median",
         "difference_seeds", "seed_mean_half", "common", "shots", "ways", "difference")  # fmt: skip


def print_table(rows: Sequence[Row], *, against: str | None = None, width: int = 100, console: Any = None) -> None:
    """Prints the tables within `width` columns; those columns that do not fit are named below and left out.

    `console`: a `rich.console.Console`; by default one on standard output.
    """
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console(width=width, highlight=False) if console is None else console
    width = min(width, console.width)
    for table in tables(rows, against):
        fitting, left_out = fitted(table, width)
        console.print(Text(fitting.caption, style="dim"), width=width)
        grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name, title in zip(fitting.names, fitting.titles):
            grid.add_column(Text(title), justify="left" if name == "method" else "right", no_wrap=True)
        for cells in fitting.cells:
            grid.add_row(*(Text(cell, style="dim" if cell == NONE else "") for cell in cells))
        console.print(grid, width=width)
        if left_out:
            console.print(Text(f"not shown, for want of width: {', '.join(left_out)}", style="dim"), width=width)
        console.print()


def fitted(table: Table, width: int) -> tuple[Table, list[str]]:
    """The table without the least of its columns that do not fit into `width`, and the titles of those."""
    left_out = []
    for name in LEAST:
        if _width(table) <= width:
            break
        if name in table.names:
            at = table.names.index(name)
            left_out.append(table.titles[at])
            table = table._replace(
                names=table.names[:at] + table.names[at + 1 :],
                titles=table.titles[:at] + table.titles[at + 1 :],
                cells=[line[:at] + line[at + 1 :] for line in table.cells],
            )
    return table, left_out


def _width(table: Table) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(table.titles, *table.cells))
