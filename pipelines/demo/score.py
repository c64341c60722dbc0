"""How well a run found what was planted: the truth of a world against a run's verdicts.

Recall of a filter: planted faults of its kind whose verdict names it. Precision: verdicts naming it whose planted
fault is of its kind. Duplicates are judged by the group: of an original and its copies one has to stay, and every
other is right when it is called a duplicate of a member of the same group, whichever of them it is. Resampling is a
lottery and is judged as one: the number kept against the sum of the probabilities.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

#: Filters that a planted kind may rightly be named by, beside the one of its own name.
ALSO: Mapping[str, frozenset[str]] = {"alignment": frozenset({"alignment", "video_alignment"})}
#: Faults that a filter is named for; duplicates, broken files and resampling have rules of their own.
NAMED = ("quality", "language", "overlay", "alignment", "motion")
RESAMPLE = "resample"
_SHOWN = 40  # mistakes that a report lists, per filter

Truth = Mapping[str, Any]
Row = Mapping[str, Any]


def score(truth: Iterable[Truth], verdicts: pa.Table, ledger: Mapping[str, Any]) -> dict[str, Any]:
    """The report on a run.

    truth: as `world.read_truth` gives it. verdicts: one row a sample with the columns key, source, container,
    position, modality, outcome, filter, reason, duplicate_of and keep_probability. ledger: RUN/ledger.json.

    {"filters": {name: {planted, caught, named, right, precision, recall, hard_negatives, hard_dropped, by, missed,
    wrong}}, "broken": …, "resample": …, "unmatched": …, "ledger": …}; names are those in NAMED and
    "duplicates.image", "duplicates.video", "duplicates.text". `by` is recall per modality and kind of fault, `missed`
    and `wrong` are lists of samples. Shares over nothing are null. Raises ValueError when a column is not there.
    """
    needed = {"key", "source", "container", "position", "modality", "outcome", "filter", "duplicate_of"}
    if lacking := needed - set(verdicts.column_names):
        raise ValueError(f"verdicts have no column {', '.join(sorted(lacking))}")
    rows: dict[tuple[str, str, str], Row] = {_place(row): row for row in verdicts.to_pylist()}
    pairs: list[tuple[Truth, Row | None]] = [(said, rows.pop(_place(said), None)) for said in truth]
    filters = {name: _named(name, pairs) for name in NAMED}
    for modality in ("image", "video", "text"):
        filters[f"duplicates.{modality}"] = _duplicates(modality, pairs)
    lost = [_label(said) for said, row in pairs if row is None]
    return {
        "filters": filters,
        "broken": _broken(pairs),
        "resample": _resample(pairs),
        "other_drops": _other_drops(pairs),
        "unmatched": {"truth": len(lost), "verdicts": len(rows), "shown": lost[:_SHOWN]},
        "ledger": dict(ledger),
    }


def _place(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row["source"]), str(row["container"]), str(row["position"] or "")


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _label(said: Truth, row: Row | None = None) -> dict[str, Any]:
    """Enough to find a sample again and to see what happened to it."""
    found = {name: said[name] for name in ("source", "container", "position", "fault", "kind", "hard", "form")}
    if row is not None:
        found |= {name: row.get(name) for name in ("outcome", "filter", "reason", "value", "threshold")}
    return found


def _dropped_by(row: Row | None, names: Iterable[str]) -> bool:
    return row is not None and row["outcome"] == "dropped" and row["filter"] in names


def _named(name: str, pairs: list[tuple[Truth, Row | None]]) -> dict[str, Any]:
    """A filter that drops samples one by one."""
    names = ALSO.get(name, frozenset({name}))
    planted = [(said, row) for said, row in pairs if said["fault"] == name]
    hits = [(said, row) for said, row in planted if _dropped_by(row, names)]
    named = [(said, row) for said, row in pairs if _dropped_by(row, names)]
    wrong = [(said, row) for said, row in named if said["fault"] != name]
    hard = [(said, row) for said, row in pairs if said["hard"] == name]
    by: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for said, row in planted:
        count = by[f"{said['modality']}: {said['kind']}"]
        count[0] += _dropped_by(row, names)
        count[1] += 1
    return {
        "planted": len(planted),
        "caught": len(hits),
        "named": len(named),
        "right": len(hits),
        "precision": _share(len(hits), len(named)),
        "recall": _share(len(hits), len(planted)),
        "hard_negatives": len(hard),
        "hard_dropped": sum(_dropped_by(row, names) for _, row in hard),
        "by": {kind: f"{count[0]}/{count[1]}" for kind, count in sorted(by.items())},
        "missed": [_label(said, row) for said, row in planted if not _dropped_by(row, names)][:_SHOWN],
        "wrong": [_label(said, row) for said, row in wrong][:_SHOWN],
    }


def _duplicates(modality: str, pairs: list[tuple[Truth, Row | None]]) -> dict[str, Any]:
    mine = [(said, row) for said, row in pairs if said["modality"] == modality]
    group_of = {str(row["key"]): said["group"] for said, row in mine if row is not None}
    groups: dict[str, list[tuple[Truth, Row | None]]] = defaultdict(list)
    named = right = caught = exact = 0
    wrong, missed = [], []
    by: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for said, row in mine:
        if said["group"]:
            groups[said["group"]].append((said, row))
        if row is not None and row["outcome"] == "duplicate":
            named += 1
            if said["group"] and group_of.get(str(row["duplicate_of"])) == said["group"]:
                right += 1
            else:
                wrong.append(_label(said, row))
    planted = 0
    for members in groups.values():
        copies = sum(said["fault"] == "duplicates" for said, _ in members)
        gone = sum(
            row is not None
            and row["outcome"] == "duplicate"
            and group_of.get(str(row["duplicate_of"])) == said["group"]
            for said, row in members
        )
        planted += copies
        caught += min(gone, copies)  # a group that lost all its members has lost one too many
        exact += gone == copies
        for said, _ in members:
            if said["fault"] == "duplicates":
                by[said["kind"]][1] += 1
                by[said["kind"]][0] += gone == copies
        if gone != copies:
            missed += [_label(said, row) for said, row in members]
    hard = [row for said, row in mine if said["hard"] == "duplicates"]
    return {
        "planted": planted,
        "caught": caught,
        "named": named,
        "right": right,
        "precision": _share(right, named),
        "recall": _share(caught, planted),
        "groups": len(groups),
        "groups_with_one_left": exact,
        "hard_negatives": len(hard),
        "hard_dropped": sum(row is not None and row["outcome"] == "duplicate" for row in hard),
        "by": {kind: f"{count[0]}/{count[1]}" for kind, count in sorted(by.items())},
        "missed": missed[:_SHOWN],
        "wrong": wrong[:_SHOWN],
    }


def _broken(pairs: list[tuple[Truth, Row | None]]) -> dict[str, Any]:
    """Broken files are failed rows, and nothing else is."""
    planted = [(said, row) for said, row in pairs if said["fault"] == "broken"]
    failed = [(said, row) for said, row in pairs if row is not None and row["outcome"] == "failed"]
    caught = [said for said, _ in failed if said["fault"] == "broken"]
    hard = [(said, row) for said, row in pairs if said["hard"] == "broken"]
    by: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for said, row in planted:
        count = by[f"{said['modality']}: {said['kind']}"]
        count[0] += row is not None and row["outcome"] == "failed"
        count[1] += 1
    return {
        "planted": len(planted),
        "caught": len(caught),
        "named": len(failed),
        "right": len(caught),
        "precision": _share(len(caught), len(failed)),
        "recall": _share(len(caught), len(planted)),
        "hard_negatives": len(hard),
        "hard_dropped": sum(row is not None and row["outcome"] == "failed" for _, row in hard),
        "by": {kind: f"{count[0]}/{count[1]}" for kind, count in sorted(by.items())},
        "missed": [_label(s, row) for s, row in planted if row is None or row["outcome"] != "failed"][:_SHOWN],
        "wrong": [_label(said, row) for said, row in failed if said["fault"] != "broken"][:_SHOWN],
    }


def _resample(pairs: list[tuple[Truth, Row | None]]) -> dict[str, Any]:
    """Samples that took part are those with a probability. z: how many standard deviations the number kept is off."""
    parts: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for said, row in pairs:
        if row is None or row.get("keep_probability") is None:
            continue
        if row["outcome"] == "kept" or (row["outcome"] == "dropped" and row["filter"] == RESAMPLE):
            for part in ("all", said["resample"] or "other"):
                parts[part].append((float(row["keep_probability"]), row["outcome"] == "kept"))
    report: dict[str, Any] = {}
    for part in ("all", "head", "tail", "other"):
        drawn = parts.get(part, [])
        certain = [kept for p, kept in drawn if p >= 1.0]
        spread = math.sqrt(sum(p * (1 - p) for p, _ in drawn))
        off = sum(kept for _, kept in drawn) - sum(p for p, _ in drawn)
        report[part] = {
            "drawn": len(drawn),
            "kept": sum(kept for _, kept in drawn),
            "expected": round(sum(p for p, _ in drawn), 3),
            "expected_rate": _mean([p for p, _ in drawn]),
            "observed_rate": _mean([float(kept) for _, kept in drawn]),
            "z": round(off / spread, 3) if spread > 0 else (0.0 if abs(off) < 1e-9 else None),
            "rare": len(certain),
            "rare_kept": sum(certain),
        }
    everything = report["all"]
    z = everything["z"]
    report["fair"] = z is not None and abs(z) <= 4 and everything["rare"] == everything["rare_kept"]
    return report


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None


def _other_drops(pairs: list[tuple[Truth, Row | None]]) -> dict[str, int]:
    """Drops by filters for which nothing is planted (size, missing captions, …): all of them are mistakes."""
    known = {*NAMED, *(name for names in ALSO.values() for name in names), RESAMPLE}
    counted = Counter(
        str(row["filter"])
        for _, row in pairs
        if row is not None and row["outcome"] == "dropped" and row["filter"] not in known
    )
    return dict(sorted(counted.items()))
