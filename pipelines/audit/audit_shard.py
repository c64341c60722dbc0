"""One shard: its tar, its rows of the members index and its card, each told again from the bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import histogram_columns
from infra import tables
from mixtures.cards import cards
from mixtures.reading.contract import CHARS_PER_TOKEN, RELEASED
from mixtures.shards.record import build_columns, parse_record, parse_records
from pipelines.audit.audit_tar import TarIndex, check_tar
from pipelines.audit.audit_units import AuditUnits
from pipelines.audit.deep import MediaAuditor
from pipelines.audit.files import AuditFiles
from pipelines.audit.findings import AuditFindings


@dataclass(frozen=True)
class AuditedShard:
    """What is left of a shard once it is audited. card: None where it is unreadable or breaks its schema."""

    name: str
    card: Mapping[str, Any] | None
    samples: int


def check_shard(
    files: AuditFiles, units: AuditUnits, name: str, unit: Mapping[str, Any], deep: MediaAuditor | None = None
) -> AuditedShard:
    """Audit one shard; `unit` is its entry {rows, sha256} in the members' manifest; deep: decode its media too."""
    tar, card_file, part = f"shards/{name}.tar", f"shards/{name}.card.json", f"members/{name}.parquet"
    findings = files.findings
    view = files.map(tar)
    files.hash(tar, view)
    card = read_card(files, card_file, name)
    members = files.table(part, tables.MEMBERS, None, unit["sha256"])
    if members is None:
        return AuditedShard(name, card, 0)
    findings.same(part, "rows", unit["rows"], members.num_rows)
    if view is None:
        return AuditedShard(name, card, members.num_rows)
    index = TarIndex.of(members)
    suffixes = sorted(card["suffixes"]) if card else _suffixes(index)
    good = check_tar(view, index, suffixes, tar, findings)
    told = check_records(view, index, good, tar, findings)
    if told is not None:
        _against_members(told, members, name, part, findings)
        if deep is not None:
            deep.check(view, index, good, told, tar)
        if card is not None:
            _against_card(files, units, told, card, card_file, tar)
    return AuditedShard(name, card, members.num_rows)


def read_card(files: AuditFiles, path: str, name: str) -> Mapping[str, Any] | None:
    """A shard's card, held against its schema and its name."""
    card = files.checked_json(path, "shard-card")
    if card is None:
        return None
    files.findings.same(path, "shard", name, card["shard"])
    files.findings.same(path, "tar.bytes", files.sizes.get(f"shards/{name}.tar", 0), card["tar"]["bytes"])
    return dict(card)


def _suffixes(index: TarIndex) -> list[str]:
    """Those of the first sample, where there is no card to say."""
    count = int(index.counts[0]) if len(index.counts) else 0
    return [str(name).split(".", 1)[-1] for name in index.names[:count].to_pylist()]


# -- from the bytes ---------------------------------------------------------------------------------------------


def check_records(view: memoryview, index: TarIndex, good: Any, file: str, findings: AuditFindings) -> pa.Table | None:
    """Columns of every sample of a tar as its bytes tell them, n rows: those of members and what its JSON says of
    media; None where a sample's JSON cannot be read, which is found.

    key, modality, source, licence, kind, language, tokens, text_tokens, images, seconds, bytes; origin, container,
    position, sha256 (joined by commas), width, height, fps, frames.
    """
    is_json = np.asarray(pc.fill_null(pc.ends_with(index.names, ".json"), False), dtype=bool)
    places = np.flatnonzero(is_json & good)
    n = len(index.keys)
    if len(places) != n or not np.array_equal(index.owners()[places], np.arange(n)):
        findings.add(file, "json", f"one readable .json in each of {n} samples", f"{len(places)} of them")
        return None
    starts, ends = index.data[places], index.data[places] + index.sizes[places]
    records = parse_records(view, zip(starts.tolist(), ends.tolist(), strict=True))
    if records is None:
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            try:
                parse_record(view[start:end])
            except ValueError as error:
                findings.add(file, "json", "a record with all fields of KEY.json", str(error), index.keys[row].as_py())
        return None
    told = build_columns(records)
    _texts(view, index, good, told["caption"], file, findings)
    return _table(index, told)


