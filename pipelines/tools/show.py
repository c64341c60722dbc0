"""show: print a few of a run's dialogues with their evidence beside them, for a person to judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from infra import storage, tables
from infra.commit import need_manifest
from infra.hashing import draw_integers
from infra.terminal import escape_controls
from pipelines.core.console import open_console, print_text


def run(folder: str, *, count: int, kind: str | None, rejected: bool) -> list[dict[str, Any]]:
    """Pick `count` rows of FOLDER/dialogues: those with the lowest pseudo-random draws, so always the same.

    Raises StageError when the run has no finished dialogues.
    """
    rows: list[dict[str, Any]] = []
    for unit in need_manifest(folder, "dialogues").units:
        table = tables.read(storage.join(folder, "dialogues", f"{unit.name}.parquet"))
        mask = pc.equal(table["outcome"], "rejected" if rejected else "accepted")
        if kind is not None:
            mask = pc.and_(mask, pc.equal(table["kind"], kind))
        table = table.filter(mask)
        rows += table.take(pa.array(_lowest_draws(table["key"].to_pylist(), count), pa.int64())).to_pylist()
    return [rows[i] for i in _lowest_draws([row["key"] for row in rows], count)]


def _lowest_draws(keys: list[str], count: int) -> list[int]:
    return list(np.argsort(draw_integers(0, keys, "show"), kind="stable")[:count].tolist())


def show(rows: list[dict[str, Any]], folder: str) -> None:
    """Print a table per dialogue: evidence on the left, turns with their citations on the right."""
    if not rows:
        print_text(f"{folder} contains no such dialogues")
    for row in rows:
        title = f"{row['key']}  {row['kind']}, {row['outcome']}, {row['model'] or 'written by rule'}"
        table = Table(title=Text(escape_controls(title)), title_justify="left", expand=True)
        table.add_column("evidence", ratio=2)
        table.add_column("dialogue", ratio=3)
        turns = [_format_turn(turn) for turn in row["turns"] or ()]
        if row["reason"]:
            turns.append(_escape(f"rejected: {row['reason']}", "red"))
        evidence = [_format_evidence(item) for item in row["evidence"] or ()]
        table.add_row(Text("\n").join(evidence), Text("\n\n").join(turns))
        open_console().print(table)


def _format_evidence(item: dict[str, Any]) -> Text:
    start, end = item["start_s"], item["end_s"]
    if start is None:
        span = ""
    elif end is None or end <= start:
        span = f"{start:.1f}s "
    else:
        span = f"{start:.1f}-{end:.1f}s "
    return Text.assemble(_escape(item["id"], "bold"), " ", (span, "dim"), _escape(item["text"]))


def _format_turn(turn: dict[str, Any]) -> Text:
    citation = f"from {', '.join(turn['evidence'] or ())}"
    if turn["blind_rate"] is not None:
        citation += f"; answered blind {turn['blind_rate']:.0%}"
    text = Text.assemble(
        ("Q", "bold"),
        _escape(f" {turn['question']}\n"),
        ("A", "bold"),
        _escape(f" {turn['answer']}\n"),
        _escape(citation, "dim"),
    )
    if turn["outcome"] != "accepted" and turn["reason"]:
        text.append_text(_escape(f"\n{turn['reason']}", "red"))
    return text


def _escape(text: str, style: str = "") -> Text:
    """Text of strangers, over as many lines as it has."""
    return Text(escape_controls(text, "\n"), style)
