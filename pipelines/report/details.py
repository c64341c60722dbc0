"""What the page of one sample shows, and the groups of duplicates; read when they are opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.finished_run import JudgedRun
from pipelines.report.report_rows import ReportRows, dialogues
from pipelines.report.thumbnails import Thumbnails

#: Characters of a text that its page shows (ours).
LONGEST = 20_000


def details(finished: JudgedRun, rows: ReportRows, media: Thumbnails, size: int) -> Iterator[list[dict[str, Any]]]:
    """Lists of `size` samples, in order."""
    written = {row["key"]: row for row in dialogues(finished)}
    members = {row["key"]: row for row in rows.members.select(
        ["key", "offset", "size", "kind", "tokens", "text_tokens", "seconds", "bytes"]).to_pylist()}  # fmt: skip
    shown = _finite(rows.signals.select(rows.shown()))
    texts = rows.texts
    for start in range(0, len(rows), size):
        part = []
        samples = rows.samples.slice(start, size).to_pylist()
        verdicts = rows.verdicts.slice(start, size).to_pylist()
        signals = [column.to_pylist() for column in shown.slice(start, size).columns]
        for offset, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True)):
            row, key = start + offset, sample["key"]
            value: dict[str, Any] = {
                "text": texts[row][:LONGEST],
                "signals": [column[offset] for column in signals],
                "media": [
                    [m["uri"], m["offset"], m["length"], m["start_s"], m["end_s"], m["sha256"]]
                    for m in sample["media"] or ()
                ],
                "origin": sample["origin"] or "",
                "reason": verdict["reason"] or "",
                "duplicate_of": verdict["duplicate_of"] or "",
                "keep_probability": verdict["keep_probability"],
                "others": [[o["filter"], o["reason"], o["value"], o["threshold"]] for o in verdict["others"] or ()],
                "picture": media.why.get(key, ""),
            }
            if len(texts[row]) > LONGEST:
                value["characters"] = len(texts[row])
            if (sample["text"] or "") not in ("", texts[row]):
                value["raw"] = sample["text"][:LONGEST]
            if key in members:
                value["member"] = {name: cell for name, cell in members[key].items() if name != "key"}
            if key in written:
                value["dialogue"] = _dialogue(written[key])
            elif turns := _own(sample["extra"]):
                value["conversation"] = turns
            part.append(value)
        yield part


def _finite(table: pa.Table) -> pa.Table:
    """NaN and infinities as null, for which JSON has a word, and no text longer than LONGEST."""
    for index, field in enumerate(table.schema):
        column = table[field.name]
        if pa.types.is_floating(field.type):
            column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, field.type))
        elif pa.types.is_string(field.type):
            column = pc.utf8_slice_codeunits(column, 0, LONGEST)
        table = table.set_column(index, field, column)
    return table


def _own(extra: str | None) -> list[list[str]]:
    """Turns that the source itself brought, as [who, what]."""
    held = json.loads(extra or "{}")
    given = held.get("conversations") or held.get("messages") if isinstance(held, dict) else None
    turns = []
    for turn in given if isinstance(given, list) else ():
        if isinstance(turn, dict):
            said = turn.get("value", turn.get("content", ""))
            turns.append([str(turn.get("from", turn.get("role", "")))[:40], str(said)[:LONGEST]])
    return turns


def _dialogue(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] or "" for name in ("kind", "outcome", "reason", "generator", "model", "revision", "prompt")},
        "turns": [
            {**{name: turn[name] for name in ("question", "answer", "start_s", "end_s", "blind_rate")},
             "evidence": list(turn["evidence"] or ()), "outcome": turn["outcome"] or "", "reason": turn["reason"] or ""}
            for turn in row["turns"] or ()
        ],
        "evidence": [[e["id"], e["kind"], e["start_s"], e["end_s"], e["text"] or ""] for e in row["evidence"] or ()],
    }  # fmt: skip


def groups(rows: ReportRows) -> list[dict[str, Any]]:
    """Groups of duplicates, the largest first: row of the survivor, and of each copy with how alike it is to which."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows.duplicates.to_pylist():
        if row["key"] in rows.place:
            found.setdefault(row["component"], []).append(row)
    listed = []
    for members in found.values():
        survivor = members[0]["survivor"]
        copies = sorted((m for m in members if m["key"] != survivor), key=lambda m: m["key"])
        if survivor not in rows.place or not copies:
            continue
        listed.append(
            {
                "survivor": rows.place[survivor],
                "copies": [
                    [rows.place[m["key"]], m["similarity"], rows.place.get(m["match"], -1),
                     m["start_s"], m["end_s"], m["match_start_s"], m["match_end_s"]]
                    for m in copies
                ],
            }
        )  # fmt: skip
    return sorted(listed, key=lambda group: (-len(group["copies"]), group["survivor"]))
