"""Audit the tars of a materialized mixture against its rows and the tars of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage
from mixtures.cards.rollup import match_offsets
from mixtures.shards.copying import name_copy
from mixtures.shards.manifest import MANIFEST as MIXTURE
from pipelines.audit.audit_records import check_records
from pipelines.audit.audit_tar import TarIndex, check_tar
from pipelines.audit.files import map_file
from pipelines.audit.media_auditor import MediaAuditor
from pipelines.audit.mixture_rows import AuditedMixture

Ints = NDArray[np.int64]


def check_tars(
    audited: AuditedMixture, indexes: Sequence[pa.Table | None], auditor: MediaAuditor | None = None
) -> None:
    """Audit all tars. indexes: the members index of each shard, as `check_runs` returns; auditor: also decode media."""
    findings, tars = audited.findings, audited.manifest["materialized"]
    findings.compare(MIXTURE, "materialized", int(audited.manifest["vshards"]), len(tars))
    paths = [f"shards/{tar['name']}.tar" for tar in tars]
    for path in sorted({*audited.files.sizes} - {*paths}):
        if path.startswith("shards/") and path.endswith(".tar"):
            findings.add(path, "file", f"no file: {MIXTURE} does not list it", "a file")
    ends = np.searchsorted(audited.columns["vshard"], np.arange(len(tars) + 1))
    sources: dict[int, memoryview] = {}
    for number, (tar, path) in enumerate(zip(tars, paths, strict=True)):
        view = audited.files.map(path)
        if view is None:
            continue
        audited.files.start_hash(path, view)
        rows = np.arange(ends[number], ends[number + 1])
        findings.compare(MIXTURE, f"materialized.{number}.samples", len(rows), tar["samples"])
        findings.compare(MIXTURE, f"materialized.{number}.bytes", audited.files.sizes[path], tar["bytes"])
        index = _predict_index(audited, indexes, rows)
        if index is not None:
            good = check_tar(view, index, None, path, findings)
            records = check_records(view, index, good, path, findings)
            if records is not None:
                _compare_records(audited, records, rows, path)
                if auditor is not None:
                    auditor.check(view, index, good, records, path)
            _compare_content(audited, view, index, rows, sources, path)
        findings.compare(path, "sha256", tar["sha256"], audited.files.digest(path))


def _predict_index(audited: AuditedMixture, indexes: Sequence[pa.Table | None], rows: Ints) -> TarIndex | None:
    """The index that a tar with the samples of these rows must have, repeats under names of their own; None if a
    sample is not in the index of its shard."""
    shard, offset = audited.columns["shard"][rows], audited.columns["offset"][rows]
    samples: list[pa.Table] = []
    order: list[Ints] = []
    for number in np.unique(shard).tolist():
        table = indexes[number]
        if table is None:
            return None
        positions = np.flatnonzero(shard == number)
        matches, matched = match_offsets(table, offset[positions])
        if not matched.all():
            return None
        samples.append(table.select(["key", "offset", "size", "members"]).take(pa.array(matches)))
        order.append(positions)
    if not samples:
        return None
    in_order = np.argsort(np.concatenate(order))
    source = TarIndex.from_members(pa.concat_tables(samples).take(pa.array(in_order)).combine_chunks())
    offsets = np.cumsum(source.size) - source.size
    keys, names, repeat = source.keys, source.names, audited.columns["repeat"][rows]
    if repeat.any():
        originals = source.keys.to_pylist()
        keys = pa.array([name_copy(key, int(copy)) for key, copy in zip(originals, repeat, strict=True)])
        suffix = pc.utf8_slice_codeunits(names, len(originals[0]), 2**31 - 1)  # all keys have the same length
        names = pc.binary_join_element_wise(keys.take(pa.array(source.owners())), suffix, "")
    shift = np.repeat(offsets - source.offset, source.counts)
    return TarIndex(keys, offsets, source.size, source.counts, names, source.starts + shift, source.sizes)


def _compare_records(audited: AuditedMixture, records: pa.Table, rows: Ints, path: str) -> None:
    """The JSON of each sample must contain the key, seconds and bytes of its row."""
    keys = audited.keys.take(pa.array(rows))
    audited.findings.compare_columns(path, "json.id", keys, keys, records["key"])
    for name in ("seconds", "bytes"):
        expected, actual = audited.columns[name][rows], records[name].to_numpy()
        audited.findings.compare_arrays(path, f"json.{name}", keys, expected, actual)


def _compare_content(
    audited: AuditedMixture, view: memoryview, index: TarIndex, rows: Ints, sources: dict[int, memoryview], path: str
) -> None:
    """Members must have the bytes of the run's tar, if that exists. Headers are not compared: repeats have others.

    sources: shard -> its mapped tar; this opens those that are missing.
    """
    copy = np.frombuffer(view, dtype=np.uint8)
    members: Any = zip(index.owners().tolist(), index.starts.tolist(), index.sizes.tolist(), strict=True)
    for owner, start, size in members:
        shard = int(audited.columns["shard"][rows[owner]])
        if shard not in sources:
            uri = audited.mixture.tar(shard)
            sources[shard] = map_file(uri) if storage.is_file(uri) else memoryview(b"")
        source = np.frombuffer(sources[shard], dtype=np.uint8)
        begin = int(audited.columns["offset"][rows[owner]]) + start - int(index.offset[owner])
        if len(source) and not np.array_equal(copy[start : start + size], source[begin : begin + size]):
            key, name = index.keys[owner].as_py(), audited.manifest["shards"][shard]["name"]
            audited.findings.add(path, "content", f"the bytes of {name} from {begin}", "other bytes", key)
