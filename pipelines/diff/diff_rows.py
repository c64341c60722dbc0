"""Compare two runs row by row: samples in one run only, changed outcomes, changed scores.

Units are compared with the unit of the same name; a unit whose tables have the same sha256 in both runs is skipped. If
both units have the same keys in the same order, their rows are paired directly. All other rows are paired by key, with
only key, verdict and scores in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from filters import FILTERS, histogram_columns
from infra import storage, tables
from infra.columns import Mask, to_floats
from infra.commit import Manifest, need_manifest
from pipelines.core.console import print_text
from pipelines.diff.compare import show_rows

#: Keys listed as examples of a change, and samples listed as the largest changes of a score.
EXAMPLES = 5
MOVERS = 5

#: Columns of signals in memory at once while they are summarised: 8 bytes per row each.
COLUMNS_AT_ONCE = 8

#: Columns of a verdict besides outcome and filter.
_DETAILS = ("reason", "value", "threshold", "duplicate_of", "keep_probability")
_FACTS = ("modality", "source", "licence", "origin")

#: (outcome in A, filter in A, outcome in B, filter in B); "" without a filter
_Change = tuple[str, str, str, str]


def compare(a: str, b: str) -> dict[str, Any]:
    """samples, outcomes, restated, facts, scores and columns of `reelmill diff --json` for two runs."""
    left_run, right_run = ComparedRun(a), ComparedRun(b)
    columns = sorted(set(left_run.scores) & set(right_run.scores))
    changes = RowChanges(columns)
    unpaired: tuple[list[pa.Table], list[pa.Table]] = ([], [])
    for name in sorted({*left_run.units, *right_run.units}):
        if name in left_run.units and left_run.units[name] == right_run.units.get(name):
            changes.identical += left_run.rows[name]
            continue
        side_a, side_b = (run.read(name, columns) if name in run.units else None for run in (left_run, right_run))
        if side_a is not None and side_b is not None:
            side_a, side_b = changes.add_pairs_by_key(side_a, side_b)
        for rest, table in zip(unpaired, (side_a, side_b), strict=True):
            if table is not None and table.num_rows:
                rest.append(table)
    side_a, side_b = (pa.concat_tables(rest) if rest else _empty_table(columns) for rest in unpaired)
    side_a, side_b = changes.add_pairs_by_key(side_a, side_b)
    scores = columns if side_a.num_rows or side_b.num_rows else sorted(changes.moved)
    return {
        "samples": {
            "a": sum(left_run.rows.values()),
            "b": sum(right_run.rows.values()),
            "both": changes.identical + changes.paired,
            "only_a": _summarize_unpaired(side_a),
            "only_b": _summarize_unpaired(side_b),
        },
        "outcomes": changes.list_outcomes(),
        "restated": changes.restated,
        "facts": changes.facts,
        "scores": _compare_scores(left_run, right_run, changes, scores),
        "columns": {
            "only_a": sorted(set(left_run.scores) - set(right_run.scores)),
            "only_b": sorted(set(right_run.scores) - set(left_run.scores)),
        },
    }


class ComparedRun:
    """One of two compared runs. units: sha256 of each unit's tables; rows: number of rows of each unit; scores: the
    numeric columns of its signals."""

    def __init__(self, run: str) -> None:
        self.run = run
        manifests = {stage: need_manifest(run, stage) for stage in ("samples", "signals", "verdicts")}
        sums = {stage: {unit.name: unit.sha256 for unit in m.units} for stage, m in manifests.items()}
        self.rows = {unit.name: unit.rows for unit in manifests["verdicts"].units}
        self.units = {name: tuple(sums[stage].get(name, "") for stage in sums) for name in self.rows}
        self.scores = _list_numeric(run, manifests["signals"])

    def read(self, unit: str, columns: list[str]) -> pa.Table:
        """key, facts, outcome, filter, details and the scores `columns` (float64) of a unit, in the order of rows."""
        table = self._read("samples", unit, ["key", *_FACTS]).replace_schema_metadata(None)
        verdicts = self._read("verdicts", unit, ["outcome", "filter", *_DETAILS])
        signals = self._read("signals", unit, columns)
        for name in verdicts.schema.names:
            table = table.append_column(name, verdicts[name])
        for name in columns:
            table = table.append_column(name, pc.cast(signals[name], pa.float64()))
        return table

    def summarize(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Summarise some scores over all rows that have one; see `_summarize_score`."""
        scores: dict[str, list[NDArray[np.float64]]] = {name: [np.zeros(0)] for name in names}
        for unit in self.units:
            table = self._read("signals", unit, names)
            for name in names:
                finite = to_floats(table[name])
                scores[name].append(finite[np.isfinite(finite)])
        return {name: _summarize_score(np.concatenate(arrays)) for name, arrays in scores.items()}

    def _read(self, stage: str, unit: str, columns: list[str]) -> pa.Table:
        return tables.read(storage.join(self.run, stage, f"{unit}.parquet"), columns)


