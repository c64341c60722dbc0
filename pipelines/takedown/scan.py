"""What of one run a take-down concerns: rows, duplicates, shards, dialogues. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage, tables
from infra.commit import Unit, need_manifest, read_manifest, unit_name
from infra.store import content_ids
from pipelines.core import tombstones as listing
from pipelines.core.finished_run import open_finished_run
from pipelines.core.run import Run
from pipelines.core.sample_media import source_root
from pipelines.core.tombstones import Tombstones
from pipelines.takedown.request import COLUMNS, TakedownRequest

#: Columns of samples that tell content.
CONTENT = ("key", "modality", "text", "media", "error")

#: Keys and places named in a report; the counts beside them are whole.
NAMED = 20

Rows = NDArray[np.int64]


@dataclass
class TakedownScan:
    """One run, and what of it is asked for.

    before: its list so far. erased, held: key -> why, new ones; rows, beside: unit -> their rows.
    outcomes: of the erased, before; shards: name -> samples to be taken out of its tar; copies: kept samples that look
    like an erased one; same: samples, not erased, with the same bytes or text; ids: content of the erased that nobody
    else has; content: sha256 of their media, and their texts; there: media of the erased that still lie in the sources.
    """

    run: Run
    before: Tombstones
    erased: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    beside: dict[str, Rows] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)
    dialogues: int = 0
    copies: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    ids: set[bytes] = field(default_factory=set)
    content: tuple[pa.Array, pa.Array] = field(default_factory=lambda: (pa.array([], pa.string()),) * 2)
    there: list[str] = field(default_factory=list)

    @property
    def units(self) -> list[str]:
        """Units with a row that changes."""
        return sorted({*self.rows, *self.beside})

    def list_after(self) -> Tombstones:
        """The run's list once this is done; `rewritten` as it was."""
        erased = {**self.before.erased, **self.erased}
        held = {key: why for key, why in {**self.before.withheld, **self.held}.items() if key not in erased}
        return Tombstones(dict(sorted(erased.items())), dict(sorted(held.items())), self.before.rewritten)


def scan(
    uri: str,
    selection: TakedownRequest,
    *,
    with_duplicates: bool,
    beside: Sequence[str] = (),
    tick: Callable[[], None] = lambda: None,
) -> TakedownScan:
    """Look through a run's samples, duplicates, members and dialogues for what `selection` asks for.

    beside: other runs, whose content a store that they share must keep. `tick` is called after each unit.
    """
    found = TakedownScan(open_finished_run(uri), listing.load(uri))
    samples = need_manifest(uri, "samples")
    need_manifest(uri, "verdicts")
    roots = {source.name: source_root(source) for source in found.run.config.sources}
    for unit in samples.units:
        table = tables.read(found.run.at("samples", f"{unit.name}.parquet"), COLUMNS)
        _add(found, unit.name, table["key"], selection.matches(table, roots))
        tick()
    groups = _groups(found)
    if with_duplicates:
        for name, rows in groups.items():
            keys = tables.read(found.run.at("samples", f"{name}.parquet"), ["key"])["key"]
            why = np.full(len(keys), None, dtype=object)
            why[rows] = listing.COPY_REASON
            _add(found, name, keys, why)
        _same_content(found, samples.units, take=True)
    else:
        _hold(found, groups)
        _same_content(found, samples.units, take=False)
    for other in beside if found.ids else ():
        _keep_content(found, other)
    _outcomes(found)
    _members(found)
    _dialogues(found)
    return found


def _add(found: TakedownScan, unit: str, keys: pa.ChunkedArray, why: NDArray[Any]) -> None:
    rows = np.flatnonzero(np.array([reason is not None for reason in why], dtype=bool))
    chosen = keys.take(pa.array(rows)).to_pylist() if len(rows) else []
    new = [(row, key) for row, key in zip(rows.tolist(), chosen, strict=True)
           if key not in found.before.erased and key not in found.erased]  # fmt: skip
    if new:
        found.erased.update({key: str(why[row]) for row, key in new})
        held = found.rows.get(unit, np.zeros(0, np.int64))
        found.rows[unit] = np.union1d(held, np.array([row for row, _ in new], dtype=np.int64))


