"""A shard's card: what is in it, where from, what was dropped on the way and why. Pure: rows in, JSON values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mixtures.shards.series import Series

#: Raised when a field's meaning changes.
VERSION = 1

#: Bins of a histogram; edges are those of the values themselves, so that nothing falls outside.
BINS = 16


def build_histogram(values: NDArray[np.float64]) -> dict[str, Any] | None:
    """count, mean, min, p05, p50, p95, max, and equal-width bins of the finite values; None where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    top = high
    if (np.diff(np.linspace(low, high, BINS + 1)) <= 0).any():  # one number, or too near to one for as many bins
        top = low + max(1.0, 2 * BINS * float(np.spacing(abs(low))))
    counts, edges = np.histogram(values, bins=BINS, range=(low, top))
    p05, p50, p95 = (float(x) for x in np.quantile(values, (0.05, 0.5, 0.95)))
    # Summed in order of size: the mean does not depend on the order of rows.
    mean = float(np.sort(values).sum() / len(values))
    return {
        "count": len(values),
        "mean": _short(mean),
        "min": _short(low),
        "p05": _short(p05),
        "p50": _short(p50),
        "p95": _short(p95),
        "max": _short(high),
        "counts": counts.tolist(),
        "edges": [_short(float(edge)) for edge in edges],
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def count_values(values: Sequence[Any] | pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands, by value as text; null is "" there."""
    found: dict[str, int] = {}
    pairs = _counted(values) if isinstance(values, pa.ChunkedArray) else ((value, 1) for value in values)
    for value, count in pairs:
        name = "" if value is None else str(value)
        found[name] = found.get(name, 0) + count
    return dict(sorted(found.items()))


def _counted(column: pa.ChunkedArray) -> Iterable[tuple[Any, int]]:
    counted = pc.value_counts(column)
    return zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)


def summarize_dialogues(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a card says of its samples' dialogues (rows of the dialogues table); None where there are none.

    kinds: accepted dialogues by kind; rejected, rejected_turns: by reason (turns of rejected dialogues are not counted
    again); blind: turns asked without the video, those answered right in more than half of the tries, the mean rate,
    and turns that were exempt or stopped before.
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
        "rejected": count_values([_name(row["reason"]) for row in rows if row["outcome"] != "accepted"]),
        "rejected_turns": count_values(
            [_name(turn["reason"]) for row in accepted for turn in row["turns"] if turn["outcome"] != "accepted"]
        ),
        "blind": {
            "asked": len(asked),
            "answerable": sum(rate > 0.5 for rate in asked),
            "mean_rate": _short(sum(asked) / len(asked)) if asked else None,
            "not_asked": len(turns) - len(asked),
        },
        "tokens_in": sum(row["tokens_in"] for row in rows),
        "tokens_out": sum(row["tokens_out"] for row in rows),
        "generators": count_values([row["generator"] for row in rows]),
        "models": count_values([row["model"] for row in rows if row["model"]]),
    }


def _name(reason: str | None) -> str:
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
    made_by: Mapping[str, Any],
    dialogues: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card of one shard.

    tar: {"sha256", "bytes"}; members: rows of the members table; signals: of the same samples; score_columns:
    of signals, whose distribution the card shows where they were measured; ledger, reasons: of
    all inputs whose place lies within this shard, dropped ones too; made_by: run, code and models; dialogues: see
    `dialogues`, None where none were asked for.
    """
    scores = {}
    for column in score_columns:
        if column in signals.schema.names:
            values = pc.cast(signals[column], pa.float64())
            found = build_histogram(np.asarray(pc.fill_null(values, float("nan")), dtype=np.float64))
            if found is not None:
                scores[column] = found
    seconds = np.asarray(members["seconds"], dtype=np.float64)
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
        "seconds": _short(float(np.sort(seconds).sum())),
        "media_bytes": int(pc.sum(members["bytes"]).as_py() or 0),
        "scores": scores,
        "ledger": dict(ledger),
        "reasons": dict(reasons),
        "dialogues": None if dialogues is None else dict(dialogues),
        "made_by": dict(made_by),
    }


# -- mixtures ---------------------------------------------------------------------------------------------------


def build_mixture_card(
    value: Mapping[str, Any],
    *,
    manifest: str,
    repeats: Mapping[str, int],
    counts: Mapping[str, Mapping[str, Mapping[str, float]]],
    parents: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The card of a mixture.

    value: of mixture.json, and manifest its sha256; repeats: how often the first, second, … copy of a sample stands
    in it; counts: column -> value -> {unit: amount}; parents: for each run {name, members, seed, reelmill,
    evaluation_sets, dialogues}, the last two as its shards' cards say.
    """
    checked = sorted({name for parent in parents for name in parent["evaluation_sets"]})
    return {
        "card": VERSION,
        "mixture": value["recipe"]["name"],
        "manifest": manifest,
        "members": dict(value["members"]),
        "recipe": dict(value["recipe"]),
        "unit": value["unit"],
        "seed": value["seed"],
        "parents": [dict(parent) for parent in parents],
        "totals": dict(value["totals"]),
        "achieved": {unit: dict(shares) for unit, shares in value["achieved"].items()},
        "constraints": [dict(one) for one in value.get("constraints", ())],
        "groups": [dict(group) for group in value["groups"]],
        "repeats": dict(repeats),
        "sources": dict(counts["source"]),
        "licences": dict(counts["licence"]),
        "kinds": dict(counts["kind"]),
        "languages": dict(counts["language"]),
        "evaluation_sets": checked,
        "vshards": value["vshards"],
        "shards": [{"name": s["name"], "parent": s["parent"], "sha256": s["sha256"]} for s in value["shards"]],
        "tars": [] if value["materialized"] is None else [dict(tar) for tar in value["materialized"]],
        "warnings": list(value["warnings"]),
    }


def build_tar_card(
    tar: Mapping[str, Any],
    *,
    mixture: str,
    totals: Mapping[str, float],
    counts: Mapping[str, Mapping[str, Mapping[str, float]]],
    shards: Sequence[str],
) -> dict[str, Any]:
    """The card of one tar of a materialized mixture.

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
