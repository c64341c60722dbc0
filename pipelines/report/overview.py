"""What the first page says of a run: the ledger, the cascade, what is in it, and what was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import histogram_columns
from infra.commit import read_json
from pipelines.core.finished_run import JudgedRun
from pipelines.report import charts
from pipelines.report.report_rows import ReportRows

MODALITIES = ("video", "image", "multi_image", "text")

#: Facts shown even where no filter asks about them: (signal, title, unit).
FACTS = (
    ("facts.duration", "Duration", "s"),
    ("facts.width", "Width", "px"),
    ("facts.height", "Height", "px"),
    ("facts.bytes", "Size of the file", "bytes"),
    ("quality.words", "Length of the text", "words"),
)


def overview(finished: JudgedRun, rows: ReportRows) -> dict[str, Any]:
    """The parts of meta.js that describe the run itself."""
    run, held = finished.run, finished.run_json
    kept = rows.outcome == "kept"
    return {
        "kind": "run",
        "name": run.config.name,
        "seed": run.config.seed,
        "description": run.config.export.description,
        "config_fingerprint": held["config_fingerprint"],
        "stages": [[name, stage["rows"], stage["fingerprint"]] for name, stage in sorted(held["stages"].items())],
        "versions": sorted(held["versions"].items()),
        "ledger": read_json(run.at("ledger.json")),
        "filters": _filters(finished),
        "duplicates": finished.resolved.duplicates.model_dump(mode="json", exclude_none=True),
        "resample": None if finished.resolved.resample is None else finished.resolved.resample.model_dump(mode="json"),
        "shards": _shards(rows),
        "shares": _shares(rows),
        "tables": [
            ["source", charts.shares(rows.samples["source"].to_pylist(), kept)],
            ["licence", charts.shares([x or "" for x in rows.samples["licence"].to_pylist()], kept)],
            ["language", charts.shares(_words(rows, "language.label"), kept)],
            ["container", charts.shares(_words(rows, "facts.container"), kept)],
        ],
        "facts": [
            {"signal": name, "title": title, "unit": unit, "histogram": found}
            for name, title, unit in FACTS
            if name in rows.signals.schema.names
            for found in [charts.histogram(rows.number(name), kept)]
            if found is not None
        ],
        "scores": [
            name
            for name in histogram_columns(filter_.name for filter_ in finished.resolved.filters)
            if name in rows.signals.schema.names
        ],
    }


def _filters(finished: JudgedRun) -> list[dict[str, Any]]:
    """In the order of the cascade."""
    found = []
    for filter_ in finished.resolved.filters:
        settings = filter_.settings.model_dump(mode="json")
        own = next((e["settings"] for e in finished.run_json["explain"] if e["filter"] == filter_.name), settings)
        found.append({"name": filter_.name, "asks": sorted(filter_.modalities), "settings": own})
    return found


def _words(rows: ReportRows, column: str) -> list[str]:
    if column not in rows.signals.schema.names:
        return [""] * len(rows)
    return [value or "" for value in rows.signals[column].to_pylist()]


def _shards(rows: ReportRows) -> list[dict[str, Any]]:
    """One entry a shard: samples, tokens, seconds, bytes."""
    if not rows.members.num_rows:
        return []
    summed = rows.members.group_by("shard").aggregate(
        [("key", "count"), ("tokens", "sum"), ("seconds", "sum"), ("bytes", "sum"), ("modality", "min")]
    )
    named = summed.sort_by("shard").to_pylist()
    return [
        {"name": r["shard"], "modality": r["modality_min"], "samples": r["key_count"], "tokens": r["tokens_sum"],
         "seconds": round(r["seconds_sum"], 3), "bytes": r["bytes_sum"]}
        for r in named
    ]  # fmt: skip


def _shares(rows: ReportRows) -> list[dict[str, Any]]:
    """What each modality is of what was kept, in the four units that a recipe may bind."""
    found = []
    modality = np.array(rows.members["modality"].to_pylist(), dtype=object)
    for name in MODALITIES:
        mine = pa.array(modality == name, pa.bool_())
        if not (modality == name).any():
            continue
        part = rows.members.filter(mine)
        sums = {column: pc.sum(part[column]).as_py() or 0 for column in ("tokens", "seconds", "bytes")}
        found.append({"modality": name, "samples": part.num_rows, **sums, "seconds": round(float(sums["seconds"]), 3)})
    return found
