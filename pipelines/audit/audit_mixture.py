"""A mixture: its manifest against its rows, its rows against the runs that it is of, its tars against both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage, tables
from infra.commit import MANIFEST, read_json
from infra.errors import StageError
from mixtures.cards.rollup import UNITS, group_by_shard, match_offsets, round_amount
from mixtures.shards.copying import name_copy
from mixtures.shards.manifest import MANIFEST as MIXTURE
from mixtures.shards.manifest import MEMBERS, VERSION, Mixture
from pipelines.audit.audit_shard import check_records
from pipelines.audit.audit_tar import TarIndex, check_tar
from pipelines.audit.deep import MediaAuditor
from pipelines.audit.files import DAMAGED, AuditFiles, map_file
from pipelines.mix import mixture_card

Columns = Mapping[str, NDArray[Any]]

#: What a row of members must have: of its parent's index.
PARENT = ("key", "offset", "size", "members", "modality", "text_tokens", "images", "seconds", "bytes")


def check_mixture(files: AuditFiles, deep: bool = False) -> dict[str, int]:
    """Audit a mixture; what is wrong is added to the files' findings. Returns what was looked at: samples, tars.

    deep: decode the media of its own tars; those of a mixture without tars are its runs'.

    Raises StageError where another version of Reelmill wrote it.
    """
    findings = files.findings
    value = files.json(MIXTURE)
    if isinstance(value, dict) and isinstance(value.get("mixture"), int) and value["mixture"] != VERSION:
        raise StageError(
            f"this mixture is of version {value['mixture']}, not {VERSION}",
            where=files.at(MIXTURE),
            hint="make it again with `reelmill mix`: its recipe stands in it, and no media are copied",
        )
    value = files.checked_json(MIXTURE, "mixture") if value is not None else None
    if value is None:
        return {"samples": 0, "tars": 0}
    rows = files.table(MEMBERS, None, None, value["members"]["sha256"])
    if rows is None:
        return {"samples": 0, "tars": 0}
    if not rows.schema.equals(tables.MIXTURE):
        findings.add(MEMBERS, "schema", str(tables.MIXTURE.names), str(rows.schema.names))
        return {"samples": 0, "tars": 0}
    findings.same(MIXTURE, "members.rows", rows.num_rows, value["members"]["rows"])
    mixture = Mixture(files.uri, value)
    columns = {name: rows[name].to_numpy() for name in rows.schema.names if name != "key"}
    sound = _ranges(mixture, rows, columns, files)
    if sound:
        _order(mixture, rows, columns, files)
        _plan(mixture, columns, files)
    held = _parents(mixture, rows, columns, files) if sound else None
    looked = {"samples": rows.num_rows, "tars": len(value["materialized"] or ())}
    if value["materialized"] is not None and held is not None:
        media = MediaAuditor(files) if deep else None
        try:
            _tars(mixture, rows, columns, held, files, media)
        finally:
            if media is not None:
                media.close()
                looked["media"] = media.media
    if sound:
        _papers(mixture, files)
    return looked


# -- the manifest and its rows ----------------------------------------------------------------------------------


def _ranges(mixture: Mixture, rows: pa.Table, columns: Columns, files: AuditFiles) -> bool:
    """Whether groups and shards that rows name are there at all."""
    sound = True
    for name, count in (("group", len(mixture.manifest["groups"])), ("shard", len(mixture.manifest["shards"]))):
        wrong = (columns[name] < 0) | (columns[name] >= count)
        if wrong.any():
            files.findings.where(MEMBERS, name, rows["key"], pa.array(wrong), f"below {count}", columns[name])
            sound = False
    return sound


def _order(mixture: Mixture, rows: pa.Table, columns: Columns, files: AuditFiles) -> None:
    """Sorted by virtual shard and position, which count from 0 without a gap; copies of a sample are numbered."""
    findings, vshard, position = files.findings, columns["vshard"].astype(np.int64), columns["position"]
    count = int(mixture.manifest["vshards"])
    seen = np.unique(vshard)
    if len(vshard):
        findings.same(MIXTURE, "vshards", int(seen[-1]) + 1 if count != len(seen) else count, count)
    step = np.diff(vshard)
    wrong = np.concatenate([[vshard[0] != 0], (step != 0) & (step != 1)]) if len(vshard) else np.zeros(0, bool)
    starts = np.flatnonzero(np.concatenate([[True], step != 0])) if len(vshard) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(starts, len(vshard)))
    expected = np.arange(len(vshard)) - np.repeat(starts, lengths)
    keys = rows["key"]
    if wrong.any():
        findings.where(MEMBERS, "vshard", keys, pa.array(wrong), "ascending, from 0, none left out", vshard)
    if not np.array_equal(expected, position):
        findings.where(MEMBERS, "position", keys, pa.array(expected != position), expected, position)
    # Copies of a sample lie on one range of one tar: sorted by it, their numbers are 0, 1, 2, …
    order = np.lexsort((columns["repeat"], columns["offset"], columns["shard"]))
    same = np.diff(columns["shard"][order]) == 0
    same &= np.diff(columns["offset"][order]) == 0
    first = np.flatnonzero(np.concatenate([[True], ~same])) if len(order) else np.zeros(0, np.int64)
    copies = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    found = columns["repeat"][order]
    if not np.array_equal(copies, found):
        findings.where(MEMBERS, "repeat", keys.take(pa.array(order)), pa.array(copies != found), copies, found)


def _plan(mixture: Mixture, columns: Columns, files: AuditFiles) -> None:
    """Amounts of groups, totals and shares, told again from the rows."""
    findings, value = files.findings, mixture.manifest
    count = len(value["groups"])
    group = columns["group"]
    sums: dict[str, NDArray[Any]] = {"samples": np.bincount(group, minlength=count)}
    for unit in UNITS[1:]:
        sums[unit] = np.bincount(group, columns[unit].astype(np.float64), count)
    for unit in UNITS:
        for place, told in enumerate(value["groups"]):
            findings.deep(MIXTURE, f"groups.{place}.{unit}", round_amount(unit, float(sums[unit][place])), told[unit])
        total = float(sums[unit].sum())
        findings.deep(MIXTURE, f"totals.{unit}", round_amount(unit, total), value["totals"][unit])
        shares: dict[str, float] = {}
        for told, amount in zip(value["groups"], sums[unit].tolist(), strict=True):
            shares[told["modality"]] = shares.get(told["modality"], 0.0) + round_amount(unit, amount)
        again = {name: round(amount / total, 6) if total else 0.0 for name, amount in shares.items()}
        # Both were rounded, one from rounded sums: the last place may differ.
        for name in sorted({*again, *value["achieved"][unit]}):
            expected, found = again.get(name), value["achieved"][unit].get(name)
            if expected is None or found is None or abs(expected - found) > 2e-6:
                findings.add(MIXTURE, f"achieved.{unit}.{name}", expected, found)


# -- the runs ---------------------------------------------------------------------------------------------------


def _parents(mixture: Mixture, rows: pa.Table, columns: Columns, files: AuditFiles) -> list[pa.Table | None] | None:
    """Hold every row against the members index of its run; returns that index of each shard, None where a run is not
    there."""
    findings, value = files.findings, mixture.manifest
    covered: list[Mapping[str, Any]] = []
    for place, parent in enumerate(value["parents"]):
        run = mixture.run(place)
        uri = storage.join(run, "members", MANIFEST)
        if not storage.is_file(uri):
            findings.add(MIXTURE, f"parents.{place}.run", "a run", f"none at {parent['run']}")
            return None
        findings.same(MIXTURE, f"parents.{place}.members", storage.sha256(uri), parent["members"])
        sums = storage.join(run, "checksums.json")
        try:
            covered.append(dict(read_json(sums)) if storage.is_file(sums) else {})
        except StageError as error:
            findings.add(MIXTURE, f"parents.{place}.run", "checksums.json that can be read", error.what)
            covered.append({})
    held: list[pa.Table | None] = [None] * len(value["shards"])
    for number_, mine in group_by_shard(columns["shard"], len(value["shards"])):
        shard = value["shards"][number_]
        recorded = covered[shard["parent"]].get(f"shards/{shard['name']}.tar")
        findings.same(MIXTURE, f"shards.{number_}.sha256", recorded, shard["sha256"])
        held[number_] = _index(mixture, number_, files)
        table = held[number_]
        if table is not None:
            _rows(mixture, table, rows, columns, mine, files)
    return held


def _index(mixture: Mixture, shard: int, files: AuditFiles) -> pa.Table | None:
    one = mixture.manifest["shards"][shard]
    uri = storage.join(mixture.run(one["parent"]), "members", f"{one['name']}.parquet")
    if not storage.is_file(uri):
        files.findings.add(MIXTURE, f"shards.{shard}.name", f"a members index of {one['name']}", "none")
        return None
    try:
        return tables.read(uri, PARENT)
    except DAMAGED as error:
        files.findings.add(MIXTURE, f"shards.{shard}.name", f"a members index of {one['name']}", str(error))
        return None


def _rows(
    mixture: Mixture, held: pa.Table, rows: pa.Table, columns: Columns, mine: NDArray[np.int64], files: AuditFiles
) -> None:
    """key, offset, size, tokens, seconds and bytes of a mixture's rows as their run has them."""
    findings = files.findings
    keys = rows["key"].take(pa.array(mine))
    place, there = match_offsets(held, columns["offset"][mine])
    if not there.all():
        findings.where(MEMBERS, "offset", keys, pa.array(~there), "a sample of its shard", columns["offset"][mine])
        place, mine, keys = place[there], mine[there], keys.filter(pa.array(there))
    if not len(mine):
        return
    taken = held.take(pa.array(place))
    one = keys.combine_chunks()
    findings.rows(MEMBERS, "key", one, taken["key"].combine_chunks(), one)
    for name in ("size", "seconds", "bytes"):
        expected, found = taken[name].to_numpy(), columns[name][mine]
        if not np.array_equal(expected, found):
            findings.where(MEMBERS, name, one, pa.array(expected != found), expected, found)
    if mixture.manifest["recipe"].get("tokenizer") is None:  # else only that tokenizer could tell
        modality = np.array(taken["modality"].to_pylist(), dtype=object)
        media = mixture.contract.media_tokens(modality, taken["seconds"].to_numpy(), taken["images"].to_numpy())
        expected, found = taken["text_tokens"].to_numpy() + media, columns["tokens"][mine]
        if not np.array_equal(expected, found):
            findings.where(MEMBERS, "tokens", one, pa.array(expected != found), expected, found)


