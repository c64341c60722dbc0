"""Audit one shard: recompute its members index and its card from the bytes of its tar and the tables of its units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import histogram_columns
from infra import tables
from infra.columns import is_valid, to_ints
from mixtures.cards import cards
from mixtures.shards.series import Series
from pipelines.audit.audit_records import check_records
from pipelines.audit.audit_tar import TarIndex, check_tar
from pipelines.audit.audit_units import FACTS, AuditUnits
from pipelines.audit.files import AuditFiles
from pipelines.audit.findings import ABSENT, AuditFindings
from pipelines.audit.media_auditor import MediaAuditor

#: Columns of members that are recomputed from the bytes.
MEMBER_COLUMNS = ("key", "modality", "source", "licence", "kind", "language", "tokens", "text_tokens", "images",
                  "seconds", "bytes")  # fmt: skip

#: Columns that a sample's JSON repeats from samples.
SAMPLE_COLUMNS = ("modality", "source", "licence", "origin", "container", "position", "sha256")


@dataclass(frozen=True)
class AuditedShard:
    """A shard after its audit. card: None if it is missing, damaged or breaks its schema."""

    name: str
    card: Mapping[str, Any] | None
    samples: int


def check_shard(
    files: AuditFiles, units: AuditUnits, name: str, entry: Mapping[str, Any], auditor: MediaAuditor | None = None
) -> AuditedShard:
    """Audit one shard. entry: its {rows, sha256} in the manifest of members; auditor: also decode its media."""
    tar, path = f"shards/{name}.tar", f"members/{name}.parquet"
    findings = files.findings
    view = files.map(tar)
    files.start_hash(tar, view)
    card = _read_card(files, name)
    members = files.read_table(path, tables.MEMBERS, None, entry["sha256"])
    if members is None:
        return AuditedShard(name, card, 0)
    findings.compare(path, "rows", entry["rows"], members.num_rows)
    shard = AuditedShard(name, card, members.num_rows)
    if view is None:
        return shard
    index = TarIndex.from_members(members)
    good = check_tar(view, index, sorted(card["suffixes"]) if card else _guess_suffixes(index), tar, findings)
    records = check_records(view, index, good, tar, findings)
    if records is None:
        return shard
    _compare_members(records, members, name, findings)
    if auditor is not None:
        auditor.check(view, index, good, records, tar)
    if card is not None:
        _compare_card(files, units, name, records, card)
    return shard


def _read_card(files: AuditFiles, name: str) -> Mapping[str, Any] | None:
    path = f"shards/{name}.card.json"
    card = files.read_json(path, "shard-card")
    if card is None:
        return None
    files.findings.compare(path, "shard", name, card["shard"])
    files.findings.compare(path, "tar.bytes", files.sizes.get(f"shards/{name}.tar", 0), card["tar"]["bytes"])
    return dict(card)


def _guess_suffixes(index: TarIndex) -> list[str]:
    """The suffixes of the first sample, if there is no card that lists them."""
    count = int(index.counts[0]) if len(index.counts) else 0
    return [str(name).split(".", 1)[-1] for name in index.names[:count].to_pylist()]


def _compare_members(records: pa.Table, members: pa.Table, name: str, findings: AuditFindings) -> None:
    keys, path = members["key"], f"members/{name}.parquet"
    findings.compare_columns(path, "shard", keys, pa.repeat(pa.scalar(name), len(keys)), members["shard"])
    for column in MEMBER_COLUMNS:
        findings.compare_columns(path, column, keys, records[column], members[column])
    tar = f"shards/{name}.tar"
    findings.compare_columns(tar, "json.tokens", keys, records["tokens"], records["recorded_tokens"])


# -- the card ---------------------------------------------------------------------------------------------------


def _compare_card(files: AuditFiles, units: AuditUnits, name: str, records: pa.Table, card: Mapping[str, Any]) -> None:
    findings, path, tar = files.findings, f"shards/{name}.card.json", f"shards/{name}.tar"
    modality = records["modality"]
    findings.add_rows(
        tar, "json.data_type", records["key"], pc.not_equal(modality, card["modality"]), card["modality"], modality
    )
    rows, complete = _check_lineage(files, units, name, records, card)
    unused = sum(rows["unused_captions"].to_pylist()) if rows.num_rows else 0
    recomputed = cards.build_card(
        name=card["shard"],
        tar=card["tar"],
        series=Series.of_card(card),
        members=records,
        signals=rows,
        score_columns=histogram_columns(filter_["name"] for filter_ in card["made_by"]["filters"]),
        ledger=card["ledger"],
        reasons=card["reasons"],
        unused_captions=unused if complete else card["unused_captions"],
        made_by=card["made_by"],
        dialogues=_summarize_dialogues(units, records, card),
    )
    if not complete:
        recomputed["scores"] = card["scores"]  # rows are missing, which is a finding already
    for field in sorted({*recomputed, *card}):
        findings.compare_json(path, field, recomputed.get(field, ABSENT), card.get(field, ABSENT))
    _check_totals(card, path, findings)


def _summarize_dialogues(units: AuditUnits, records: pa.Table, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """Recompute the card's summary of dialogues from their tables; texts have none."""
    if not units.has_dialogues or card["modality"] == "text":
        return None
    keys = records["key"].combine_chunks()
    rows: list[dict[str, Any]] = []
    for entry in card["made_by"]["lineage"]:
        table = units.read_dialogues(entry["unit"])
        if table is not None:
            rows += table.filter(pc.is_in(table["key"], value_set=keys)).to_pylist()
    return cards.summarize_dialogues(rows)