def _texts(
    view: memoryview, index: TarIndex, good: Any, captions: Sequence[str], file: str, findings: AuditFindings
) -> None:
    """A .txt beside a sample is its caption."""
    is_text = np.asarray(pc.fill_null(pc.ends_with(index.names, ".txt"), False), dtype=bool)
    places = np.flatnonzero(is_text & good)
    starts, ends = index.data[places], index.data[places] + index.sizes[places]
    for row, start, end in zip(index.owners()[places].tolist(), starts.tolist(), ends.tolist(), strict=True):
        # As bytes: two memoryviews are compared item by item.
        if view[start:end].tobytes() != captions[row].encode():
            findings.add(file, "txt", captions[row], view[start:end].tobytes(), index.keys[row].as_py())


def _table(index: TarIndex, told: Mapping[str, Sequence[Any]]) -> pa.Table:
    def array(name: str, type_: pa.DataType) -> pa.Array:
        return pa.array(told[name], type_)

    modality = np.array(told["data_type"], dtype=object)
    pictures = (modality == "image") | (modality == "multi_image")
    media = np.array([len(hashes) for hashes in told["sha256"]], dtype=np.int64)
    images = np.where(pictures, media, 0)
    seconds = np.array(told["duration"], dtype=np.float64)
    text_tokens = np.ceil(np.array(told["characters"], dtype=np.float64) / CHARS_PER_TOKEN).astype(np.int64)
    return pa.table(
        {
            "key": array("id", pa.string()),
            "modality": array("data_type", pa.string()),
            "source": array("data_source", pa.string()),
            "licence": array("licence", pa.string()),
            "kind": array("kind", pa.string()),
            "language": array("language", pa.string()),
            "tokens": text_tokens + RELEASED.media_tokens(modality, seconds, images),
            "told_tokens": array("tokens", pa.int64()),
            "text_tokens": text_tokens,
            "images": pa.array(images, pa.int32()),
            "seconds": seconds,
            "bytes": np.add.reduceat(index.sizes, index.first) if len(media) else np.zeros(0, np.int64),
            "origin": array("origin", pa.string()),
            "container": array("container", pa.string()),
            "position": array("position", pa.string()),
            "sha256": pa.array([",".join(hashes) for hashes in told["sha256"]], pa.string()),
            "width": array("width", pa.int64()),
            "height": array("height", pa.int64()),
            "fps": array("fps", pa.float64()),
            "frames": array("n_frames", pa.int64()),
        }
    )


# -- against what is told of it ---------------------------------------------------------------------------------

#: Columns of members that the bytes tell.
MEMBER_COLUMNS = ("key", "modality", "source", "licence", "kind", "language", "tokens", "text_tokens", "images",
                  "seconds", "bytes")  # fmt: skip


def _against_members(told: pa.Table, members: pa.Table, name: str, part: str, findings: AuditFindings) -> None:
    keys = members["key"].combine_chunks()
    findings.rows(part, "shard", keys, pa.repeat(pa.scalar(name), len(keys)), members["shard"].combine_chunks())
    for column in MEMBER_COLUMNS:
        findings.rows(part, column, keys, told[column].combine_chunks(), members[column].combine_chunks())
    tar = f"shards/{name}.tar"
    findings.rows(tar, "json.tokens", keys, told["tokens"].combine_chunks(), told["told_tokens"].combine_chunks())


def _against_card(
    files: AuditFiles, units: AuditUnits, told: pa.Table, card: Mapping[str, Any], card_file: str, tar: str
) -> None:
    findings = files.findings
    if told.num_rows:
        strange = pc.not_equal(told["modality"].combine_chunks(), card["modality"])
        if pc.any(strange).as_py():
            keys = told["key"].combine_chunks()
            findings.where(tar, "json.data_type", keys, strange, card["modality"], told["modality"].combine_chunks())
    signals, complete = lineage(files, units, told, card, card_file, tar)
    said = _dialogues(units, told, card)
    again = cards.build_card(
        name=card["shard"],
        tar=card["tar"],
        series=f"{card['modality']}:{','.join(card['suffixes'])}",
        members=told,
        signals=signals,
        score_columns=histogram_columns(filter_["name"] for filter_ in card["made_by"]["filters"]),
        ledger=card["ledger"],
        reasons=card["reasons"],
        made_by=card["made_by"],
        dialogues=said,
    )
    if not complete:
        again["scores"] = card["scores"]  # their rows are not all there, which is found already
    for field in sorted({*again, *card}):
        findings.deep(card_file, field, again.get(field, "nothing"), card.get(field, "nothing"))
    _reconcile(card, card_file, findings)


