"""Thresholds as the page needs them: counts by value, a few kilobytes each, from which a slider adds up its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.finished_run import JudgedRun
from pipelines.report import charts
from pipelines.report.data_scripts import codes, numbers
from pipelines.report.report_rows import ReportRows
from pipelines.report.thresholds import OPEN, PASSES, ThresholdEffect, thresholds


def write(finished: JudgedRun, rows: ReportRows, put: Callable[[str, Any], None]) -> list[dict[str, Any]]:
    """Put one file a threshold (what-if-FILTER.PATH) and return what the page must know before it opens one.

    Each entry: filter, path, side, now (null: the rule is off), share (the setting was a share of the rows, and `now`
    is what that came to), decides (rows whose value matters), stops (those of them that it stops as it is),
    histogram of the values it is held against.
    """
    found = []
    for threshold in thresholds(finished.resolved, rows, finished.run.captions_optional):
        name = ".".join((threshold.filter, *threshold.path))
        put(f"what-if-{name}", counts(threshold, rows))
        asked = ~threshold.always & ~threshold.never
        measured = np.isfinite(threshold.value) & _concerned(threshold, rows, finished)
        marks = [] if threshold.now is None else [threshold.now]
        found.append(
            {
                "name": name,
                "filter": threshold.filter,
                "path": list(threshold.path),
                "side": threshold.side,
                "now": threshold.now,
                "share": threshold.filter in finished.cutoffs and threshold.path == ("min_score",),
                "decides": int(asked.sum()),
                "stops": 0 if threshold.now is None else int((asked & ~threshold.passed(threshold.now)).sum()),
                "histogram": charts.histogram(
                    np.where(measured, threshold.value, np.nan), rows.outcome == "kept", marks
                ),
            }
        )
    return found


def _concerned(threshold: ThresholdEffect, rows: ReportRows, finished: JudgedRun) -> NDArray[np.bool_]:
    """bool (n,): rows of the modalities that the filter asks; documents and captions have thresholds of their own."""
    filter_ = next(f for f in finished.resolved.filters if f.name == threshold.filter)
    mine: NDArray[np.bool_] = np.isin(rows.modality, sorted(filter_.modalities))
    if threshold.filter == "quality":
        mine &= (rows.modality == "text") == (threshold.path[0] == "document")
    return mine


def counts(threshold: ThresholdEffect, rows: ReportRows) -> list[dict[str, Any]]:
    """By modality: rows that pass whatever the threshold is, and by value those that pass up to it.

    now, fixed: [passes, open, kept] in the run, and of rows that the value cannot move; value: ascending, without
    repeats; passes, open, kept: rows at each value. `passes` go through the whole cascade, `open` come to a cell that
    was never measured, `kept` are those of the run's kept rows.
    """
    found = []
    kept = rows.outcome == "kept"
    parts = (threshold.rest == PASSES, threshold.rest == OPEN, (threshold.rest == PASSES) & kept)
    for modality in sorted(set(rows.modality.tolist())):
        mine = rows.modality == modality
        fixed = mine & threshold.always & ~threshold.never
        moved = mine & ~threshold.always & ~threshold.never & ~np.isnan(threshold.value)
        moved &= parts[0] | parts[1]
        values, place = np.unique(threshold.value[moved], return_inverse=True)
        columns = [np.bincount(place[part[moved]], minlength=len(values)) for part in parts]
        found.append(
            {
                "modality": modality,
                "inputs": int(mine.sum()),
                "now": [int((mine & threshold.today & part).sum()) for part in parts],
                "fixed": [int((fixed & part).sum()) for part in parts],
                "value": numbers(values),
                "passes": codes(columns[0]),
                "open": codes(columns[1]),
                "kept": codes(columns[2]),
            }
        )
    return found
