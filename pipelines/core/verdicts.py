"""Signals -> per-sample judgements: every filter asked over columns, in the cascade's order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.rules import MISSING
from pipelines.core import tombstones
from pipelines.core.resolve import Resolved, Step

#: What a row is after its own filters and before its neighbours are looked at.
ALIVE = "alive"

JUDGED = pa.schema(
    [
        ("key", pa.string()),
        ("modality", pa.string()),
        ("source", pa.string()),
        ("outcome", pa.string()),  # alive, dropped, failed
        ("filter", pa.string()),
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        (
            "others",
            pa.list_(
                pa.struct(
                    [
                        ("filter", pa.string()),
                        ("reason", pa.string()),
                        ("value", pa.float64()),
                        ("threshold", pa.float64()),
                    ]
                )
            ),
        ),
    ]
)

Mask = NDArray[np.bool_]


def lacks_text(samples: pa.Table, captions_optional: frozenset[str]) -> Mask:
    """bool (n,): rows that need no caption and have none, so that questions about text do not arise."""
    text = pc.utf8_trim_whitespace(pc.fill_null(samples["text"], ""))
    blank = np.asarray(pc.equal(text, ""), dtype=bool)
    sources = np.array(samples["source"].to_pylist(), dtype=object)
    return blank & np.isin(sources, sorted(captions_optional))


def step_applies(resolved: Resolved, step: Step, modality: NDArray[Any], silent: Mask) -> Mask:
    """bool (n,): rows that a step asks about, by modality, and where it asks about text only those that have some."""
    wanted = np.ones(len(modality), dtype=bool)
    kinds = {resolved.annotators[name].keyed_by for name in step.annotators}
    if step.filter is not None:
        wanted = np.isin(modality, sorted(step.filter.modalities))
        if kinds & {"text", "pair"}:
            wanted &= ~silent
    elif "pair" in kinds:
        wanted &= ~silent
    return wanted


def judge_rows(
    resolved: Resolved, samples: pa.Table, signals: pa.Table, captions_optional: frozenset[str]
) -> tuple[pa.Table, Mask]:
    """Judge one unit's rows.

    samples: columns key, modality, source, text, error; signals: the same rows. Returns (JUDGED table, bool (n,): rows
    that stay undecided because a cell that they need was never measured: none where signals were measured with these
    very settings; what-if looks at them).

    A failure to measure is `failed`, never `dropped`; a row that an earlier filter stopped is not asked further for its
    verdict, but every filter whose columns are there anyway adds its reason to `others`.
    """
    n = samples.num_rows
    modality = np.array(samples["modality"].to_pylist(), dtype=object)
    silent = lacks_text(samples, captions_optional)
    outcome = np.full(n, ALIVE, dtype=object)
    name, reason = np.full(n, None, dtype=object), np.full(n, None, dtype=object)
    value, threshold = np.full(n, np.nan), np.full(n, np.nan)
    others: list[list[dict[str, object]]] = [[] for _ in range(n)]
    unknown = np.zeros(n, dtype=bool)

    broken = np.asarray(pc.is_valid(samples["error"]), dtype=bool)
    outcome[broken], name[broken] = "failed", "ingest"
    reason[broken] = np.array(samples["error"].to_pylist(), dtype=object)[broken]
    gone = tombstones.is_marked(samples["error"])
    outcome[gone], name[gone], reason[gone] = "dropped", tombstones.FILTER, tombstones.extract_reasons(reason[gone])

    for step in resolved.steps:
        wanted = step_applies(resolved, step, modality, silent)
        measured = wanted.copy()
        for annotator in step.annotators:
            group = resolved.annotators[annotator]
            applies = wanted & np.isin(modality, sorted(group.modalities))
            errors = np.array(signals[f"{annotator}.error"].to_pylist(), dtype=object)
            wrong = applies & np.array([e is not None for e in errors], dtype=bool)
            now = wrong & (outcome == ALIVE) & ~unknown
            outcome[now], name[now] = "failed", "measure"
            reason[now] = [f"{annotator}: {error}" for error in errors[now]]
            measured &= ~wrong
        if step.filter is None:
            continue
        columns = [column for annotator in step.annotators for column, _ in resolved.columns(annotator)]
        nothing = np.ones(n, dtype=bool)
        for column in columns:
            nothing &= np.asarray(pc.is_null(signals[column]), dtype=bool)
        unknown |= measured & nothing & (outcome == ALIVE)
        rows = np.flatnonzero(measured & ~nothing)
        if not len(rows):
            continue
        judged = step.filter.judge(
            signals.select(columns).append_column("modality", samples["modality"]).take(pa.array(rows))
        )
        bad = rows[~judged.passed]
        for position, row in zip(np.flatnonzero(~judged.passed), bad, strict=True):
            why = str(judged.reason[position])
            if why == MISSING:
                # A filter fails closed on null and NaN; that is a failure to measure, not a low score.
                if outcome[row] == ALIVE and not unknown[row]:
                    outcome[row], name[row] = "failed", "measure"
                    reason[row] = f"{step.filter.name}: missing value"
            elif outcome[row] == ALIVE and not unknown[row]:
                outcome[row], name[row], reason[row] = "dropped", step.filter.name, why
                value[row], threshold[row] = judged.value[position], judged.threshold[position]
            else:
                others[row].append(
                    {
                        "filter": step.filter.name,
                        "reason": why,
                        "value": float(judged.value[position]),
                        "threshold": float(judged.threshold[position]),
                    }
                )
    table = pa.table(
        {
            "key": samples["key"],
            "modality": samples["modality"],
            "source": samples["source"],
            "outcome": pa.array(outcome, pa.string()),
            "filter": pa.array(name, pa.string()),
            "reason": pa.array(reason, pa.string()),
            "value": _nullable(value),
            "threshold": _nullable(threshold),
            "others": pa.array(others, JUDGED.field("others").type),
        },
        schema=JUDGED,
    )
    return table, unknown & (outcome == ALIVE)


def _nullable(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(np.round(values, 6), mask=np.isnan(values))


def tally(verdicts: pa.Table, ignored: Mapping[str, int]) -> dict[str, object]:
    """The ledger of some verdicts: per modality and in all; the sums reconcile or ValueError is raised."""
    found: dict[str, dict[str, object]] = {}
    modality = verdicts["modality"].to_pylist()
    names = [m for m in ("video", "image", "multi_image", "text") if m in set(modality) | set(ignored)]
    columns = [verdicts[c].to_pylist() for c in ("outcome", "filter")]
    rows = list(zip(modality, *columns, strict=True))
    for name in names:
        found[name] = _count([row[1:] for row in rows if row[0] == name], ignored.get(name, 0))
    found["all"] = _count([row[1:] for row in rows], sum(ignored.values()))
    return dict(found)


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
    """Raises ValueError when what went in is not what came out."""
    dropped, failed = ledger["dropped"], ledger["failed"]
    assert isinstance(dropped, dict) and isinstance(failed, dict)
    out = int(str(ledger["kept"])) + int(str(ledger["duplicates"])) + sum(dropped.values()) + sum(failed.values())
    if out != ledger["inputs"]:
        raise ValueError(f"the ledger does not reconcile: {ledger['inputs']} in, {out} out")
    return ledger


def add_ledgers(parts: Sequence[Mapping[str, dict[str, object]]]) -> dict[str, dict[str, object]]:
    """The sum of ledgers, entry by entry."""
    total: dict[str, dict[str, object]] = {}
    for part in parts:
        for name, entry in part.items():
            total[name] = _plus(total[name], entry) if name in total else dict(entry)
    return total


def _plus(left: Mapping[str, object], right: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key in {*left, *right}:
        a, b = left.get(key, 0), right.get(key, 0)
        if isinstance(a, dict) or isinstance(b, dict):
            a, b = (x if isinstance(x, dict) else {} for x in (a, b))
            found[key] = {k: a.get(k, 0) + b.get(k, 0) for k in sorted({*a, *b})}
        else:
            found[key] = int(str(a)) + int(str(b))
    return found
