"""Cards of shards, mixtures and tars: contents, origin, drops and their reasons. Pure: rows in, JSON values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import columns
from mixtures.shards.series import Series

#: Raised when a field's meaning changes.
VERSION = 1

#: Bins of a histogram, which spans the minimum to the maximum.
BINS = 16


def build_histogram(values: NDArray[np.float64]) -> dict[str, Any] | None:
    """Build count, mean, min, p05, p50, p95, max and equal-width bins of the finite values; None if there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    top = high
    if (np.diff(np.linspace(low, high, BINS + 1)) <= 0).any():  # all values equal, or too close for this many bins
        top = low + max(1.0, 2 * BINS * float(np.spacing(abs(low))))
    counts, edges = np.histogram(values, bins=BINS, range=(low, top))
    p05, p50, p95 = (float(x) for x in np.quantile(values, (0.05, 0.5, 0.95)))
    # Summed in order of size: the mean does not depend on the order of rows.
    mean = float(np.sort(values).sum() / len(values))
    return {
        "count": len(values),
        "mean": _round_six(mean),
        "min": _round_six(low),
        "p05": _round_six(p05),
        "p50": _round_six(p50),
        "p95": _round_six(p95),
        "max": _round_six(high),
        "counts": counts.tolist(),
        "edges": [_round_six(float(edge)) for edge in edges],
    }


def _round_six(number: float) -> float:
    return float(f"{number:.6g}")


def count_values(values: Sequence[Any] | pa.ChunkedArray) -> dict[str, int]:
    """Count the occurrences of each value, sorted by its text; null is ""."""
    counts: dict[str, int] = {}
    pairs = _iterate_counts(values) if isinstance(values, pa.ChunkedArray) else ((category, 1) for category in values)
    for category, count in pairs:
        name = "" if category is None else str(category)
        counts[name] = counts.get(name, 0) + count
    return dict(sorted(counts.items()))


def _iterate_counts(column: pa.ChunkedArray) -> Iterable[tuple[Any, int]]:
    counted = pc.value_counts(column)
    return zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)


