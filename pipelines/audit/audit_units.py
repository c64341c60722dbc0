"""The units of a run: what was asked of each sample and what became of it, read once and held against each other."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters import FILTERS, histogram_columns
from infra import tables
from infra.media.interface import MODALITIES
from pipelines.audit.files import AuditFiles

Mask = NDArray[np.bool_]

#: Rows of units that are kept in memory at a time (ours: some 200 MB).
ROWS = 400_000

#: Facts that a sample's JSON repeats, by the column that they come from.
FACTS = ("facts.width", "facts.height", "facts.duration", "facts.fps", "facts.frames", "language.label")

_SAMPLES = ("key", "modality", "source", "container", "position", "licence", "origin", "media.list.element.sha256")
_VERDICTS = ("key", "modality", "source", "outcome", "filter")

OUTCOMES = ("kept", "dropped", "duplicate", "failed")


@dataclass
class Account:
    """What stays in memory of a unit: which rows were kept, and which of these were met in a shard."""

    kept: Mask
    met: Mask


class AuditUnits:
    """Units of a run by name, as their manifests have them; reading one checks it."""

    def __init__(self, files: AuditFiles, manifests: Mapping[str, Mapping[str, Any]]) -> None:
        self._files = files
        #: stage -> unit -> {rows, sha256}
        self._manifests = manifests
        self._cache: OrderedDict[str, pa.Table | None] = OrderedDict()
        self.accounts: dict[str, Account] = {}
        #: (modality, outcome, filter) -> how many verdicts there are
        self.tally: Counter[tuple[str, str, str]] = Counter()
        self.samples = 0

    @property
    def names(self) -> list[str]:
        """In order."""
        return sorted({*self._manifests.get("samples", {}), *self._manifests.get("verdicts", {})})

    def table(self, unit: str) -> pa.Table | None:
        """key, modality, source, container, position, licence, origin, sha256 (of all media, joined by commas),
        outcome and the signals that cards and JSON repeat; None where the unit cannot be read, which is found."""
        if unit in self._cache:
            self._cache.move_to_end(unit)
            return self._cache[unit]
        table = self._read(unit)
        self._cache[unit] = table
        while sum(t.num_rows for t in self._cache.values() if t is not None) > ROWS and len(self._cache) > 1:
            self._cache.popitem(last=False)
        return table

    def dialogues(self, unit: str) -> pa.Table | None:
        """Dialogues of a unit's samples; None where there are none to be had."""
        if unit not in self._manifests.get("dialogues", {}):
            return None
        return self._stage("dialogues", unit, tables.DIALOGUES, None)

    @property
    def has_dialogues(self) -> bool:
        """Whether this run has any."""
        return "dialogues" in self._manifests

    def _stage(self, stage: str, unit: str, schema: pa.Schema | None, columns: Any) -> pa.Table | None:
        known = self._manifests.get(stage, {}).get(unit)
        path = f"{stage}/{unit}.parquet"
        if known is None:
            self._files.findings.add(f"{stage}/_manifest.json", "units", unit, "no such unit")
            return None
        table = self._files.table(path, schema, columns, known["sha256"])
        if table is not None:
            self._files.findings.same(path, "rows", known["rows"], table.num_rows)
        return table

    def _read(self, unit: str) -> pa.Table | None:
        findings = self._files.findings
        samples = self._stage("samples", unit, tables.SAMPLES, _SAMPLES)
        verdicts = self._stage("verdicts", unit, tables.VERDICTS, _VERDICTS)
        if verdicts is not None and unit not in self.accounts:
            self._count(unit, verdicts)
        if samples is None or verdicts is None:
            return None
        columns = [*histogram_columns(FILTERS), *FACTS]
        signals = self._stage("signals", unit, None, ["key", *columns])
        rows = samples.num_rows
        if verdicts.num_rows != rows:
            findings.add(f"verdicts/{unit}.parquet", "rows", rows, verdicts.num_rows)
            return None
        keys = samples["key"].combine_chunks()
        for column in ("key", "modality", "source"):
            findings.rows(f"verdicts/{unit}.parquet", column, keys, _one(samples[column]), _one(verdicts[column]))
        media = samples["media"].combine_chunks()
        hashes = pa.ListArray.from_arrays(*_hashes(media))
        found = samples.drop_columns(["media"]).append_column("sha256", pc.fill_null(pc.binary_join(hashes, ","), ""))
        found = found.append_column("outcome", verdicts["outcome"])
        if signals is not None and signals.num_rows == rows:
            findings.rows(f"signals/{unit}.parquet", "key", keys, keys, _one(signals["key"]))
            found = self._with_signals(unit, found, signals, columns)
        elif signals is not None:
            findings.add(f"signals/{unit}.parquet", "rows", rows, signals.num_rows)
        return found

    def _with_signals(self, unit: str, found: pa.Table, signals: pa.Table, columns: list[str]) -> pa.Table:
        late = self._stage("late", unit, None, columns) if unit in self._manifests.get("late", {}) else None
        for name in dict.fromkeys(columns):
            column = signals[name] if name in signals.schema.names else None
            if late is not None and late.num_rows == found.num_rows and name in late.schema.names:
                column = late[name] if column is None else pc.coalesce(column, late[name])
            if column is not None:
                found = found.append_column(name, column)
        return found

    def _count(self, unit: str, verdicts: pa.Table) -> None:
        path, findings = f"verdicts/{unit}.parquet", self._files.findings
        self.samples += verdicts.num_rows
        outcome = _one(verdicts["outcome"])
        strange = pc.invert(pc.is_in(outcome, pa.array(OUTCOMES)))
        if pc.any(strange).as_py():
            findings.where(path, "outcome", _one(verdicts["key"]), strange, " | ".join(OUTCOMES), outcome)
        distinct = pc.count_distinct(verdicts["key"]).as_py()
        findings.same(path, "distinct keys", verdicts.num_rows, distinct)
        grouped = verdicts.group_by(["modality", "outcome", "filter"], use_threads=False).aggregate([([], "count_all")])
        for modality, what, name, count in zip(*(grouped[c].to_pylist() for c in grouped.schema.names), strict=True):
            self.tally[(str(modality), str(what), str(name))] += count
        kept = np.asarray(pc.fill_null(pc.equal(outcome, "kept"), False), dtype=bool)
        self.accounts[unit] = Account(kept, np.zeros(len(kept), dtype=bool))

    def finish(self) -> None:
        """Read the units that no shard named, then say which kept samples stand in no shard."""
        for unit in self.names:
            if unit not in self.accounts:
                self.table(unit)
            account = self.accounts.get(unit)
            if account is None:
                continue
            lost = account.kept & ~account.met
            if lost.any():
                table = self.table(unit)
                keys = pa.array([""] * len(lost)) if table is None else _one(table["key"])
                self._files.findings.where(
                    f"verdicts/{unit}.parquet", "kept", keys, pa.array(lost), "a member of a shard", "in no shard"
                )

    def ledger(self, ignored: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """The ledger that the verdicts come to."""
        found: dict[str, dict[str, Any]] = {}
        seen = {modality for modality, _, _ in self.tally}
        for modality in MODALITIES:
            if modality in seen or modality in ignored:
                mine = {k[1:]: n for k, n in self.tally.items() if k[0] == modality}
                found[modality] = _entry(mine.items(), ignored.get(modality, 0))
        total: Counter[tuple[str, str]] = Counter()
        for (_, outcome, name), count in self.tally.items():
            total[(outcome, name)] += count
        found["all"] = _entry(total.items(), sum(ignored.values()))
        return found


def _entry(counts: Any, ignored: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"inputs": 0, "kept": 0, "duplicates": 0, "ignored": ignored, "dropped": {}, "failed": {}}
    for (outcome, name), count in counts:
        entry["inputs"] += count
        if outcome in ("dropped", "failed"):
            entry[outcome][name] = entry[outcome].get(name, 0) + count
        elif outcome in ("kept", "duplicate"):
            entry["kept" if outcome == "kept" else "duplicates"] += count
    return entry


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _hashes(media: pa.ListArray) -> tuple[pa.Array, pa.Array]:
    counts = np.asarray(pc.fill_null(pc.list_value_length(media), 0), dtype=np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
    return pa.array(offsets), media.flatten().field("sha256")
