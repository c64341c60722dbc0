"""Write the data of the sliders: counts of samples by value, a few kilobytes for each threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.finished_run import JudgedRun
from pipelines.report import charts
from pipelines.report.data_scripts import pack_codes, pack_numbers
from pipelines.report.report_rows import ReportRows
from pipelines.report.thresholds import OPEN, PASSES, ThresholdEffect, thresholds


def write(judged: JudgedRun, rows: ReportRows, put: Callable[[str, Any], None]) -> list[dict[str, Any]]:
    """Write one file per threshold (what-if-FILTER.PATH) with `put` and return what the page needs before it loads one.

    Each entry: filter, path, side, now (null: the rule is off), share (the setting is a share of the rows, and `now`
    the score computed from it), decides (rows whose value matters), stops (rows among these that it stops now),
    histogram of the values that it is compared with.
    """
    entries = []
    for threshold in thresholds(judged.resolved, rows, judged.run.captions_optional):
        name = ".".join((threshold.filter, *threshold.path))
        put(f"what-if-{name}", count_by_value(threshold, rows))
        open_rows = ~threshold.always & ~threshold.never
        measured = np.isfinite(threshold.value) & _select_rows(threshold, rows, judged)
        marks = [] if threshold.now is None else [threshold.now]
        entries.append(
            {
                "name": name,
                "filter": threshold.filter,
                "path": list(threshold.path),
                "side": threshold.side,
                "now": threshold.now,
                "share": threshold.filter in judged.cutoffs and threshold.path == ("min_score",),
                "decides": int(open_rows.sum()),
                "stops": 0 if threshold.now is None else int((open_rows & ~threshold.passed(threshold.now)).sum()),
                "histogram": charts.build_histogram(
                    np.where(measured, threshold.value, np.nan), rows.outcome == "kept", marks
                ),
            }
        )
    return entries


def _select_rows(threshold: ThresholdEffect, rows: ReportRows, judged: JudgedRun) -> NDArray[np.bool_]:
    """bool (n,): rows of the filter's modalities; documents and captions have separate thresholds."""
    filter_ = next(f for f in judged.resolved.filters if f.name == threshold.filter)
    selected: NDArray[np.bool_] = np.isin(rows.modality, sorted(filter_.modalities))
    if threshold.filter == "quality":
        selected &= (rows.modality == "text") == (threshold.path[0] == "document")
    return selected


def count_by_value(threshold: ThresholdEffect, rows: ReportRows) -> list[dict[str, Any]]:
    """Count rows by modality and value.

    now, fixed: [passes, open, kept] in the run, and among rows that this threshold does not affect; value: ascending,
    unique; passes, open, kept: number of rows at each value. `passes` pass the whole cascade, `open` reach a signal
    that was not measured, `kept` are rows that the run kept.
    """
    counts = []
    kept = rows.outcome == "kept"
    masks = (threshold.rest == PASSES, threshold.rest == OPEN, (threshold.rest == PASSES) & kept)
    for modality in sorted(set(rows.modality.tolist())):
        in_modality = rows.modality == modality
        fixed = in_modality & threshold.always & ~threshold.never
        moved = in_modality & ~threshold.always & ~threshold.never & ~np.isnan(threshold.value)
        moved &= masks[0] | masks[1]
        values, index = np.unique(threshold.value[moved], return_inverse=True)
        columns = [np.bincount(index[mask[moved]], minlength=len(values)) for mask in masks]
        counts.append(
            {
                "modality": modality,
                "inputs": int(in_modality.sum()),
                "now": [int((in_modality & threshold.today & mask).sum()) for mask in masks],
                "fixed": [int((fixed & mask).sum()) for mask in masks],
                "value": pack_numbers(values),
                "passes": pack_codes(columns[0]),
                "open": pack_codes(columns[1]),
                "kept": pack_codes(columns[2]),
            }
        )
    return counts
