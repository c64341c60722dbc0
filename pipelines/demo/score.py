"""Score a run against the truth of a demo world.

Recall of a filter: planted faults of its kind whose verdict names it. Precision: verdicts naming it whose planted
fault is of its kind. Duplicates are scored by group: of an original and its copies one has to stay, and every other
is right when its verdict is duplicate of a member of the same group, whichever of them it is. Resampling is random, so
the number kept is compared with the sum of the probabilities.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa

#: Filters besides the one of its own name that may rightly drop a fault.
ALSO: Mapping[str, frozenset[str]] = {"alignment": frozenset({"alignment", "video_alignment"})}
#: Faults that have a filter of their name; duplicates, broken files and resampling have rules of their own.
NAMED = ("quality", "language", "overlay", "alignment", "motion")
RESAMPLE = "resample"
_SHOWN = 40  # mistakes that a report lists, per filter

Truth: TypeAlias = Mapping[str, Any]
Row: TypeAlias = Mapping[str, Any]
#: A sample's truth and its verdict, None where it has none.
Pair: TypeAlias = tuple[Truth, Row | None]


def score(truth: Iterable[Truth], verdicts: pa.Table, ledger: Mapping[str, Any]) -> dict[str, Any]:
    """Build the report on a run.

    truth: what `world.read_truth` returns. verdicts: one row per sample with the columns key, source, container,
    position, modality, outcome, filter, reason, duplicate_of and keep_probability. ledger: RUN/ledger.json.

    {"filters": {name: {planted, caught, named, right, precision, recall, hard_negatives, hard_dropped, by, missed,
    wrong}}, "broken": …, "resample": …, "unmatched": …, "ledger": …}; names are those in NAMED and
    "duplicates.image", "duplicates.video", "duplicates.text". `by` is recall per modality and kind of fault, `missed`
    and `wrong` are lists of samples. Shares of nothing are null. Raises ValueError when a column is missing.
    """
    columns = {"key", "source", "container", "position", "modality", "outcome", "filter", "duplicate_of"}
    if missing := columns - set(verdicts.column_names):
        raise ValueError(f"verdicts have no column {', '.join(sorted(missing))}")
    rows: dict[tuple[str, str, str], Row] = {_location(row): row for row in verdicts.to_pylist()}
    pairs: list[Pair] = [(entry, rows.pop(_location(entry), None)) for entry in truth]
    filters = {}
    for name in NAMED:
        names = ALSO.get(name, frozenset({name}))
        filters[name] = _score_fault(pairs, name, partial(_dropped_by, names=names))
    for modality in ("image", "video", "text"):
        filters[f"duplicates.{modality}"] = _score_duplicates([p for p in pairs if p[0]["modality"] == modality])
    without_verdict = [_describe(entry) for entry, row in pairs if row is None]
    return {
        "filters": filters,
        "broken": _score_fault(pairs, "broken", lambda row: row["outcome"] == "failed"),
        "resample": _score_resampling(pairs),
        "other_drops": _count_other_drops(pairs),
        "unmatched": {"truth": len(without_verdict), "verdicts": len(rows), "shown": without_verdict[:_SHOWN]},
        "ledger": dict(ledger),
    }


def _location(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row["source"]), str(row["container"]), str(row["position"] or "")


def _describe(entry: Truth, row: Row | None = None) -> dict[str, Any]:
    """Enough to find a sample and to see its verdict."""
    sample = {name: entry[name] for name in ("source", "container", "position", "fault", "kind", "hard", "form")}
    if row is not None:
        sample |= {name: row.get(name) for name in ("outcome", "filter", "reason", "value", "threshold")}
    return sample


def _dropped_by(row: Row, names: Iterable[str]) -> bool:
    return row["outcome"] == "dropped" and row["filter"] in names


def _report(
    counts: Mapping[str, int], by: Iterable[tuple[str, bool]], missed: Iterable[Pair], wrong: Iterable[Pair]
) -> dict[str, Any]:
    """counts: planted, caught, named, right, …. by: (kind, whether it was caught) of each planted fault."""
    kinds: dict[str, list[bool]] = defaultdict(list)
    for kind, caught in by:
        kinds[kind].append(caught)
    return {
        **counts,
        "precision": _share(counts["right"], counts["named"]),
        "recall": _share(counts["caught"], counts["planted"]),
        "by": {kind: f"{sum(caught)}/{len(caught)}" for kind, caught in sorted(kinds.items())},
        "missed": [_describe(*pair) for pair in missed][:_SHOWN],
        "wrong": [_describe(*pair) for pair in wrong][:_SHOWN],
    }


def _share(count: int, total: int) -> float | None:
    return round(count / total, 6) if total else None


def _score_fault(pairs: Sequence[Pair], fault: str, is_named: Callable[[Row], bool]) -> dict[str, Any]:
    """Score a fault that is found sample by sample. is_named: whether a verdict names it."""

    def named(pair: Pair) -> bool:
        return pair[1] is not None and is_named(pair[1])

    planted = [pair for pair in pairs if pair[0]["fault"] == fault]
    hard = [pair for pair in pairs if pair[0]["hard"] == fault]
    caught = sum(map(named, planted))
    return _report(
        {
            "planted": len(planted),
            "caught": caught,
            "named": sum(map(named, pairs)),
            "right": caught,
            "hard_negatives": len(hard),
            "hard_dropped": sum(map(named, hard)),
        },
        ((f"{entry['modality']}: {entry['kind']}", named((entry, row))) for entry, row in planted),
        missed=(pair for pair in planted if not named(pair)),
        wrong=(pair for pair in pairs if named(pair) and pair[0]["fault"] != fault),
    )


def _score_duplicates(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Score the duplicates of one modality."""
    group_of = {str(row["key"]): entry["group"] for entry, row in pairs if row is not None}
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair[0]["group"]:
            groups[pair[0]["group"]].append(pair)

    def named(pair: Pair) -> bool:
        return pair[1] is not None and pair[1]["outcome"] == "duplicate"

    def right(pair: Pair) -> bool:
        entry, row = pair
        if row is None or not entry["group"] or not named(pair):
            return False
        return bool(group_of.get(str(row["duplicate_of"])) == entry["group"])

    planted = caught = exact = 0
    by: list[tuple[str, bool]] = []
    missed: list[Pair] = []
    for members in groups.values():
        copies = [entry for entry, _ in members if entry["fault"] == "duplicates"]
        removed = sum(map(right, members))
        planted += len(copies)
        caught += min(removed, len(copies))  # a group that lost all its members has lost one too many
        exact += removed == len(copies)
        by += [(entry["kind"], removed == len(copies)) for entry in copies]
        if removed != len(copies):
            missed += members
    hard = [pair for pair in pairs if pair[0]["hard"] == "duplicates"]
    return _report(
        {
            "planted": planted,
            "caught": caught,
            "named": sum(map(named, pairs)),
            "right": sum(map(right, pairs)),
            "groups": len(groups),
            "groups_with_one_left": exact,
            "hard_negatives": len(hard),
            "hard_dropped": sum(map(named, hard)),
        },
        by,
        missed,
        wrong=(pair for pair in pairs if named(pair) and not right(pair)),
    )


