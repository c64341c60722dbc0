"""Names of the columns of a table, of which several may be the same in the file."""

from __future__ import annotations

from collections.abc import Sequence


def unique_names(columns: Sequence[str]) -> list[str]:
    """The names of columns; the second `text` becomes `text.1`, as in pandas."""
    names: list[str] = []
    for name in columns:
        copies = (f"{name}.{number}" for number in range(1, len(columns) + 1))
        names.append(next(copy for copy in copies if copy not in names) if name in names else name)
    return names
