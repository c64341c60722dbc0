"""Two JSON values, and two lists of files, held against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: Files named of those that differ.
NAMED = 20


def settings(a: Any, b: Any) -> list[dict[str, Any]]:
    """[{key, a, b}]: where two JSON values differ, by dotted key; null where there is none."""
    left, right = dict(flat(a)), dict(flat(b))
    return [
        {"key": key, "a": left.get(key), "b": right.get(key)}
        for key in sorted({*left, *right})
        if left.get(key) != right.get(key)
    ]


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is no group of further keys."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from flat(below, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def files_of(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, Any]:
    """How many of the files named by two {path: sha256} are equal, and some of those that are not."""
    different = sorted(name for name in a.keys() & b.keys() if a[name] != b[name])
    only_a, only_b = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    return {
        "same": not (different or only_a or only_b),
        "equal": len(a.keys() & b.keys()) - len(different),
        "different": {"count": len(different), "first": [{"name": n, "a": a[n], "b": b[n]} for n in different[:NAMED]]},
        "only_a": {"count": len(only_a), "first": only_a[:NAMED]},
        "only_b": {"count": len(only_b), "first": only_b[:NAMED]},
    }


def show_settings(out: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of keys with both values; nothing where there is none."""
    table = Table(title=title, title_justify="left")
    for name in ("key", "A", "B"):
        table.add_column(name)
    for row in rows:
        table.add_row(*(escape(str("" if x is None else x)) for x in (row["key"], row["a"], row["b"])))
    if table.row_count:
        out.print(table)


def show_files(out: Console, what: str, found: Mapping[str, Any]) -> None:
    """One line: how many files are equal, differ, or stand on one side."""
    counts = (found["equal"], found["different"]["count"], found["only_a"]["count"], found["only_b"]["count"])
    text = "{:,} equal, {:,} different, {:,} only in A, {:,} only in B".format(*counts)
    out.print(f"{what}: {text}", highlight=False)
