"""Scan one run for everything that a take-down affects: rows, duplicates, shards, dialogues. Read-only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage, tables
from infra.columns import Mask, equals, is_valid, to_ints, to_mask, to_strings
from infra.commit import need_manifest, read_manifest, unit_name
from infra.store import content_ids
from pipelines.core import tombstones
from pipelines.core.finished_run import open_finished_run
from pipelines.core.run import Run
from pipelines.core.sample_media import source_root
from pipelines.core.tombstones import COPY_REASON, Tombstones
from pipelines.takedown.request import COLUMNS, TakedownRequest

#: Columns of samples that identify content.
CONTENT = ("key", "modality", "text", "media", "error")

#: Keys and paths listed in a report; the counts beside them are complete.
MAX_LISTED = 20

RowNumbers = NDArray[np.int64]


@dataclass
class TakedownScan:
    """A run and what a take-down affects in it. All keys are new ones, not in `before`.

    before: the run's tombstones so far. erased, withheld: key -> reason; erased_rows, withheld_rows: unit -> rows.
    outcomes, reasons: number of erased samples by former outcome and by reason. shards: name -> keys to remove from
    its tar; dialogues: number of dialogues of erased samples. kept_copies: kept near duplicates of an erased sample;
    same_content: samples, not erased, with the same bytes or text. hashes, texts: sha256 of the media, and the texts,
    of the erased; ids: their content ids that no other sample has. in_sources: their media that the sources still have.
    """

    run: Run
    before: Tombstones
    erased: dict[str, str] = field(default_factory=dict)
    withheld: dict[str, str] = field(default_factory=dict)
    erased_rows: dict[str, RowNumbers] = field(default_factory=dict)
    withheld_rows: dict[str, RowNumbers] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    shards: dict[str, list[str]] = field(default_factory=dict)
    dialogues: int = 0
    kept_copies: list[str] = field(default_factory=list)
    same_content: list[str] = field(default_factory=list)
    hashes: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    texts: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    ids: set[bytes] = field(default_factory=set)
    in_sources: list[str] = field(default_factory=list)

    @property
    def units(self) -> list[str]:
        """Units with a row that changes."""
        return sorted({*self.erased_rows, *self.withheld_rows})

    @property
    def erased_keys(self) -> pa.Array:
        """The erased keys, sorted."""
        return pa.array(sorted(self.erased), pa.string())

    def changed_rows(self, unit: str) -> RowNumbers:
        """Rows of a unit that are erased or withheld."""
        empty = np.zeros(0, np.int64)
        return np.union1d(self.erased_rows.get(unit, empty), self.withheld_rows.get(unit, empty))

    def merge_tombstones(self) -> Tombstones:
        """The run's tombstones after this take-down; `rewritten` is unchanged."""
        erased = {**self.before.erased, **self.erased}
        withheld = {**self.before.withheld, **self.withheld}
        withheld = {key: reason for key, reason in withheld.items() if key not in erased}
        return Tombstones(dict(sorted(erased.items())), dict(sorted(withheld.items())), self.before.rewritten)


def scan(
    uri: str,
    request: TakedownRequest,
    *,
    with_duplicates: bool,
    beside: Sequence[str] = (),
    tick: Callable[[], None] = lambda: None,
) -> TakedownScan:
    """Scan a run's samples, duplicates, members and dialogues for what `request` asks for.

    beside: other runs that may share the store, whose content stays in it. `tick` is called after each unit.
    """
    state = TakedownScan(open_finished_run(uri), tombstones.load(uri))
    need_manifest(uri, "verdicts")
    roots = {source.name: source_root(source) for source in state.run.config.sources}
    units = [unit.name for unit in need_manifest(uri, "samples").units]
    for unit in units:
        samples = state.run.read("samples", unit, COLUMNS)
        _erase(state, unit, samples["key"], request.match(samples, roots))
        tick()
    duplicates = _find_duplicates(state)
    if with_duplicates:
        for unit, rows in duplicates.items():
            keys = state.run.read("samples", unit, ["key"])["key"]
            _erase(state, unit, keys, _mark_copies(len(keys), rows))
    else:
        _withhold(state, duplicates)
    _scan_content(state, units, erase=with_duplicates)
    for run in beside if state.ids else ():
        _keep_content(state, run)
    for unit, rows in state.erased_rows.items():
        state.outcomes.update(state.run.read("verdicts", unit, ["outcome"]).take(pa.array(rows))["outcome"].to_pylist())
    state.reasons.update(state.erased.values())
    state.shards = dict(_iterate_erased(state, "members"))
    state.dialogues = sum(len(keys) for _, keys in _iterate_erased(state, "dialogues"))
    return state


