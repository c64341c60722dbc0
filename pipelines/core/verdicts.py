"""Signals -> verdicts per sample: every filter judges whole columns, in the order of the cascade. Without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.rules import MISSING, Judgement
from infra import tables
from infra.columns import equals, is_environment, is_null, is_valid, to_strings
from pipelines.core import tombstones
from pipelines.core.resolve import Resolved, Step

#: The outcome of a row that passes all filters, before duplicates and resampling are decided.
ALIVE = "alive"

#: The filter of rows that failed by a fault of the machine or the storage, which the next run tries again.
ENVIRONMENT = "environment"

#: Verdicts before duplicates and resampling; outcome is alive, dropped or failed.
JUDGED = pa.schema(
    [tables.VERDICTS.field(name) for name in ("key", "modality", "source", "outcome", "filter", "reason", "value",
                                              "threshold", "others")]
)  # fmt: skip

Mask = NDArray[np.bool_]


def lacks_text(samples: pa.Table, captions_optional: frozenset[str]) -> Mask:
    """bool (n,): rows that need no caption and have none, to which steps about text do not apply."""
    text = pc.utf8_trim_whitespace(pc.fill_null(samples["text"], ""))
    return equals(text, "") & np.isin(to_strings(samples["source"]), sorted(captions_optional))


def step_applies(resolved: Resolved, step: Step, modality: NDArray[Any], textless: Mask) -> Mask:
    """bool (n,): rows to which a step applies, by modality. Steps about text skip rows that need none."""
    keyed_by = {resolved.annotators[name].keyed_by for name in step.annotators}
    if step.filter is None:
        return ~textless if "pair" in keyed_by else np.ones(len(modality), dtype=bool)
    applies: Mask = np.isin(modality, sorted(step.filter.modalities))
    return applies & ~textless if keyed_by & {"text", "pair"} else applies


class _RowVerdicts:
    """The verdicts of n rows during the cascade. lacks_cells: rows that need a cell that was never measured."""

    def __init__(self, n: int) -> None:
        self.outcome = np.full(n, ALIVE, dtype=object)
        self.filter, self.reason = np.full(n, None, dtype=object), np.full(n, None, dtype=object)
        self.numbers, self.threshold = np.full(n, np.nan), np.full(n, np.nan)
        self.others: list[list[dict[str, object]]] = [[] for _ in range(n)]
        self.lacks_cells = np.zeros(n, dtype=bool)

    def settle(self, rows: Mask | NDArray[np.int64], outcome: str, by: Any, reasons: Any) -> None:
        self.outcome[rows], self.filter[rows], self.reason[rows] = outcome, by, reasons

    def is_open(self) -> Mask:
        """bool (n,): rows that the next filter may still settle."""
        alive: Mask = self.outcome == ALIVE
        return alive & ~self.lacks_cells

    def add(self, name: str, judged: Judgement, rows: NDArray[np.int64]) -> None:
        """Add a filter's judgement of `rows`. A missing value is a failure to measure and not a low score."""
        is_missing, is_open = judged.reason == MISSING, self.is_open()[rows]
        self.settle(rows[is_missing & is_open], "failed", "measure", f"{name}: missing value")
        drops = ~judged.passed & ~is_missing
        first = drops & is_open
        self.settle(rows[first], "dropped", name, judged.reason[first])
        self.numbers[rows[first]], self.threshold[rows[first]] = judged.numbers[first], judged.threshold[first]
        for i in np.flatnonzero(drops & ~is_open):
            number, threshold = float(judged.numbers[i]), float(judged.threshold[i])
            further = {"filter": name, "reason": str(judged.reason[i]), "value": number, "threshold": threshold}
            self.others[rows[i]].append(further)

    def to_table(self, samples: pa.Table) -> pa.Table:
        columns = {name: samples[name] for name in ("key", "modality", "source")}
        columns |= {name: pa.array(getattr(self, name), pa.string()) for name in ("outcome", "filter", "reason")}
        columns |= {"value": _to_nullable(self.numbers), "threshold": _to_nullable(self.threshold)}
        columns["others"] = pa.array(self.others, JUDGED.field("others").type)
        return pa.table(columns, schema=JUDGED)


