"""Units of a run: samples, verdicts and signals, each read once and compared with one another."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import FILTERS, histogram_columns
from infra import tables
from infra.columns import Mask, equals, to_ints
from infra.media.interface import MODALITIES
from pipelines.audit.files import AuditFiles
from pipelines.export.write_shard import count_reasons

#: Rows of units cached in memory (ours: about 200 MB).
CACHED_ROWS = 400_000

#: Field of a sample's JSON, as `check_records` names it -> the signal that it repeats.
FACTS = {"width": "facts.width", "height": "facts.height", "pixel_aspect": "facts.pixel_aspect",
         "seconds": "facts.duration", "fps": "facts.fps",
         "frames": "facts.frames", "language": "language.label"}  # fmt: skip

_SAMPLES = ("key", "modality", "source", "container", "position", "licence", "origin", "media.list.element.sha256",
            "members", "unused_captions")  # fmt: skip
_VERDICTS = ("key", "modality", "source", "outcome", "filter", "reason")

OUTCOMES = ("kept", "dropped", "duplicate", "failed")


@dataclass
class UnitAccount:
    """Rows of a unit, kept in memory: bool (n,) those with outcome kept, and those seen in a shard so far."""

    kept: Mask
    sharded: Mask


class AuditUnits:
    """Units of a run by name, as listed in the manifests {stage: {unit: {rows, sha256}}}. Reading a unit checks it."""

    def __init__(self, files: AuditFiles, manifests: Mapping[str, Mapping[str, Any]]) -> None:
        self._files = files
        self._manifests = manifests
        self._cache: OrderedDict[str, pa.Table | None] = OrderedDict()
        self._summed: set[str] = set()
        self.accounts: dict[str, UnitAccount] = {}
        #: (modality, outcome, filter) -> number of verdicts
        self.tally: Counter[tuple[str, str, str]] = Counter()
        #: source -> number of verdicts
        self.sources: Counter[str] = Counter()
        #: source -> sums of the columns `members` and `unused_captions` of its samples
        self.members: Counter[str] = Counter()
        self.unused_captions: Counter[str] = Counter()
        #: "filter: reason" -> number of verdicts that are not kept
        self.reasons: Counter[str] = Counter()
        self.samples = 0
        self.names = sorted({*manifests.get("samples", {}), *manifests.get("verdicts", {})})
        self.has_dialogues = "dialogues" in manifests

    def read(self, unit: str) -> pa.Table | None:
        """key, modality, source, container, position, licence, origin, sha256 (of all media, joined by commas),
        outcome, and the signals that cards and JSON repeat; None, with a finding, if the unit cannot be read."""
        if unit in self._cache:
            self._cache.move_to_end(unit)
            return self._cache[unit]
        table = self._cache[unit] = self._read(unit)
        while sum(t.num_rows for t in self._cache.values() if t is not None) > CACHED_ROWS and len(self._cache) > 1:
            self._cache.popitem(last=False)
        return table

    def read_dialogues(self, unit: str) -> pa.Table | None:
        """The dialogues of a unit's samples; None if it has none or they cannot be read."""
        if unit not in self._manifests.get("dialogues", {}):
            return None
        return self._read_stage("dialogues", unit, tables.DIALOGUES, None)

    def _read_stage(self, stage: str, unit: str, schema: pa.Schema | None, columns: Any) -> pa.Table | None:
        entry = self._manifests.get(stage, {}).get(unit)
        path = f"{stage}/{unit}.parquet"
        if entry is None:
            self._files.findings.add(f"{stage}/_manifest.json", "units", unit, "no such unit")
            return None
        table = self._files.read_table(path, schema, columns, entry["sha256"])
        if table is not None:
            self._files.findings.compare(path, "rows", entry["rows"], table.num_rows)
        return table

    def _read(self, unit: str) -> pa.Table | None:
        findings, path = self._files.findings, f"verdicts/{unit}.parquet"
        samples = self._read_stage("samples", unit, tables.SAMPLES, _SAMPLES)
        verdicts = self._read_stage("verdicts", unit, tables.VERDICTS, _VERDICTS)
        if verdicts is not None and unit not in self.accounts:
            self._count(unit, verdicts)
        if samples is not None and unit not in self._summed:
            self._sum_members(unit, samples)
        if samples is None or verdicts is None:
            return None
        columns = [*histogram_columns(FILTERS), *FACTS.values()]
        signals = self._read_stage("signals", unit, None, ["key", *columns])
        if not findings.compare(path, "rows", samples.num_rows, verdicts.num_rows):
            return None
        keys = samples["key"]
        for column in ("key", "modality", "source"):
            findings.compare_columns(path, column, keys, samples[column], verdicts[column])
        table = samples.drop_columns(["media"]).append_column("sha256", _join_hashes(samples["media"].combine_chunks()))
        table = table.append_column("outcome", verdicts["outcome"])
        path = f"signals/{unit}.parquet"
        if signals is not None and findings.compare(path, "rows", samples.num_rows, signals.num_rows):
            findings.compare_columns(path, "key", keys, keys, signals["key"])
            table = self._append_signals(unit, table, signals, columns)
        return table

    def _append_signals(self, unit: str, table: pa.Table, signals: pa.Table, columns: list[str]) -> pa.Table:
        has_late = unit in self._manifests.get("late", {})
        late = self._read_stage("late", unit, None, ["key", *columns]) if has_late else None
        if late is not None and late.num_rows == table.num_rows:
            self._files.findings.compare_columns(f"late/{unit}.parquet", "key", table["key"], table["key"], late["key"])
        for name in dict.fromkeys(columns):
            column = signals[name] if name in signals.schema.names else None
            if late is not None and late.num_rows == table.num_rows and name in late.schema.names:
                column = late[name] if column is None else pc.coalesce(column, late[name])
            if column is not None:
                table = table.append_column(name, column)
        return table

    def _count(self, unit: str, verdicts: pa.Table) -> None:
        path, findings = f"verdicts/{unit}.parquet", self._files.findings
        self.samples += verdicts.num_rows
        outcome = verdicts["outcome"]
        unknown = pc.invert(pc.is_in(outcome, pa.array(OUTCOMES)))
        findings.add_rows(path, "outcome", verdicts["key"], unknown, " | ".join(OUTCOMES), outcome)
        findings.compare(path, "distinct keys", verdicts.num_rows, pc.count_distinct(verdicts["key"]).as_py())
        grouped = verdicts.group_by(["modality", "outcome", "filter"], use_threads=False).aggregate([([], "count_all")])
        for *group, count in zip(*(grouped[column].to_pylist() for column in grouped.schema.names), strict=True):
            modality, name, filter_ = map(str, group)
            self.tally[(modality, name, filter_)] += count
        self.reasons.update(count_reasons(verdicts))
        self.sources.update(verdicts["source"].to_pylist())
        kept = equals(outcome, "kept")
        self.accounts[unit] = UnitAccount(kept, np.zeros(len(kept), dtype=bool))

    def _sum_members(self, unit: str, samples: pa.Table) -> None:
        self._summed.add(unit)
        sums = samples.group_by("source", use_threads=False).aggregate([("members", "sum"), ("unused_captions", "sum")])
        for row in sums.to_pylist():
            self.members[row["source"]] += row["members_sum"] or 0
            self.unused_captions[row["source"]] += row["unused_captions_sum"] or 0

    def finish(self) -> None:
        """Read the units that no card names, and report kept samples that are in no shard."""
        for unit in self.names:
            if unit not in self.accounts:
                self.read(unit)
            account = self.accounts.get(unit)
            if account is None:
                continue
            lost = account.kept & ~account.sharded
            if lost.any():
                table = self.read(unit)
                keys = pa.array([""] * len(lost)) if table is None else table["key"]
                self._files.findings.add_rows(
                    f"verdicts/{unit}.parquet", "kept", keys, lost, "a member of a shard", "in no shard"
                )

    def build_ledger(self, ignored: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Build the ledger from the verdicts. ignored: number of ignored members by modality, each of
        which is in it."""
        seen = {modality for modality, _, _ in self.tally} | set(ignored)
        ledger = {"all": _build_entry(self.tally, None, sum(ignored.values()))}
        for modality in seen & set(MODALITIES):
            ledger[modality] = _build_entry(self.tally, modality, ignored.get(modality, 0))
        return ledger


def _build_entry(tally: Mapping[tuple[str, str, str], int], modality: str | None, ignored: int) -> dict[str, Any]:
    """One entry of the ledger; modality None: over all modalities."""
    entry: dict[str, Any] = {"inputs": 0, "kept": 0, "duplicates": 0, "ignored": ignored, "dropped": {}, "failed": {}}
    for (of, outcome, name), count in tally.items():
        if modality not in (None, of):
            continue
        entry["inputs"] += count
        if outcome in ("dropped", "failed"):
            entry[outcome][name] = entry[outcome].get(name, 0) + count
        elif outcome in ("kept", "duplicate"):
            entry["kept" if outcome == "kept" else "duplicates"] += count
    return entry


def _join_hashes(media: pa.ListArray) -> pa.Array:
    """The sha256 of each row's media, joined by commas; "" for rows without media."""
    counts = to_ints(pc.list_value_length(media), null=0).astype(np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
    hashes = pa.ListArray.from_arrays(pa.array(offsets), media.flatten().field("sha256"))
    return pc.fill_null(pc.binary_join(hashes, ","), "")
