"""Build the page of each sample and the groups of duplicates, which are loaded when they are opened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.finished_run import JudgedRun
from pipelines.report.report_rows import ReportRows, iterate_dialogues
from pipelines.report.thumbnails import Thumbnails

#: Characters of a text that a sample's page shows (ours).
LONGEST = 20_000

_MEMBER_COLUMNS = ("offset", "size", "kind", "tokens", "text_tokens", "seconds", "bytes")
_DIALOGUE_COLUMNS = ("kind", "outcome", "reason", "generator", "model", "revision", "prompt")


def iterate_details(
    judged: JudgedRun, rows: ReportRows, thumbnails: Thumbnails, size: int
) -> Iterator[list[dict[str, Any]]]:
    """Lists of `size` samples, in the order of rows."""
    dialogues = {row["key"]: row for row in iterate_dialogues(judged)}
    members = {row.pop("key"): row for row in rows.members.select(["key", *_MEMBER_COLUMNS]).to_pylist()}
    shown = _remove_unwritable(rows.signals.select(rows.shown()))
    for start in range(0, len(rows), size):
        samples = rows.samples.slice(start, size).to_pylist()
        verdicts = rows.verdicts.slice(start, size).to_pylist()
        signals = [column.to_pylist() for column in shown.slice(start, size).columns]
        page = []
        for offset, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True)):
            key = sample["key"]
            detail = _build_detail(rows.texts[start + offset], sample, verdict)
            detail |= {"signals": [column[offset] for column in signals], "picture": thumbnails.why.get(key, "")}
            if key in members:
                detail["member"] = members[key]
            if key in dialogues:
                detail["dialogue"] = _build_dialogue(dialogues[key])
            elif turns := _extract_turns(sample["extra"]):
                detail["conversation"] = turns
            page.append(detail)
        yield page


def _build_detail(text: str, sample: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "text": text[:LONGEST],
        "media": [
            [m["uri"], m["offset"], m["length"], m["start_s"], m["end_s"], m["sha256"]] for m in sample["media"] or ()
        ],
        "origin": sample["origin"] or "",
        "reason": verdict["reason"] or "",
        "duplicate_of": verdict["duplicate_of"] or "",
        "keep_probability": verdict["keep_probability"],
        "others": [[o["filter"], o["reason"], o["value"], o["threshold"]] for o in verdict["others"] or ()],
    }
    if len(text) > LONGEST:
        detail["characters"] = len(text)
    if (sample["text"] or "") not in ("", text):
        detail["raw"] = sample["text"][:LONGEST]
    return detail


def _remove_unwritable(table: pa.Table) -> pa.Table:
    """Replace NaN and infinities by null, since JSON has neither, and cut texts to LONGEST."""
    for index, field in enumerate(table.schema):
        column = table[field.name]
        if pa.types.is_floating(field.type):
            column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, field.type))
        elif pa.types.is_string(field.type):
            column = pc.utf8_slice_codeunits(column, 0, LONGEST)
        table = table.set_column(index, field, column)
    return table


def _extract_turns(extra: str | None) -> list[list[str]]:
    """[speaker, text] of the conversation that the source itself contains, if any."""
    fields = json.loads(extra or "{}")
    conversation = fields.get("conversations") or fields.get("messages") if isinstance(fields, dict) else None
    turns = []
    for turn in conversation if isinstance(conversation, list) else ():
        if isinstance(turn, dict):
            text = turn.get("value", turn.get("content", ""))
            turns.append([str(turn.get("from", turn.get("role", "")))[:40], str(text)[:LONGEST]])
    return turns


def _build_dialogue(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] or "" for name in _DIALOGUE_COLUMNS},
        "turns": [
            {**{name: turn[name] for name in ("question", "answer", "start_s", "end_s", "blind_rate")},
             "evidence": list(turn["evidence"] or ()), "outcome": turn["outcome"] or "", "reason": turn["reason"] or ""}
            for turn in row["turns"] or ()
        ],
        "evidence": [[e["id"], e["kind"], e["start_s"], e["end_s"], e["text"] or ""] for e in row["evidence"] or ()],
    }  # fmt: skip


def build_groups(rows: ReportRows) -> list[dict[str, Any]]:
    """Groups of duplicates, the largest first: row of the survivor, and of each copy with its similarity and match."""
    components: dict[int, list[dict[str, Any]]] = {}
    for row in rows.duplicates.to_pylist():
        if row["key"] in rows.row_of:
            components.setdefault(row["component"], []).append(row)
    groups = []
    for members in components.values():
        survivor = members[0]["survivor"]
        copies = sorted((m for m in members if m["key"] != survivor), key=lambda m: m["key"])
        if survivor not in rows.row_of or not copies:
            continue
        groups.append(
            {
                "survivor": rows.row_of[survivor],
                "copies": [
                    [rows.row_of[m["key"]], m["similarity"], rows.row_of.get(m["match"], -1),
                     m["start_s"], m["end_s"], m["match_start_s"], m["match_end_s"]]
                    for m in copies
                ],
            }
        )  # fmt: skip
    return sorted(groups, key=lambda group: (-len(group["copies"]), group["survivor"]))
