"""show: a few of a run's dialogues with their evidence side by side, for a person to judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.markup import escape
from rich.table import Table

from infra import storage, tables
from infra.commit import need_manifest
from infra.hashing import draws
from pipelines.core.console import open_console


def pick(run: str, *, count: int, kind: str | None, rejected: bool) -> list[dict[str, Any]]:
    """`count` rows of RUN/dialogues, those with the lowest keyed draws: the same ones every time.

    Raises StageError when the run has no finished dialogues.
    """
    manifest = need_manifest(run, "dialogues")
    found: list[pa.Table] = []
    for unit in manifest.units:
        table = tables.read(storage.join(run, "dialogues", f"{unit.name}.parquet"))
        wanted = pc.equal(table["outcome"], "rejected" if rejected else "accepted")
        if kind is not None:
            wanted = pc.and_(wanted, pc.equal(table["kind"], kind))
        table = table.filter(wanted)
        order = np.argsort(draws(0, table["key"].to_pylist(), "show"), kind="stable")[:count]
        found.append(table.take(pa.array(order)))
    rows = [row for table in found for row in table.to_pylist()]
    order = np.argsort(draws(0, [row["key"] for row in rows], "show"), kind="stable")[:count]
    return [rows[i] for i in order]


def show(rows: list[dict[str, Any]], run: str) -> None:
    """Evidence to the left, turns to the right; what each turn cites and why one was rejected stands under it."""
    out = open_console()
    if not rows:
        out.print(f"{run} has no such dialogues", highlight=False)
    for row in rows:
        who = row["model"] or "written by rule"
        title = f"{row['key']}  {row['kind']}, {row['outcome']}, {who}"
        table = Table(title=escape(title), title_justify="left", show_lines=False, expand=True)
        table.add_column("evidence", ratio=2)
        table.add_column("dialogue", ratio=3)
        left = [f"[bold]{escape(i['id'])}[/bold] {_span(i)}{escape(i['text'])}" for i in row["evidence"] or ()]
        right = [_turn(turn) for turn in row["turns"] or ()]
        if row["reason"]:
            right.append(f"[red]rejected: {escape(row['reason'])}[/red]")
        table.add_row("\n".join(left), "\n\n".join(right))
        out.print(table)


def _turn(turn: dict[str, Any]) -> str:
    cited = ", ".join(turn["evidence"] or ())
    under = f"[dim]from {escape(cited)}" + ("" if turn["blind_rate"] is None else f"; blind {turn['blind_rate']:.0%}")
    why = f"\n[red]{escape(turn['reason'])}[/red]" if turn["outcome"] != "accepted" and turn["reason"] else ""
    return f"[bold]Q[/bold] {escape(turn['question'])}\n[bold]A[/bold] {escape(turn['answer'])}\n{under}[/dim]{why}"


def _span(item: dict[str, Any]) -> str:
    start, end = item["start_s"], item["end_s"]
    if start is None:
        return ""
    return f"[dim]{start:.1f}s[/dim] " if end is None or end <= start else f"[dim]{start:.1f}-{end:.1f}s[/dim] "