def judge_rows(
    resolved: Resolved, samples: pa.Table, signals: pa.Table, captions_optional: frozenset[str]
) -> tuple[pa.Table, Mask]:
    """Judge the rows of one unit.

    samples: columns key, modality, source, text, error; signals: the same rows. Returns (JUDGED table, bool (n,): rows
    that stay undecided because a cell that they need was never measured: none where signals were measured with these
    very settings; what-if reports them).

    A failure to measure is `failed`, never `dropped`. The first filter that a row fails decides; every further one
    whose columns were measured anyway adds its reason to `others`.
    """
    modality, textless = to_strings(samples["modality"]), lacks_text(samples, captions_optional)
    verdicts = _RowVerdicts(samples.num_rows)
    errors = to_strings(samples["error"])
    broken, removed = is_valid(samples["error"]), tombstones.is_marked(samples["error"])
    verdicts.settle(broken, "failed", "ingest", errors[broken])
    unread = is_environment(samples["error"])
    verdicts.settle(unread, "failed", ENVIRONMENT, errors[unread])
    verdicts.settle(removed, "dropped", tombstones.FILTER, tombstones.extract_reasons(errors[removed]))
    for step in resolved.steps:
        measured = step_applies(resolved, step, modality, textless)
        for name in step.annotators:
            is_measured = measured & np.isin(modality, sorted(resolved.annotators[name].modalities))
            failed = is_measured & is_valid(signals[f"{name}.error"])
            settled = failed & verdicts.is_open()
            by = np.where(is_environment(signals[f"{name}.error"]), ENVIRONMENT, "measure")
            reasons = [f"{name}: {error}" for error in to_strings(signals[f"{name}.error"])[settled]]
            verdicts.settle(settled, "failed", by[settled], reasons)
            measured &= ~failed
        if step.filter is None:
            continue
        columns = [column for name in step.annotators for column, _ in resolved.columns(name)]
        lacks_cells = measured & np.logical_and.reduce([is_null(signals[column]) for column in columns])
        verdicts.lacks_cells |= lacks_cells & (verdicts.outcome == ALIVE)
        rows = np.flatnonzero(measured & ~lacks_cells)
        if len(rows):
            signals_judged = signals.select(columns).append_column("modality", samples["modality"]).take(pa.array(rows))
            verdicts.add(step.filter.name, step.filter.judge(signals_judged), rows)
    return verdicts.to_table(samples), verdicts.lacks_cells & (verdicts.outcome == ALIVE)


def _to_nullable(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(np.round(values, 6), mask=np.isnan(values))


def tally(verdicts: pa.Table, ignored: Mapping[str, int]) -> dict[str, object]:
    """Count verdicts into a ledger, per modality and in total; raises ValueError if the sums do not reconcile."""
    ledger: dict[str, dict[str, object]] = {}
    modality = verdicts["modality"].to_pylist()
    names = [m for m in ("video", "image", "multi_image", "text") if m in set(modality) | set(ignored)]
    columns = [verdicts[c].to_pylist() for c in ("outcome", "filter")]
    rows = list(zip(modality, *columns, strict=True))
    for name in names:
        ledger[name] = _count([row[1:] for row in rows if row[0] == name], ignored.get(name, 0))
    ledger["all"] = _count([row[1:] for row in rows], sum(ignored.values()))
    return dict(ledger)


def _count(rows: Sequence[tuple[str, str]], ignored: int) -> dict[str, object]:
    ledger: dict[str, object] = {"inputs": len(rows), "kept": 0, "duplicates": 0, "ignored": ignored}
    dropped: dict[str, int] = {}
    failed: dict[str, int] = {}
    kept = duplicates = 0
    for outcome, name in rows:
        if outcome == "kept":
            kept += 1
        elif outcome == "duplicate":
            duplicates += 1
        elif outcome == "dropped":
            dropped[name] = dropped.get(name, 0) + 1
        elif outcome == "failed":
            failed[name] = failed.get(name, 0) + 1
        else:
            raise ValueError(f"a verdict with the outcome {outcome!r}")
    ledger.update(kept=kept, duplicates=duplicates, dropped=dropped, failed=failed)
    return check_ledger(ledger)


def check_ledger(ledger: dict[str, object]) -> dict[str, object]:
    """Return a ledger whose outcomes sum to its inputs; raises ValueError for any other."""
    dropped, failed = ledger["dropped"], ledger["failed"]
    assert isinstance(dropped, dict) and isinstance(failed, dict)
    out = int(str(ledger["kept"])) + int(str(ledger["duplicates"])) + sum(dropped.values()) + sum(failed.values())
    if out != ledger["inputs"]:
        raise ValueError(f"the ledger does not reconcile: {ledger['inputs']} in, {out} out")
    return ledger


def add_ledgers(ledgers: Sequence[Mapping[str, dict[str, object]]]) -> dict[str, dict[str, object]]:
    """Add ledgers entry by entry."""
    total: dict[str, dict[str, object]] = {}
    for ledger in ledgers:
        for name, entry in ledger.items():
            total[name] = _add_entries(total[name], entry) if name in total else dict(entry)
    return total


def _add_entries(first: Mapping[str, object], second: Mapping[str, object]) -> dict[str, object]:
    total: dict[str, object] = {}
    for key in {*first, *second}:
        a, b = first.get(key, 0), second.get(key, 0)
        if isinstance(a, dict) or isinstance(b, dict):
            a, b = (x if isinstance(x, dict) else {} for x in (a, b))
            total[key] = {k: a.get(k, 0) + b.get(k, 0) for k in sorted({*a, *b})}
        else:
            total[key] = int(str(a)) + int(str(b))
    return total