def summarize_dialogues(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Summarize the dialogues of a card's samples (rows of the dialogues table); None where there are none.

    kinds: accepted dialogues by kind; rejected, rejected_turns: by reason (turns of rejected dialogues are not counted
    again); blind: turns asked without the video, those answered correctly in more than half of the tries, the mean
    rate, and turns that were exempt or rejected earlier.
    """
    if not rows:
        return None
    accepted = [row for row in rows if row["outcome"] == "accepted"]
    turns = [turn for row in rows for turn in row["turns"] or ()]
    asked = sorted(turn["blind_rate"] for turn in turns if turn["blind_rate"] is not None)
    return {
        "dialogues": len(rows),
        "accepted": len(accepted),
        "kinds": count_values([row["kind"] for row in accepted]),
        "turns": sum(turn["outcome"] == "accepted" for row in accepted for turn in row["turns"]),
        "rejected": count_values([_parse_reason(row["reason"]) for row in rows if row["outcome"] != "accepted"]),
        "rejected_turns": count_values(
            [
                _parse_reason(turn["reason"])
                for row in accepted
                for turn in row["turns"]
                if turn["outcome"] != "accepted"
            ]
        ),
        "blind": {
            "asked": len(asked),
            "answerable": sum(rate > 0.5 for rate in asked),
            "mean_rate": _round_six(sum(asked) / len(asked)) if asked else None,
            "not_asked": len(turns) - len(asked),
        },
        "tokens_in": sum(row["tokens_in"] for row in rows),
        "tokens_out": sum(row["tokens_out"] for row in rows),
        "generators": count_values([row["generator"] for row in rows]),
        "models": count_values([row["model"] for row in rows if row["model"]]),
    }


def _parse_reason(reason: str | None) -> str:
    return (reason or "").partition(":")[0]


def build_card(
    *,
    name: str,
    tar: Mapping[str, Any],
    series: Series,
    members: pa.Table,
    signals: pa.Table,
    score_columns: Sequence[str],
    ledger: Mapping[str, Any],
    reasons: Mapping[str, int],
    unused_captions: int,
    made_by: Mapping[str, Any],
    dialogues: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the card of one shard.

    tar: {"sha256", "bytes"}; members: rows of the members table; signals: of the same samples; score_columns: columns
    of signals whose histograms the card shows where they were measured; ledger, reasons: of all inputs in this shard's
    range, dropped ones too; unused_captions: of the samples' media, those that `captions.many` leaves out; made_by:
    run, code and models; dialogues: see `summarize_dialogues`, None where none were requested.
    """
    scores = {}
    for column in score_columns:
        if column in signals.schema.names:
            histogram = build_histogram(columns.to_floats(signals[column]))
            if histogram is not None:
                scores[column] = histogram
    seconds = columns.to_floats(members["seconds"])
    return {
        "card": VERSION,
        "shard": name,
        "tar": dict(tar),
        "modality": series.modality,
        "suffixes": list(series.suffixes),
        "samples": members.num_rows,
        "sources": count_values(members["source"]),
        "licences": count_values(members["licence"]),
        "kinds": count_values(members["kind"]),
        "languages": count_values(members["language"]),
        "tokens": int(pc.sum(members["tokens"]).as_py() or 0),
        "seconds": _round_six(float(np.sort(seconds).sum())),
        "media_bytes": int(pc.sum(members["bytes"]).as_py() or 0),
        "scores": scores,
        "ledger": dict(ledger),
        "reasons": dict(reasons),
        "unused_captions": unused_captions,
        "dialogues": None if dialogues is None else dict(dialogues),
        "made_by": dict(made_by),
    }


# -- mixtures ---------------------------------------------------------------------------------------------------


def build_mixture_card(
    manifest: Mapping[str, Any],
    *,
    manifest_sha256: str,
    repeats: Mapping[str, int],
    counts: Mapping[str, Mapping[str, Mapping[str, float]]],
    parents: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Build the card of a mixture.

    manifest: contents of mixture.json; repeats: number of first, second, … copies of samples; counts: column ->
    category -> {unit: amount}; parents: for each run {name, members, seed, reelmill, dialogues}, the last three
    from its shards' cards.
    """
    return {
        "card": VERSION,
        "mixture": manifest["recipe"]["name"],
        "manifest": manifest_sha256,
        "members": dict(manifest["members"]),
        "recipe": dict(manifest["recipe"]),
        "unit": manifest["unit"],
        "seed": manifest["seed"],
        "parents": [dict(parent) for parent in parents],
        "totals": dict(manifest["totals"]),
        "achieved": {unit: dict(shares) for unit, shares in manifest["achieved"].items()},
        "constraints": [dict(constraint) for constraint in manifest.get("constraints", ())],
        "groups": [dict(group) for group in manifest["groups"]],
        "repeats": dict(repeats),
        "sources": dict(counts["source"]),
        "licences": dict(counts["licence"]),
        "kinds": dict(counts["kind"]),
        "languages": dict(counts["language"]),
        "vshards": manifest["vshards"],
        "shards": [{"name": s["name"], "parent": s["parent"], "sha256": s["sha256"]} for s in manifest["shards"]],
        "tars": [] if manifest["materialized"] is None else [dict(tar) for tar in manifest["materialized"]],
        "warnings": list(manifest["warnings"]),
    }


def build_tar_card(
    tar: Mapping[str, Any],
    *,
    mixture: str,
    totals: Mapping[str, float],
    counts: Mapping[str, Mapping[str, Mapping[str, float]]],
    shards: Sequence[str],
) -> dict[str, Any]:
    """Build the card of one tar of a materialized mixture.

    tar: its entry in mixture.json; totals: {unit: amount}; counts: as for a mixture, and by modality; shards: sha256 of
    the tars that its samples were copied from.
    """
    return {
        "card": VERSION,
        "shard": tar["name"],
        "mixture": mixture,
        "tar": {"sha256": tar["sha256"], "bytes": tar["bytes"]},
        "samples": tar["samples"],
        "totals": dict(totals),
        "modalities": dict(counts["modality"]),
        "sources": dict(counts["source"]),
        "licences": dict(counts["licence"]),
        "kinds": dict(counts["kind"]),
        "languages": dict(counts["language"]),
        "copied_from": sorted(shards),
    }