def _mark_copies(count: int, rows: RowNumbers) -> NDArray[np.object_]:
    """object (count,): the reason of copies in these rows, None in the others."""
    reasons = np.full(count, None, dtype=object)
    reasons[rows] = COPY_REASON
    return reasons


def _erase(state: TakedownScan, unit: str, keys: pa.ChunkedArray, reasons: NDArray[Any]) -> None:
    """Add the rows of a unit that have a reason, but not those that are erased already."""
    rows = np.flatnonzero(np.array([reason is not None for reason in reasons], dtype=bool))
    new = {
        row: key
        for row, key in zip(rows.tolist(), keys.take(pa.array(rows)).to_pylist(), strict=True)
        if key not in state.before.erased and key not in state.erased
    }
    if new:
        state.erased.update({key: str(reasons[row]) for row, key in new.items()})
        before = state.erased_rows.get(unit, np.zeros(0, np.int64))
        state.erased_rows[unit] = np.union1d(before, np.array(list(new), dtype=np.int64))


def _iterate_erased(state: TakedownScan, stage: str) -> Iterator[tuple[str, list[str]]]:
    """(unit, erased keys in it) of a stage's tables with erased keys; none if the run lacks the stage."""
    manifest, erased_keys = read_manifest(state.run.at(stage)), state.erased_keys
    for unit in () if manifest is None else manifest.units:
        keys = state.run.read(stage, unit.name, ["key"])["key"]
        erased = keys.filter(pc.is_in(keys, value_set=erased_keys)).to_pylist()
        if erased:
            yield unit.name, erased


# -- duplicates -------------------------------------------------------------------------------------------------


