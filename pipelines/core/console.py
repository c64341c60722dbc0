"""Text and tables on stdout for a person, printed literally: Rich's markup would remove square brackets."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from infra.terminal import escape_controls


def open_console(*, stderr: bool = False) -> Console:
    """A console that interprets nothing; text for it passes through `escape_controls`. A pipe has no width, and names
    must not be cut there."""
    width = max(110, shutil.get_terminal_size().columns)
    return Console(width=width, markup=False, highlight=False, emoji=False, stderr=stderr)


def print_text(*lines: str) -> None:
    """Print lines of text; long ones wrap at the width of the terminal."""
    console = open_console()
    for line in lines:
        console.print(escape_controls(line))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    left_aligned: Collection[str] | None = None,
) -> None:
    """Print a table: counts with thousands separators, None as an empty cell, everything else as text.

    left_aligned: columns that are aligned to the left; by default the first. The others are aligned to the right.
    """
    table = Table(title=escape_controls(title), title_justify="left")
    left_aligned = columns[:1] if left_aligned is None else left_aligned
    for name in columns:
        table.add_column(escape_controls(name), overflow="fold", justify="left" if name in left_aligned else "right")
    for row in rows:
        table.add_row(*map(_format_cell, row))
    open_console().print(table)


def _format_cell(cell: object) -> str:
    if cell is None:
        return ""
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else escape_controls(str(cell), "\n")
