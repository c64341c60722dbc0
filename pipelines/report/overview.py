"""Build the first page of a run: ledger, cascade, contents, distributions."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from filters import histogram_columns
from infra.columns import equals
from infra.commit import read_json
from infra.media.interface import MODALITIES
from pipelines.core.finished_run import JudgedRun
from pipelines.report import charts
from pipelines.report.report_rows import ReportRows

#: Facts shown even if no filter uses them: (signal, title, unit).
FACTS = (
    ("facts.duration", "Duration", "s"),
    ("facts.width", "Width", "px"),
    ("facts.height", "Height", "px"),
    ("facts.bytes", "Size of the file", "bytes"),
    ("quality.words", "Length of the text", "words"),
)


def build_meta(judged: JudgedRun, rows: ReportRows) -> dict[str, Any]:
    """The entries of meta.js that describe the run."""
    run, run_json = judged.run, judged.run_json
    kept = rows.outcome == "kept"
    names = {
        "source": rows.samples["source"].to_pylist(),
        "licence": [licence or "" for licence in rows.samples["licence"].to_pylist()],
        "language": rows.read_words("language.label"),
        "container": rows.read_words("facts.container"),
    }
    return {
        "kind": "run",
        "name": run.config.name,
        "seed": run.config.seed,
        "description": run.config.export.description,
        "config_fingerprint": run_json["config_fingerprint"],
        "stages": [[name, stage["rows"], stage["fingerprint"]] for name, stage in sorted(run_json["stages"].items())],
        "versions": sorted(run_json["versions"].items()),
        "ledger": read_json(run.at("ledger.json")),
        "filters": _list_filters(judged),
        "duplicates": judged.resolved.duplicates.model_dump(mode="json", exclude_none=True),
        "resample": None if judged.resolved.resample is None else judged.resolved.resample.model_dump(mode="json"),
        "shards": _list_shards(rows),
        "shares": _list_shares(rows),
        "tables": [[name, charts.count_kept(column, kept)] for name, column in names.items()],
        "facts": [
            {"signal": name, "title": title, "unit": unit, "histogram": histogram}
            for name, title, unit in FACTS
            if name in rows.signals.schema.names
            for histogram in [charts.build_histogram(rows.read_number(name), kept)]
            if histogram is not None
        ],
        "scores": [
            name
            for name in histogram_columns(filter_.name for filter_ in judged.resolved.filters)
            if name in rows.signals.schema.names
        ],
    }


def _list_filters(judged: JudgedRun) -> list[dict[str, Any]]:
    """Filters in the order of the cascade, with the settings in run.json."""
    recorded = {entry["filter"]: entry["settings"] for entry in judged.run_json["explain"]}
    return [
        {
            "name": filter_.name,
            "asks": sorted(filter_.modalities),
            "settings": recorded.get(filter_.name, filter_.settings.model_dump(mode="json")),
        }
        for filter_ in judged.resolved.filters
    ]


def _list_shards(rows: ReportRows) -> list[dict[str, Any]]:
    """Samples, tokens, seconds and bytes of each shard."""
    sums = rows.members.group_by("shard").aggregate(
        [("key", "count"), ("tokens", "sum"), ("seconds", "sum"), ("bytes", "sum"), ("modality", "min")]
    )
    return [
        {"name": r["shard"], "modality": r["modality_min"], "samples": r["key_count"], "tokens": r["tokens_sum"],
         "seconds": round(r["seconds_sum"], 3), "bytes": r["bytes_sum"]}
        for r in sums.sort_by("shard").to_pylist()
    ]  # fmt: skip


def _list_shares(rows: ReportRows) -> list[dict[str, Any]]:
    """Kept samples, tokens, seconds and bytes of each modality."""
    shares = []
    for name in MODALITIES:
        members = rows.members.filter(pa.array(equals(rows.members["modality"], name)))
        if members.num_rows:
            tokens, seconds, size = (pc.sum(members[column]).as_py() or 0 for column in ("tokens", "seconds", "bytes"))
            shares.append({"modality": name, "samples": members.num_rows, "tokens": tokens,
                           "seconds": round(float(seconds), 3), "bytes": size})  # fmt: skip
    return shares