# -- its own tars -----------------------------------------------------------------------------------------------


def _tars(
    mixture: Mixture,
    rows: pa.Table,
    columns: Columns,
    held: list[pa.Table | None],
    files: AuditFiles,
    media: MediaAuditor | None,
) -> None:
    """Each tar against its entry, the headers that it must have, and the bytes of the runs that it was copied from."""
    findings, tars = files.findings, mixture.manifest["materialized"]
    findings.same(MIXTURE, "materialized", int(mixture.manifest["vshards"]), len(tars))
    ends = np.searchsorted(columns["vshard"], np.arange(len(tars) + 1))
    sources: dict[int, memoryview] = {}
    known = {f"{tar['name']}.tar" for tar in tars}
    for path in sorted(files.sizes):
        if path.startswith("shards/") and path.endswith(".tar") and path.removeprefix("shards/") not in known:
            findings.add(path, "file", f"no file: {MIXTURE} does not list it", "a file")
    for place, tar in enumerate(tars):
        path = f"shards/{tar['name']}.tar"
        view = files.map(path)
        if view is None:
            continue
        files.hash(path, view)
        mine = np.arange(ends[place], ends[place + 1])
        findings.same(MIXTURE, f"materialized.{place}.samples", len(mine), tar["samples"])
        findings.same(MIXTURE, f"materialized.{place}.bytes", files.sizes[path], tar["bytes"])
        index = _copied(rows, columns, held, mine)
        if index is not None:
            good = check_tar(view, index, None, path, findings)
            told = _json(view, index, good, rows, columns, mine, path, files)
            if media is not None and told is not None:
                media.check(view, index, good, told, path)
            _bytes(mixture, view, index, columns, mine, sources, path, files)
        findings.same(path, "sha256", tar["sha256"], files.digest(path))