def _check_totals(card: Mapping[str, Any], path: str, findings: AuditFindings) -> None:
    """The card's inputs must add up to kept and removed samples, and every removed sample must have a reason."""
    ledger = card["ledger"]
    removed = ledger["duplicates"] + sum(ledger["dropped"].values()) + sum(ledger["failed"].values())
    findings.compare(path, "ledger.inputs", ledger["kept"] + removed, ledger["inputs"])
    findings.compare(path, "ledger.kept", card["samples"], ledger["kept"])
    by_filter: Counter[str] = Counter()
    for reason, count in card["reasons"].items():
        by_filter[str(reason).partition(": ")[0]] += count
    findings.compare(path, "reasons", removed, by_filter.total())
    for name, count in (Counter(ledger["dropped"]) + Counter(ledger["failed"])).items():
        findings.compare(path, f"reasons.{name}", count, by_filter[name])


# -- the units --------------------------------------------------------------------------------------------------


def _check_lineage(
    files: AuditFiles, units: AuditUnits, name: str, records: pa.Table, card: Mapping[str, Any]
) -> tuple[pa.Table, bool]:
    """Compare a shard's samples with the rows of samples, verdicts and signals that its card names.

    Returns (rows of the units that match a sample, whether every sample has one).
    """
    findings, keys = files.findings, records["key"].combine_chunks()
    path, tar = f"shards/{name}.card.json", f"shards/{name}.tar"
    matched = np.zeros(len(keys), dtype=bool)
    matches: list[pa.Table] = []
    for number, entry in enumerate(card["made_by"]["lineage"]):
        field = f"made_by.lineage.{number}"
        table = units.read(entry["unit"])
        if table is None:
            continue
        position = pc.index_in(table["key"].combine_chunks(), value_set=keys)
        rows = np.flatnonzero(is_valid(position))
        findings.compare(path, f"{field}.kept", len(rows), entry["kept"])
        findings.compare(path, f"{field}.rows", [int(rows[0]), int(rows[-1])] if len(rows) else [], entry["rows"])
        if not len(rows):
            continue
        samples = to_ints(position.drop_null())
        matched[samples] = True
        matching = table.take(pa.array(rows))
        _compare_unit(records.take(pa.array(samples)), matching, entry["unit"], tar, findings)
        sharded = units.accounts[entry["unit"]].sharded
        findings.add_rows(tar, "key", matching["key"], sharded[rows], "in one shard", "in two")
        sharded[rows] = True
        matches.append(matching)
    findings.add_rows(tar, "key", keys, ~matched, "a sample of the units that its card names", "none")
    signals = pa.concat_tables(matches, promote_options="default") if matches else pa.table({})
    return signals, bool(matched.all())


def _compare_unit(records: pa.Table, rows: pa.Table, unit: str, tar: str, findings: AuditFindings) -> None:
    keys = records["key"]
    for column in SAMPLE_COLUMNS:
        findings.compare_columns(tar, f"json.{column}", keys, rows[column], records[column])
    for column, signal in FACTS.items():
        if signal in rows.schema.names:
            actual = records[column]
            empty = pa.scalar("" if pa.types.is_string(actual.type) else 0, actual.type)
            expected = pc.fill_null(rows[signal].cast(actual.type), empty)
            findings.compare_columns(tar, f"json.{column}", keys, expected, actual)
    path, outcome = f"verdicts/{unit}.parquet", rows["outcome"]
    findings.add_rows(path, "outcome", keys, pc.not_equal(outcome, "kept"), "kept: it is in a shard", outcome)