# -- duplicates -------------------------------------------------------------------------------------------------


def _groups(found: TakedownScan) -> dict[str, Rows]:
    """unit -> rows that share a group of duplicates with an erased sample, those themselves not among them."""
    manifest = read_manifest(found.run.at("duplicates"))
    wanted = pa.array(sorted(found.erased), pa.string())
    rows: list[NDArray[np.uint64]] = []
    for unit in () if manifest is None else manifest.units:
        table = tables.read(found.run.at("duplicates", f"{unit.name}.parquet"), ["key", "row", "component"])
        mine = pc.is_in(table["key"], value_set=wanted)
        group = pc.is_in(table["component"], value_set=pc.unique(table["component"].filter(mine)))
        rows.append(table["row"].filter(pc.and_(group, pc.invert(mine))).to_numpy())
    all_rows = np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.uint64)
    units = (all_rows >> np.uint64(32)).astype(np.int64)
    local = (all_rows & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return {unit_name(int(index)): local[units == index] for index in np.unique(units)}


def _hold(found: TakedownScan, groups: Mapping[str, Rows]) -> None:
    """Those of a group that were not kept are held: none rises in the place of the erased. The kept are listed."""
    for unit, rows in groups.items():
        verdicts = tables.read(found.run.at("verdicts", f"{unit}.parquet"), ["key", "outcome"]).take(pa.array(rows))
        kept = np.asarray(pc.equal(verdicts["outcome"], "kept"), dtype=bool)
        keys = np.array(verdicts["key"].to_pylist(), dtype=object)
        found.copies += keys[kept].tolist()
        new = np.array([key not in found.before.reasons for key in keys], dtype=bool)
        if (new & ~kept).any():
            found.held.update(dict.fromkeys(keys[new & ~kept].tolist(), listing.COPY_REASON))
            found.beside[unit] = rows[new & ~kept]
    found.copies.sort()


def _same_content(found: TakedownScan, units: tuple[Unit, ...], *, take: bool) -> None:
    """Samples that are not asked for but have the very bytes, or as documents the very text, of one that is; and the
    ids under which the store holds what only the erased have."""
    media, texts = set(), set()
    for name, rows in found.rows.items():
        part = tables.read(found.run.at("samples", f"{name}.parquet")).take(pa.array(rows))
        found.ids |= _ids(part)
        for row in part.select(["modality", "media", "text", "source"]).to_pylist():
            media |= {medium["sha256"] for medium in row["media"] or () if medium["sha256"]}
            texts |= {row["text"]} if row["text"] else set()
            _still_there(found, row)
    if not media and not texts:
        found.ids = set()
        return
    found.content = (pa.array(sorted(media), pa.string()), pa.array(sorted(texts), pa.string()))
    for unit in units:
        table = tables.read(found.run.at("samples", f"{unit.name}.parquet"), CONTENT)
        shared, worded = _sharing(found, table)
        mine = np.isin(np.arange(table.num_rows), found.rows.get(unit.name, np.zeros(0, np.int64)))
        document = np.asarray(pc.equal(table["modality"], "text"), dtype=bool)
        same = (shared | (worded & document)) & ~mine
        if take and same.any():
            why = np.full(table.num_rows, None, dtype=object)
            why[same] = listing.COPY_REASON
            _add(found, unit.name, table["key"], why)
            found.ids |= _ids(table.filter(pa.array(same)))
        else:
            found.same += table["key"].filter(pa.array(same)).to_pylist()
        _spare(found, table, (shared | worded) & ~mine & ~(same & take))
    found.same.sort()


def _keep_content(found: TakedownScan, other: str) -> None:
    """What another run has of the same content, under other keys, stays in the store."""
    manifest = read_manifest(storage.join(other, "samples"))
    gone = pa.array(sorted(found.erased), pa.string())
    for unit in () if manifest is None else manifest.units:
        table = tables.read(storage.join(other, "samples", f"{unit.name}.parquet"), CONTENT)
        shared, worded = _sharing(found, table)
        mine = np.asarray(pc.is_in(table["key"], value_set=gone), dtype=bool)
        _spare(found, table, (shared | worded) & ~mine)


def _sharing(found: TakedownScan, table: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool (n,) twice: rows with a medium, and rows with the text, of an erased sample; no text counts as a text."""
    media, texts = found.content
    flat = table["media"].combine_chunks()
    parents = np.asarray(pc.list_parent_indices(flat), dtype=np.int64)
    hits = pc.is_in(pc.struct_field(pc.list_flatten(flat), "sha256"), value_set=media)
    shared = np.zeros(table.num_rows, dtype=bool)
    shared[parents[np.asarray(hits, dtype=bool)]] = True
    worded = np.asarray(pc.fill_null(pc.is_in(table["text"], value_set=texts), False), dtype=bool)
    return shared, worded


def _spare(found: TakedownScan, table: pa.Table, rows: NDArray[np.bool_]) -> None:
    if rows.any():
        found.ids -= _ids(table.filter(pa.array(rows)))


def _ids(samples: pa.Table) -> set[bytes]:
    """Content ids of samples; those of no text and of no medium, which many share, are left out."""
    ids = content_ids(samples)
    text = np.asarray(pc.is_valid(samples["text"]), dtype=bool)
    media = np.asarray(pc.list_value_length(samples["media"].combine_chunks()), dtype=np.int64) > 0
    found = set(ids["text"].filter(pa.array(text)).to_pylist()) | set(ids["media"].filter(pa.array(media)).to_pylist())
    return found | set(ids["pair"].filter(pa.array(text | media)).to_pylist())


def _still_there(found: TakedownScan, row: Mapping[str, Any]) -> None:
    source = next(s for s in found.run.config.sources if s.name == row["source"])
    for medium in row["media"] or ():
        uri = storage.join(source_root(source), medium["uri"])
        if len(found.there) < NAMED and storage.is_file(uri):
            found.there.append(uri)


# -- what was made of them --------------------------------------------------------------------------------------


def _outcomes(found: TakedownScan) -> None:
    for unit, rows in found.rows.items():
        verdicts = tables.read(found.run.at("verdicts", f"{unit}.parquet"), ["outcome"]).take(pa.array(rows))
        for entry in pc.value_counts(verdicts["outcome"]).to_pylist():
            found.outcomes[entry["values"]] = found.outcomes.get(entry["values"], 0) + entry["counts"]
    for why in found.erased.values():
        found.reasons[why] = found.reasons.get(why, 0) + 1


def _members(found: TakedownScan) -> None:
    wanted = pa.array(sorted(found.erased), pa.string())
    manifest = read_manifest(found.run.at("members"))
    for unit in () if manifest is None else manifest.units:
        keys = tables.read(found.run.at("members", f"{unit.name}.parquet"), ["key"])["key"]
        mine = keys.filter(pc.is_in(keys, value_set=wanted)).to_pylist()
        if mine:
            found.shards[unit.name] = mine


def _dialogues(found: TakedownScan) -> None:
    manifest = read_manifest(found.run.at("dialogues"))
    wanted = pa.array(sorted(found.erased), pa.string())
    there = {unit.name for unit in manifest.units} if manifest is not None else set()
    for unit in there & set(found.rows):
        keys = tables.read(found.run.at("dialogues", f"{unit}.parquet"), ["key"])["key"]
        found.dialogues += int(pc.sum(pc.is_in(keys, value_set=wanted)).as_py() or 0)