def _copied(rows: pa.Table, columns: Columns, held: list[pa.Table | None], mine: NDArray[np.int64]) -> TarIndex | None:
    """What the index of a mixture's tar must be: the samples one after another, copies under names of their own."""
    shard, offset = columns["shard"][mine], columns["offset"][mine]
    parts: list[pa.Table] = []
    order: list[NDArray[np.int64]] = []
    for number_ in np.unique(shard).tolist():
        table = held[number_]
        at = np.flatnonzero(shard == number_)
        if table is None:
            return None
        place, there = match_offsets(table, offset[at])
        if not there.all():
            return None
        parts.append(table.select(["key", "offset", "size", "members"]).take(pa.array(place)))
        order.append(at)
    if not parts:
        return None
    back = np.argsort(np.concatenate(order))
    source = TarIndex.of(pa.concat_tables(parts).take(pa.array(back)).combine_chunks())
    starts = np.cumsum(source.size) - source.size
    shift = np.repeat(starts - source.offset, source.counts)
    repeat = columns["repeat"][mine]
    keys, names = source.keys, source.names
    if repeat.any():
        plain = source.keys.to_pylist()
        keys = pa.array([name_copy(key, int(copy)) for key, copy in zip(plain, repeat, strict=True)])
        suffix = pc.utf8_slice_codeunits(names, len(plain[0]), 2**31 - 1)  # all keys are of one length
        names = pc.binary_join_element_wise(keys.take(pa.array(source.owners())), suffix, "")
    return TarIndex(keys, starts, source.size, source.counts, names, source.data + shift, source.sizes)


