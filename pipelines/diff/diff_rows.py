"""Two runs row by row: who is only in one, whose outcome changed, which scores moved. Unit against unit.

A unit whose tables have the same sha256 in both runs is not compared at all. Units of one name that hold the same keys
in the same order are laid side by side; the rest meets by key, with no more held than a key, an outcome and the scores.
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
from rich.console import Console
from rich.table import Table

from filters import FILTERS, histogram_columns
from infra import storage, tables
from infra.commit import Manifest, need_manifest

#: Keys shown as examples of a change, and samples shown as the largest movers of a score.
EXAMPLES = 5
MOVERS = 5

#: Columns of signals that are held at once while their distributions are told: 8 bytes a row each.
AT_ONCE = 8

#: What a verdict says besides its outcome and filter.
_DETAILS = ("reason", "value", "threshold", "duplicate_of", "keep_probability")
_FACTS = ("modality", "source", "licence", "origin")


def compare(a: str, b: str) -> dict[str, Any]:
    """samples, outcomes, restated, facts and scores of two runs, as `reelmill diff --json` gives them."""
    one, other = _Side(a), _Side(b)
    columns = sorted(set(one.scores) & set(other.scores))
    found = _Found(columns)
    loose: tuple[list[pa.Table], list[pa.Table]] = ([], [])
    for name in sorted({*one.units, *other.units}):
        if name in one.units and name in other.units and one.units[name] == other.units[name]:
            found.same += one.rows[name]
            continue
        parts = [side.read(name, columns) if name in side.units else None for side in (one, other)]
        if parts[0] is not None and parts[1] is not None:
            if parts[0]["key"].equals(parts[1]["key"]):
                found.pair(parts[0], parts[1])
                continue
            parts = list(found.meet(parts[0], parts[1]))
        for rest, part in zip(loose, parts, strict=True):
            if part is not None and part.num_rows:
                rest.append(part)
    left, right = (pa.concat_tables(parts) if parts else _nothing(columns) for parts in loose)
    left, right = found.meet(left, right)
    told = columns if left.num_rows or right.num_rows else sorted(found.moved)
    return {
        "samples": {
            "a": sum(one.rows.values()),
            "b": sum(other.rows.values()),
            "both": found.same + found.paired,
            "only_a": _alone(left),
            "only_b": _alone(right),
        },
        "outcomes": found.outcomes(),
        "restated": found.restated,
        "facts": found.facts,
        "scores": _scores(one, other, found, told),
        "columns": {
            "only_a": sorted(set(one.scores) - set(other.scores)),
            "only_b": sorted(set(other.scores) - set(one.scores)),
        },
    }


class _Side:
    """One run: its units with the sha256 of their tables, and the numeric columns of its signals."""

    def __init__(self, run: str) -> None:
        self.run = run
        manifests = {stage: need_manifest(run, stage) for stage in ("samples", "signals", "verdicts")}
        sums = {stage: {unit.name: unit.sha256 for unit in m.units} for stage, m in manifests.items()}
        names = [unit.name for unit in manifests["verdicts"].units]
        self.units = {name: tuple(sums[stage].get(name, "") for stage in sums) for name in names}
        self.signals = sums["signals"]
        self.rows = {unit.name: unit.rows for unit in manifests["verdicts"].units}
        self.scores = _numeric(run, manifests["signals"])

    def read(self, unit: str, columns: list[str]) -> pa.Table:
        """key, source, …, outcome, filter, details and scores of a unit, in rows' order."""
        samples = tables.read(self._at("samples", unit), ["key", *_FACTS])
        verdicts = tables.read(self._at("verdicts", unit), ["outcome", "filter", *_DETAILS])
        signals = tables.read(self._at("signals", unit), columns)
        table = samples.replace_schema_metadata(None)
        for part in (verdicts, signals):
            for name in part.schema.names:
                values = pc.cast(part[name], pa.float64()) if name in columns else part[name]
                table = table.append_column(name, values)
        return table

    def summaries(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Of some scores, over all rows that have one: see `_summary`."""
        parts: dict[str, list[NDArray[np.float64]]] = {name: [np.zeros(0)] for name in names}
        for unit in self.units:
            table = tables.read(self._at("signals", unit), names)
            for name in names:
                values = np.asarray(pc.cast(table[name].drop_null(), pa.float64()), dtype=np.float64)
                parts[name].append(values[np.isfinite(values)])
        return {name: _summary(np.concatenate(found)) for name, found in parts.items()}

    def _at(self, stage: str, unit: str) -> str:
        return storage.join(self.run, stage, f"{unit}.parquet")


def _numeric(run: str, signals: Manifest) -> list[str]:
    if not signals.units:
        return []
    with storage.open_read(storage.join(run, "signals", f"{signals.units[0].name}.parquet")) as file:
        schema = pq.read_schema(file)
    return [f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]


def _nothing(columns: list[str]) -> pa.Table:
    names = ["key", *_FACTS, "outcome", "filter", "reason", "duplicate_of"]
    numbers = ["value", "threshold", "keep_probability", *columns]
    return tables.empty(pa.schema([*((n, pa.string()) for n in names), *((n, pa.float64()) for n in numbers)]))


@dataclass
class _Found:
    """What the pairs that were looked at add up to."""

    columns: list[str]
    same: int = 0
    paired: int = 0
    restated: int = 0
    facts: dict[str, int] = field(default_factory=dict)
    changed: dict[tuple[str, str, str, str], int] = field(default_factory=dict)
    examples: dict[tuple[str, str, str, str], list[str]] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    movers: dict[str, list[tuple[float, str, float | None, float | None]]] = field(default_factory=dict)

    def meet(self, a: pa.Table, b: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Pair what has the same key; returns what has none, of either side."""
        if not a.num_rows or not b.num_rows:
            return a, b
        place = pc.index_in(a["key"], value_set=b["key"].combine_chunks())
        there = pc.is_valid(place)
        self.pair(a.filter(there), b.take(place.drop_null()))
        back = pc.is_in(b["key"], value_set=a["key"].combine_chunks())
        return a.filter(pc.invert(there)), b.filter(pc.invert(back))

    def pair(self, a: pa.Table, b: pa.Table) -> None:
        """Compare two tables of the same keys in the same order."""
        self.paired += a.num_rows
        self._outcomes(a, b)
        for name in _FACTS:
            if a[name].equals(b[name]):
                continue
            count = int(_differs(a[name], b[name]).sum())
            if count:
                self.facts[name] = self.facts.get(name, 0) + count
        for name in self.columns:
            if not a[name].equals(b[name]):
                self._score(name, a, b)

    def _outcomes(self, a: pa.Table, b: pa.Table) -> None:
        other = _differs(a["outcome"], b["outcome"]) | _differs(a["filter"], b["filter"])
        details = np.zeros(a.num_rows, dtype=bool)
        for name in _DETAILS:
            details |= _differs(a[name], b[name])
        self.restated += int((details & ~other).sum())
        rows = pa.array(np.flatnonzero(other))
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

    def _score(self, name: str, a: pa.Table, b: pa.Table) -> None:
        left, right = (np.asarray(pc.fill_null(t[name], float("nan")), dtype=np.float64) for t in (a, b))
        moved = (left != right) & ~(np.isnan(left) & np.isnan(right))
        if not moved.any():
            return
        self.moved[name] = self.moved.get(name, 0) + int(moved.sum())
        rows = np.flatnonzero(moved & np.isfinite(left) & np.isfinite(right))
        far = np.abs(left[rows] - right[rows])
        if len(rows) > MOVERS:  # the farthest, ties too, of which the smallest keys are taken below
            rows = rows[far >= np.partition(far, -MOVERS)[-MOVERS]]
        keys = a["key"].take(pa.array(rows)).to_pylist()
        new = [
            (-abs(x - y), key, x, y) for key, x, y in zip(keys, left[rows].tolist(), right[rows].tolist(), strict=True)
        ]
        self.movers[name] = sorted([*self.movers.get(name, []), *new])[:MOVERS]

    def outcomes(self) -> list[dict[str, Any]]:
        """Changes of outcome, the most frequent first."""
        names = sorted(self.changed, key=lambda name: (-self.changed[name], name))
        return [
            {
                "from": {"outcome": name[0], "filter": name[1] or None},
                "to": {"outcome": name[2], "filter": name[3] or None},
                "count": self.changed[name],
                "examples": self.examples[name],
            }
            for name in names
        ]


def _differs(a: pa.ChunkedArray, b: pa.ChunkedArray) -> NDArray[np.bool_]:
    """bool (n,): where two columns are not equal; null equals null."""
    unequal = pc.fill_null(pc.not_equal(a, b), False)
    return np.asarray(pc.or_(unequal, pc.xor(pc.is_null(a), pc.is_null(b))), dtype=bool)


def _alone(table: pa.Table) -> dict[str, Any]:
    """What stands in one run only: how many, by source and by outcome, and the first keys."""
    return {
        "count": table.num_rows,
        "sources": _counts(table["source"]),
        "outcomes": _counts(table["outcome"]),
        "examples": sorted(
            pc.take(table["key"], pc.select_k_unstable(table, EXAMPLES, [("key", "ascending")])).to_pylist()
        )
        if table.num_rows
        else [],
    }


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    found = pc.value_counts(values).to_pylist()
    return dict(sorted((str(entry["values"]), int(entry["counts"])) for entry in found))


def _scores(one: _Side, other: _Side, found: _Found, names: list[str]) -> list[dict[str, Any]]:
    """Distributions of some scores in both runs, a few columns in memory at a time; equal ones are left out."""
    scores = []
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        left, right = one.summaries(some), other.summaries(some)
        for name in some:
            if left[name] == right[name] and name not in found.moved:
                continue
            movers = [{"key": key, "a": x, "b": y} for _, key, x, y in found.movers.get(name, [])]
            moved = found.moved.get(name, 0)
            scores.append({"column": name, "a": left[name], "b": right[name], "moved": moved, "movers": movers})
    return scores


def _summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """count, mean and quantiles; null where there is no value."""
    if not len(values):
        return {"count": 0, "mean": None, "min": None, "p05": None, "p50": None, "p95": None, "max": None}
    low, p05, p50, p95, high = (float(f"{x:.6g}") for x in np.quantile(values, (0, 0.05, 0.5, 0.95, 1)))
    mean = float(f"{np.sort(values).sum() / len(values):.6g}")  # summed by size: the order of rows does not show
    return {"count": len(values), "mean": mean, "min": low, "p05": p05, "p50": p50, "p95": p95, "max": high}


# -- for people -------------------------------------------------------------------------------------------------


def show(out: Console, value: Mapping[str, Any]) -> None:
    """Tables of what differs."""
    samples = value["samples"]
    alone = ", ".join(f"{samples[f'only_{side}']['count']:,} only in {side.upper()}" for side in ("a", "b"))
    out.print(f"samples: {samples['both']:,} in both, {alone}", highlight=False)
    table = Table(title="Outcomes that changed", title_justify="left")
    for name in ("in A", "in B", "samples", "such as"):
        table.add_column(name, justify="right" if name == "samples" else "left")
    for entry in value["outcomes"]:
        names = (_outcome(entry[side]) for side in ("from", "to"))
        table.add_row(*names, f"{entry['count']:,}", entry["examples"][0])
    scores = Table(title="Scores that moved: mean, and 5 % to 95 %", title_justify="left")
    for name in ("column", "moved", "A", "B", "farthest"):
        scores.add_column(name, justify="left" if name in ("column", "farthest") else "right")
    of_filters = histogram_columns(FILTERS)
    shown = [entry for entry in value["scores"] if entry["column"] in of_filters]
    for entry in shown:
        mover = next((f"{m['key']}: {m['a']:g} -> {m['b']:g}" for m in entry["movers"]), "")
        scores.add_row(entry["column"], f"{entry['moved']:,}", _spread(entry["a"]), _spread(entry["b"]), mover)
    for one in (table, scores):
        if one.row_count:
            out.print(one)
    if more := len(value["scores"]) - len(shown):
        out.print(f"{more:,} other columns moved; --json has them", highlight=False)
    if value["restated"]:
        out.print(f"{value['restated']:,} verdicts are the same but for a value, threshold or partner", highlight=False)


def _outcome(entry: Mapping[str, Any]) -> str:
    shown = entry["filter"] is not None and entry["outcome"] in ("dropped", "failed")
    return f"{entry['outcome']}: {entry['filter']}" if shown else str(entry["outcome"])


def _spread(entry: Mapping[str, Any]) -> str:
    return f"{entry['mean']:g} ({entry['p05']:g} to {entry['p95']:g})" if entry["count"] else "none"