def _dialogues(units: AuditUnits, told: pa.Table, card: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the card says of its samples' dialogues, told again from their table; texts have none."""
    if not units.has_dialogues or card["modality"] == "text":
        return None
    rows: list[dict[str, Any]] = []
    for entry in card["made_by"]["lineage"]:
        table = units.dialogues(entry["unit"])
        if table is not None:
            mine = pc.is_in(table["key"], value_set=told["key"].combine_chunks())
            rows += table.filter(mine).to_pylist()
    return cards.summarize_dialogues(rows)


def _reconcile(card: Mapping[str, Any], card_file: str, findings: AuditFindings) -> None:
    """What went in is what came out, and each that came out has a reason."""
    ledger = card["ledger"]
    gone = ledger["duplicates"] + sum(ledger["dropped"].values()) + sum(ledger["failed"].values())
    findings.same(card_file, "ledger.inputs", ledger["kept"] + gone, ledger["inputs"])
    findings.same(card_file, "ledger.kept", card["samples"], ledger["kept"])
    by: Counter[str] = Counter()
    for reason, count in card["reasons"].items():
        by[str(reason).partition(": ")[0]] += count
    wanted = Counter({**ledger["dropped"]}) + Counter(ledger["failed"])
    findings.same(card_file, "reasons", gone, by.total())
    for name, count in wanted.items():
        findings.same(card_file, f"reasons.{name}", count, by[name])


def lineage(
    files: AuditFiles, units: AuditUnits, told: pa.Table, card: Mapping[str, Any], card_file: str, tar: str
) -> tuple[pa.Table, bool]:
    """Hold a shard's samples against the rows of samples, verdicts and signals that its card names.

    Returns (signals of those that were found, whether that is all of them).
    """
    findings = files.findings
    keys = told["key"].combine_chunks()
    met = np.zeros(len(keys), dtype=bool)
    parts: list[pa.Table] = []
    for number, entry in enumerate(card["made_by"]["lineage"]):
        table = units.table(entry["unit"])
        if table is None:
            continue
        if not entry["rows"]:
            findings.same(card_file, f"made_by.lineage.{number}.kept", 0, entry["kept"])
            continue
        low, high = entry["rows"]
        if high >= table.num_rows:
            findings.add(card_file, f"made_by.lineage.{number}.rows", f"within {table.num_rows} rows", high)
            continue
        span = table.slice(low, high - low + 1)
        place = pc.index_in(span["key"].combine_chunks(), value_set=keys)
        rows = np.flatnonzero(np.asarray(pc.is_valid(place), dtype=bool))
        findings.same(card_file, f"made_by.lineage.{number}.kept", len(rows), entry["kept"])
        if not len(rows):
            continue
        mine = np.asarray(place.drop_null(), dtype=np.int64)
        met[mine] = True
        taken = span.take(pa.array(rows))
        _against_unit(told.take(pa.array(mine)), taken, entry["unit"], tar, findings)
        account = units.accounts[entry["unit"]]
        twice = account.met[low + rows]
        if twice.any():
            findings.where(tar, "key", taken["key"].combine_chunks(), pa.array(twice), "in one shard", "in two")
        account.met[low + rows] = True
        parts.append(taken)
    if not met.all():
        findings.where(tar, "key", keys, pa.array(~met), "a sample of the units that its card names", "none")
    signals = pa.concat_tables(parts, promote_options="default") if parts else pa.table({})
    return signals, bool(met.all())


#: Column as the JSON tells it -> as samples, verdicts and signals have it.
_SAME = {"modality": "modality", "source": "source", "licence": "licence", "origin": "origin",
         "container": "container", "position": "position", "sha256": "sha256"}  # fmt: skip
_FACTS = {"width": "facts.width", "height": "facts.height", "seconds": "facts.duration", "fps": "facts.fps",
          "frames": "facts.frames", "language": "language.label"}  # fmt: skip


def _against_unit(told: pa.Table, rows: pa.Table, unit: str, tar: str, findings: AuditFindings) -> None:
    keys = told["key"].combine_chunks()
    for ours, theirs in _SAME.items():
        findings.rows(tar, f"json.{ours}", keys, rows[theirs].combine_chunks(), told[ours].combine_chunks())
    for ours, theirs in _FACTS.items():
        if theirs in rows.schema.names:
            found = told[ours].combine_chunks()
            nothing = "" if pa.types.is_string(found.type) else 0
            expected = pc.fill_null(rows[theirs].combine_chunks().cast(found.type), pa.scalar(nothing, found.type))
            findings.rows(tar, f"json.{ours}", keys, expected, found)
    outcome = rows["outcome"].combine_chunks()
    not_kept = pc.not_equal(outcome, "kept")
    if pc.any(not_kept).as_py():
        findings.where(f"verdicts/{unit}.parquet", "outcome", keys, not_kept, "kept: it stands in a shard", outcome)