def _score_resampling(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Compare the samples kept with their probabilities. Samples that took part are those with a probability.

    z: difference between the number kept and the number expected, in standard deviations.
    """
    draws: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for entry, row in pairs:
        if row is None or row.get("keep_probability") is None:
            continue
        if row["outcome"] == "kept" or _dropped_by(row, [RESAMPLE]):
            for group in ("all", entry["resample"] or "other"):
                draws[group].append((float(row["keep_probability"]), row["outcome"] == "kept"))
    report: dict[str, Any] = {}
    for group in ("all", "head", "tail", "other"):
        drawn = draws.get(group, [])
        certain = [kept for p, kept in drawn if p >= 1.0]
        deviation = math.sqrt(sum(p * (1 - p) for p, _ in drawn))
        difference = sum(kept for _, kept in drawn) - sum(p for p, _ in drawn)
        report[group] = {
            "drawn": len(drawn),
            "kept": sum(kept for _, kept in drawn),
            "expected": round(sum(p for p, _ in drawn), 3),
            "expected_rate": _mean([p for p, _ in drawn]),
            "observed_rate": _mean([float(kept) for _, kept in drawn]),
            "z": round(difference / deviation, 3) if deviation > 0 else (0.0 if abs(difference) < 1e-9 else None),
            "rare": len(certain),
            "rare_kept": sum(certain),
        }
    total = report["all"]
    report["fair"] = total["z"] is not None and abs(total["z"]) <= 4 and total["rare"] == total["rare_kept"]
    return report


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


def _count_other_drops(pairs: Sequence[Pair]) -> dict[str, int]:
    """Drops by filters for which nothing is planted (size, missing captions, …): all of them are mistakes."""
    expected = {*NAMED, *(name for names in ALSO.values() for name in names), RESAMPLE}
    filters = [str(row["filter"]) for _, row in pairs if row is not None and row["outcome"] == "dropped"]
    return dict(sorted(Counter(name for name in filters if name not in expected).items()))
