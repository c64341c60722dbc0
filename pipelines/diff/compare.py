"""Compare two JSON values or two lists of files, and print what differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.core.console import print_table, print_text

#: Differing files listed by name.
MAX_LISTED = 20


def compare_settings(a: Any, b: Any) -> list[dict[str, Any]]:
    """[{key, a, b}] of the dotted keys at which two JSON values differ; null where a key is missing."""
    side_a, side_b = dict(flatten(a)), dict(flatten(b))
    return [
        {"key": key, "a": side_a.get(key), "b": side_b.get(key)}
        for key in sorted({*side_a, *side_b})
        if side_a.get(key) != side_b.get(key)
    ]


def flatten(document: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all innermost values; an empty object counts as one."""
    if isinstance(document, Mapping) and document:
        for key, child in document.items():
            yield from flatten(child, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, document


def compare_files(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, Any]:
    """Compare two {path: sha256}: the number of equal files, and the number and some names of the others."""
    different = sorted(name for name in a.keys() & b.keys() if a[name] != b[name])
    only_a, only_b = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    first = [{"name": name, "a": a[name], "b": b[name]} for name in different[:MAX_LISTED]]
    return {
        "same": not (different or only_a or only_b),
        "equal": len(a.keys() & b.keys()) - len(different),
        "different": {"count": len(different), "first": first},
        "only_a": {"count": len(only_a), "first": only_a[:MAX_LISTED]},
        "only_b": {"count": len(only_b), "first": only_b[:MAX_LISTED]},
    }


def show_rows(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, aligned_left: Sequence[str] = ()
) -> None:
    """Print a table, unless it has no rows. aligned_left: columns aligned to the left besides the first."""
    rows = list(rows)
    if rows:
        print_table(title, columns, rows, left_aligned=[columns[0], *aligned_left])


def show_settings(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the result of `compare_settings`."""
    texts = [[None if cell is None else str(cell) for cell in (row["key"], row["a"], row["b"])] for row in rows]
    show_rows(title, ("key", "A", "B"), texts, aligned_left=("A", "B"))


def show_files(title: str, files: Mapping[str, Any]) -> None:
    """Print the counts of `compare_files` on one line."""
    counts = (files["equal"], files["different"]["count"], files["only_a"]["count"], files["only_b"]["count"])
    print_text(f"{title}: " + "{:,} equal, {:,} different, {:,} only in A, {:,} only in B".format(*counts))