def _find_duplicates(state: TakedownScan) -> dict[str, RowNumbers]:
    """unit -> rows in the same group of duplicates as an erased sample, without the erased samples themselves."""
    manifest, erased_keys = read_manifest(state.run.at("duplicates")), state.erased_keys
    rows: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    for unit in () if manifest is None else manifest.units:
        table = state.run.read("duplicates", unit.name, ["key", "row", "component"])
        erased = pc.is_in(table["key"], value_set=erased_keys)
        grouped = pc.is_in(table["component"], value_set=pc.unique(table["component"].filter(erased)))
        rows.append(table["row"].filter(pc.and_(grouped, pc.invert(erased))).to_numpy())
    unique = np.unique(np.concatenate(rows))
    units = (unique >> np.uint64(32)).astype(np.int64)
    local = (unique & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return {unit_name(int(index)): local[units == index] for index in np.unique(units)}


def _withhold(state: TakedownScan, duplicates: Mapping[str, RowNumbers]) -> None:
    """Withhold duplicates that were not kept, so that none becomes the survivor instead; list the kept ones."""
    for unit, rows in duplicates.items():
        verdicts = state.run.read("verdicts", unit, ["key", "outcome"]).take(pa.array(rows))
        kept, keys = equals(verdicts["outcome"], "kept"), to_strings(verdicts["key"])
        state.kept_copies += keys[kept].tolist()
        new = ~kept & np.array([key not in state.before.reasons for key in keys], dtype=bool)
        if new.any():
            state.withheld.update(dict.fromkeys(keys[new].tolist(), COPY_REASON))
            state.withheld_rows[unit] = rows[new]
    state.kept_copies.sort()


def _scan_content(state: TakedownScan, units: Sequence[str], *, erase: bool) -> None:
    """Find samples with the same bytes, or documents with the same text, as an erased one, and the content ids that
    only erased samples have. erase: also erase those samples."""
    hashes, texts = set(), set()
    for unit, rows in state.erased_rows.items():
        samples = state.run.read("samples", unit).take(pa.array(rows))
        state.ids |= _content_ids(samples)
        for row in samples.select(["modality", "media", "text", "source"]).to_pylist():
            hashes |= {medium["sha256"] for medium in row["media"] or () if medium["sha256"]}
            texts |= {row["text"]} if row["text"] else set()
            _list_sources(state, row)
    if not hashes and not texts:
        state.ids = set()
        return
    state.hashes, state.texts = pa.array(sorted(hashes), pa.string()), pa.array(sorted(texts), pa.string())
    for unit in units:
        samples = state.run.read("samples", unit, CONTENT)
        same_media, same_text = _match_content(state, samples)
        remaining = ~np.isin(np.arange(samples.num_rows), state.erased_rows.get(unit, np.zeros(0, np.int64)))
        same = (same_media | (same_text & equals(samples["modality"], "text"))) & remaining
        if erase and same.any():
            _erase(state, unit, samples["key"], _mark_copies(len(same), np.flatnonzero(same)))
            state.ids |= _content_ids(samples.filter(pa.array(same)))
        else:
            state.same_content += samples["key"].filter(pa.array(same)).to_pylist()
        state.ids -= _content_ids(samples.filter(pa.array((same_media | same_text) & remaining & ~(same & erase))))
    state.same_content.sort()


def _keep_content(state: TakedownScan, run: str) -> None:
    """Keep the content ids that another run has under other keys."""
    manifest, erased_keys = read_manifest(storage.join(run, "samples")), state.erased_keys
    for unit in () if manifest is None else manifest.units:
        samples = tables.read(storage.join(run, "samples", f"{unit.name}.parquet"), CONTENT)
        same_media, same_text = _match_content(state, samples)
        erased = to_mask(pc.is_in(samples["key"], value_set=erased_keys))
        state.ids -= _content_ids(samples.filter(pa.array((same_media | same_text) & ~erased)))


def _match_content(state: TakedownScan, samples: pa.Table) -> tuple[Mask, Mask]:
    """bool (n,) twice: rows with a medium of an erased sample, and rows with the text of one."""
    media = samples["media"].combine_chunks()
    parents = np.asarray(pc.list_parent_indices(media), dtype=np.int64)
    hits = pc.is_in(pc.struct_field(pc.list_flatten(media), "sha256"), value_set=state.hashes)
    same_media = np.zeros(samples.num_rows, dtype=bool)
    same_media[parents[to_mask(hits)]] = True
    return same_media, to_mask(pc.is_in(samples["text"], value_set=state.texts))


def _content_ids(samples: pa.Table) -> set[bytes]:
    """Content ids of samples, without those of "no text" and "no medium", which many samples share."""
    ids = content_ids(samples)
    text = is_valid(samples["text"])
    media = to_ints(pc.list_value_length(samples["media"]), null=0) > 0
    masks = {"text": text, "media": media, "pair": text | media}
    return {id_ for kind, mask in masks.items() for id_ in ids[kind].filter(pa.array(mask)).to_pylist()}


def _list_sources(state: TakedownScan, sample: Mapping[str, Any]) -> None:
    source = next(s for s in state.run.config.sources if s.name == sample["source"])
    for medium in sample["media"] or ():
        path = sample["container"] if medium["uri"].startswith("/") else medium["uri"]
        uri = storage.join(source_root(source), path)
        if len(state.in_sources) < MAX_LISTED and storage.is_file(uri):
            state.in_sources.append(uri)