def _json(
    view: memoryview,
    index: TarIndex,
    good: Any,
    rows: pa.Table,
    columns: Columns,
    mine: NDArray[np.int64],
    path: str,
    files: AuditFiles,
) -> pa.Table | None:
    """Each sample's JSON says the key that it was drawn by, and the seconds and bytes that it was planned with.
    Returns what `check_records` does."""
    told = check_records(view, index, good, path, files.findings)
    if told is None:
        return None
    keys = rows["key"].take(pa.array(mine)).combine_chunks()
    files.findings.rows(path, "json.id", keys, keys, told["key"].combine_chunks())
    for name in ("seconds", "bytes"):
        expected, found = columns[name][mine], told[name].to_numpy()
        if not np.array_equal(expected, found):
            files.findings.where(path, f"json.{name}", keys, pa.array(expected != found), expected, found)
    return told


def _bytes(
    mixture: Mixture,
    view: memoryview,
    index: TarIndex,
    columns: Columns,
    mine: NDArray[np.int64],
    sources: dict[int, memoryview],
    path: str,
    files: AuditFiles,
) -> None:
    """What was copied is what lies in the runs' tars, where these are at hand; headers of copies are others."""
    own = np.frombuffer(view, dtype=np.uint8)
    members = zip(index.owners().tolist(), index.data.tolist(), index.sizes.tolist(), strict=True)
    starts = index.offset
    for owner, data, size in members:
        row = int(mine[owner])
        shard = int(columns["shard"][row])
        if shard not in sources:
            uri = mixture.tar(shard)
            sources[shard] = map_file(uri) if storage.is_file(uri) else memoryview(b"")
        source = np.frombuffer(sources[shard], dtype=np.uint8)
        begin = int(columns["offset"][row]) + data - int(starts[owner])
        if not len(source):
            continue
        if not np.array_equal(own[data : data + size], source[begin : begin + size]):
            key = index.keys[owner].as_py()
            name = mixture.manifest["shards"][shard]["name"]
            files.findings.add(path, "content", f"the bytes of {name} from {begin}", "other bytes", key)


# -- what is written of it --------------------------------------------------------------------------------------


def _papers(mixture: Mixture, files: AuditFiles) -> None:
    """card.json and the cards of its tars, told again; where a mixture has none (an older one), nothing is asked."""
    if mixture_card.CARD not in files.sizes:
        return
    try:
        papers = mixture_card.build_cards(mixture)
    except (StageError, *DAMAGED) as error:
        files.findings.add(mixture_card.CARD, "file", "a card that can be told again", str(error))
        return
    for path, data in papers.items():
        if not path.endswith(".json"):
            continue
        found = files.json(path)
        if found is not None:
            files.findings.deep(path, "", json.loads(data), found)