def _list_numeric(run: str, signals: Manifest) -> list[str]:
    if not signals.units:
        return []
    with storage.open_read(storage.join(run, "signals", f"{signals.units[0].name}.parquet")) as file:
        schema = pq.read_schema(file)
    return [f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]


def _empty_table(columns: list[str]) -> pa.Table:
    names = ["key", *_FACTS, "outcome", "filter", "reason", "duplicate_of"]
    numbers = ["value", "threshold", "keep_probability", *columns]
    return tables.empty(pa.schema([*((n, pa.string()) for n in names), *((n, pa.float64()) for n in numbers)]))


@dataclass
class RowChanges:
    """Totals over pairs of rows.

    columns: the scores to compare; identical: rows of skipped units; paired: compared pairs; restated: pairs whose
    verdicts differ only in details; facts: column -> number of pairs that differ; changed, examples: changes of outcome
    and their first keys; moved: score -> number of pairs that differ; movers: the largest changes of each score, as
    (-distance, key, score in A, score in B).
    """

    columns: list[str]
    identical: int = 0
    paired: int = 0
    restated: int = 0
    facts: dict[str, int] = field(default_factory=dict)
    changed: dict[_Change, int] = field(default_factory=dict)
    examples: dict[_Change, list[str]] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    movers: dict[str, list[tuple[float, str, float | None, float | None]]] = field(default_factory=dict)

    def add_pairs_by_key(self, a: pa.Table, b: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Pair rows with the same key; returns the rows of each side without a pair."""
        if a["key"].equals(b["key"]):
            self.add_pairs(a, b)
            return a.slice(0, 0), b.slice(0, 0)
        row = pc.index_in(a["key"], value_set=b["key"].combine_chunks())
        has_pair = pc.is_valid(row)
        self.add_pairs(a.filter(has_pair), b.take(row.drop_null()))
        unpaired = pc.invert(pc.is_in(b["key"], value_set=a["key"].combine_chunks()))
        return a.filter(pc.invert(has_pair)), b.filter(unpaired)

    def add_pairs(self, a: pa.Table, b: pa.Table) -> None:
        """Compare two tables with the same keys in the same order."""
        self.paired += a.num_rows
        self._add_outcomes(a, b)
        for name in _FACTS:
            count = 0 if a[name].equals(b[name]) else int(_differs(a[name], b[name]).sum())
            if count:
                self.facts[name] = self.facts.get(name, 0) + count
        for name in self.columns:
            if not a[name].equals(b[name]):
                self._add_score(name, a, b)

    def _add_outcomes(self, a: pa.Table, b: pa.Table) -> None:
        changed = _differs(a["outcome"], b["outcome"]) | _differs(a["filter"], b["filter"])
        details = np.zeros(a.num_rows, dtype=bool)
        for name in _DETAILS:
            details |= _differs(a[name], b[name])
        self.restated += int((details & ~changed).sum())
        rows = pa.array(np.flatnonzero(changed))
        if not len(rows):
            return
        table = pa.table(
            {
                "key": a["key"].take(rows),
                "from": a["outcome"].take(rows),
                "from_filter": pc.fill_null(a["filter"].take(rows), ""),
                "to": b["outcome"].take(rows),
                "to_filter": pc.fill_null(b["filter"].take(rows), ""),
            }
        )
        by = ["from", "from_filter", "to", "to_filter"]
        for row in table.group_by(by).aggregate([("key", "list")]).to_pylist():
            change = (row["from"], row["from_filter"], row["to"], row["to_filter"])
            first = sorted(row["key_list"])[:EXAMPLES]
            self.changed[change] = self.changed.get(change, 0) + len(row["key_list"])
            self.examples[change] = sorted([*self.examples.get(change, []), *first])[:EXAMPLES]

    def _add_score(self, name: str, a: pa.Table, b: pa.Table) -> None:
        side_a, side_b = to_floats(a[name]), to_floats(b[name])
        moved = (side_a != side_b) & ~(np.isnan(side_a) & np.isnan(side_b))
        if not moved.any():
            return
        self.moved[name] = self.moved.get(name, 0) + int(moved.sum())
        rows = np.flatnonzero(moved & np.isfinite(side_a) & np.isfinite(side_b))
        distance = np.abs(side_a[rows] - side_b[rows])
        if len(rows) > MOVERS:  # the largest, including ties, of which the smallest keys are taken below
            rows = rows[distance >= np.partition(distance, -MOVERS)[-MOVERS]]
        keys = a["key"].take(pa.array(rows)).to_pylist()
        scores = zip(keys, side_a[rows].tolist(), side_b[rows].tolist(), strict=True)
        movers = [(-abs(x - y), key, x, y) for key, x, y in scores]
        self.movers[name] = sorted([*self.movers.get(name, []), *movers])[:MOVERS]

    def list_outcomes(self) -> list[dict[str, Any]]:
        """Changes of outcome, the most frequent first."""
        changes = sorted(self.changed, key=lambda change: (-self.changed[change], change))
        return [
            {
                "from": {"outcome": change[0], "filter": change[1] or None},
                "to": {"outcome": change[2], "filter": change[3] or None},
                "count": self.changed[change],
                "examples": self.examples[change],
            }
            for change in changes
        ]


def _differs(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Mask:
    """bool (n,): where two columns differ; null equals null."""
    unequal = pc.fill_null(pc.not_equal(a, b), False)
    return np.asarray(pc.or_(unequal, pc.xor(pc.is_null(a), pc.is_null(b))), dtype=bool)


def _summarize_unpaired(table: pa.Table) -> dict[str, Any]:
    """Count rows that are in one run only, in total, by source and by outcome, with the first keys."""
    first = (
        pc.select_k_unstable(table, EXAMPLES, [("key", "ascending")]) if table.num_rows else pa.array([], pa.int64())
    )
    return {
        "count": table.num_rows,
        "sources": _count(table["source"]),
        "outcomes": _count(table["outcome"]),
        "examples": sorted(table["key"].take(first).to_pylist()),
    }


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(column).to_pylist()
    return dict(sorted((str(entry["values"]), int(entry["counts"])) for entry in counts))


def _compare_scores(a: ComparedRun, b: ComparedRun, changes: RowChanges, names: list[str]) -> list[dict[str, Any]]:
    """Summaries of some scores in both runs, COLUMNS_AT_ONCE in memory; scores without a difference are left out."""
    scores = []
    for start in range(0, len(names), COLUMNS_AT_ONCE):
        batch = names[start : start + COLUMNS_AT_ONCE]
        side_a, side_b = a.summarize(batch), b.summarize(batch)
        for name in batch:
            if side_a[name] == side_b[name] and name not in changes.moved:
                continue
            movers = [{"key": key, "a": x, "b": y} for _, key, x, y in changes.movers.get(name, [])]
            moved = changes.moved.get(name, 0)
            scores.append({"column": name, "a": side_a[name], "b": side_b[name], "moved": moved, "movers": movers})
    return scores


def _summarize_score(scores: NDArray[np.float64]) -> dict[str, Any]:
    """count, mean and quantiles to six digits; null if there are no scores."""
    if not len(scores):
        return {"count": 0, "mean": None, "min": None, "p05": None, "p50": None, "p95": None, "max": None}
    low, p05, p50, p95, high = (float(f"{x:.6g}") for x in np.quantile(scores, (0, 0.05, 0.5, 0.95, 1)))
    mean = float(f"{np.sort(scores).sum() / len(scores):.6g}")  # sorted, so that the order of rows has no effect
    return {"count": len(scores), "mean": mean, "min": low, "p05": p05, "p50": p50, "p95": p95, "max": high}


# -- for people -------------------------------------------------------------------------------------------------


def show(changes: Mapping[str, Any]) -> None:
    """Print tables of what differs."""
    samples = changes["samples"]
    unpaired = ", ".join(f"{samples[f'only_{side}']['count']:,} only in {side.upper()}" for side in ("a", "b"))
    print_text(f"samples: {samples['both']:,} in both, {unpaired}")
    outcomes = [
        (_format_outcome(entry["from"]), _format_outcome(entry["to"]), entry["count"], entry["examples"][0])
        for entry in changes["outcomes"]
    ]
    show_rows("Changed outcomes", ("in A", "in B", "samples", "example"), outcomes, aligned_left=("in B", "example"))
    filter_columns = histogram_columns(FILTERS)
    listed = [entry for entry in changes["scores"] if entry["column"] in filter_columns]
    scores = [
        (entry["column"], entry["moved"], _format_spread(entry["a"]), _format_spread(entry["b"]),
         next((f"{m['key']}: {m['a']:g} -> {m['b']:g}" for m in entry["movers"]), ""))
        for entry in listed
    ]  # fmt: skip
    columns = ("column", "changed", "A", "B", "largest change")
    show_rows("Changed scores: mean (5th to 95th percentile)", columns, scores, aligned_left=("largest change",))
    if more := len(changes["scores"]) - len(listed):
        print_text(f"{more:,} other columns changed; --json lists them")
    if changes["restated"]:
        print_text(f"{changes['restated']:,} verdicts differ only in reason, value, threshold or partner")


def _format_outcome(entry: Mapping[str, Any]) -> str:
    has_filter = entry["filter"] is not None and entry["outcome"] in ("dropped", "failed")
    return f"{entry['outcome']}: {entry['filter']}" if has_filter else str(entry["outcome"])


def _format_spread(entry: Mapping[str, Any]) -> str:
    return f"{entry['mean']:g} ({entry['p05']:g} to {entry['p95']:g})" if entry["count"] else "none"
