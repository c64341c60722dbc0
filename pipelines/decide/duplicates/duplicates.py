"""Duplicates among survivors: vectors meet by cell, hits by pair of videos, signatures by band; components by Beam.

Files, per modality, under RUN/work/duplicates/MODALITY: sample, centroids.npy, cells/ (exchange by cell), hits/ and
edges/ (videos), bands/ (texts), forest, ranks/ (exchange by component). What is final is RUN/duplicates/.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.dedup import components, texts, videos
from filters.dedup import vectors as duplicates
from infra import beam, storage, tables
from infra.commit import Unit, need_manifest, read_json, read_manifest, unit_index, write_manifest
from infra.errors import StageError
from infra.hashing import canonical_json, fingerprint, mix64, rows_fingerprint
from infra.store import Cells, align, content_ids
from pipelines.core import shuffle_files
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE

#: A vector is named by its sample's number and this many low bits: its frame, and whether it is seen in a mirror.
FRAME_BITS = 10
MIRRORED = 1 << (FRAME_BITS - 1)
#: Vectors that one search task takes in, from which the number of partitions follows (ours).
PARTITION_VECTORS = 500_000

VECTOR = pa.schema(
    [
        ("row", pa.uint64()),
        ("frame", pa.int32()),
        ("vector", pa.binary()),
        ("cells", pa.list_(pa.int32())),
    ]
)
TIMES = pa.schema([("row", pa.uint64()), ("times", pa.list_(pa.float32()))])
HITS = pa.schema([("a", pa.uint64()), ("b", pa.uint64()), ("i", pa.int32()), ("j", pa.int32())])
EDGES = pa.schema(
    [
        ("a", pa.uint64()),
        ("b", pa.uint64()),
        ("share", pa.float64()),
        ("a_start", pa.float64()),
        ("a_end", pa.float64()),
        ("b_start", pa.float64()),
        ("b_end", pa.float64()),
    ]
)
BANDS = pa.schema([("band", pa.uint64()), ("row", pa.uint64()), ("signature", pa.binary())])
RANKS = pa.schema(
    [
        ("row", pa.uint64()),
        ("root", pa.uint64()),
        ("key", pa.string()),
        ("ranks", pa.list_(pa.float64())),
        ("vectors", pa.binary()),
        ("frames", pa.int32()),
    ]
)

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class DuplicateSearch:
    """One modality's search. Travels to workers by pickle."""

    run: Run
    modality: str
    units: tuple[str, ...]
    partitions: int
    inputs: str  # fingerprint of all that it depends on

    def at(self, *parts: str) -> str:
        return self.run.work("duplicates", self.modality, *parts)

    @property
    def runner(self) -> beam.Runner:
        samples = read_manifest(self.run.at("samples"))
        return self.run.runner_for(0 if samples is None else samples.rows)

    def go(self, name: str, function: Any, tasks: Sequence[str]) -> dict[str, int]:
        """Run one task function over task ids; each leaves alone what it finds done."""
        search = f"duplicates {self.modality} {name}"
        return beam.run_tasks(
            search, functools.partial(function, self), tasks, self.at(f"{name}.counters.json"), self.runner
        )

    @property
    def partition_names(self) -> list[str]:
        return [f"p{i:05d}" for i in range(self.partitions)]


def run(run: Run, units: Sequence[str], inputs: str) -> None:
    """Write RUN/duplicates: one table per modality and partition, and its manifest.

    `inputs` stands for the judged tables (RUN/work/judged) and the settings.
    """
    resolved = resolve(run)
    made: list[Unit] = []
    for modality in ("video", "image", "multi_image", "text"):
        chosen = getattr(resolved.duplicates, modality)
        if chosen is None:
            continue
        mine = fingerprint([inputs, modality, chosen.model_dump(mode="json"), run.config.seed])
        search = DuplicateSearch(run, modality, tuple(units), 1, mine)
        storage.write_bytes(search.at("units.json"), canonical_json(list(units)))
        search = _texts(search) if modality == "text" else _vectors(search)
        search.go("ranks", write_ranks, search.units)
        search.go("survivors", write_survivors, search.partition_names)
        for name in search.partition_names:
            uri = run.at("duplicates", f"{modality}-{name}.parquet")
            found = tables.read_footer(uri)
            made.append(Unit(f"{modality}-{name}", found[1] if found else 0, storage.sha256(uri)))
    write_manifest(run.at("duplicates"), "duplicates", fingerprint([inputs, [u.sha256 for u in made]]), made)


def read_unit(run: Run, name: str) -> dict[str, dict[str, Any]]:
    """VectorTable of RUN/duplicates that belong to a unit, by key."""
    found: dict[str, dict[str, Any]] = {}
    for unit in need_manifest(run.out, "duplicates").units:
        modality, _, part = unit.name.partition("-")
        uri = run.work("duplicates", modality, "by-unit", f"{part}.parquet")
        if storage.is_file(uri):
            units = read_json(run.work("duplicates", modality, "units.json"))
            table = tables.read_group(uri, units.index(name))
        else:  # somebody has cleared RUN/work
            table = tables.read(run.at("duplicates", f"{unit.name}.parquet"))
            mine = pc.equal(pc.shift_right(table["row"], pa.scalar(32, pa.uint64())), unit_index(name))
            table = table.filter(mine)
        found.update({row["key"]: row for row in table.to_pylist()})
    return found


def survivors_of(search: DuplicateSearch, name: str) -> tuple[pa.Table, pa.Table, Ids]:
    """(samples, judged, row ids) of a unit's rows of this modality that passed their own filters, same order."""
    judged = tables.read(search.run.work("judged", f"{name}.parquet"))
    mask = np.asarray(pc.equal(judged["outcome"], ALIVE), dtype=bool)
    mask &= np.asarray(pc.equal(judged["modality"], search.modality), dtype=bool)
    rows = np.flatnonzero(mask)
    samples = tables.read(search.run.at("samples", f"{name}.parquet")).take(pa.array(rows))
    ids = (np.uint64(unit_index(name)) << np.uint64(32)) | rows.astype(np.uint64)
    return samples, judged.take(pa.array(rows)), ids


def stored_cells(search: DuplicateSearch, name: str, annotator: str, rows: Ids) -> pa.Table:
    """An annotator's cells in the store for some rows of a unit, in their order."""
    resolved = resolve(search.run)
    samples = tables.read(search.run.at("samples", f"{name}.parquet"), ["modality", "text", "media"])
    ids = content_ids(samples)[resolved.annotators[annotator].keyed_by]
    cells = Cells(search.run.store, annotator, resolved.makers[annotator]).read(rows_fingerprint(ids))
    wanted = ids.take(pa.array((rows & np.uint64(0xFFFFFFFF)).astype(np.int64)))
    where = align(wanted, cells)
    assert cells is not None and (where >= 0).all(), f"{annotator} of {name} is not in the store"
    return cells.take(pa.array(where))


# -- vectors ----------------------------------------------------------------------------------------------------


def _vectors(search: DuplicateSearch) -> DuplicateSearch:
    total = search.go("sample", write_sample, search.units).get("vectors", 0)
    trained = _train(search, total)
    # Evenly spread vectors are searched in many cells: a partition is sized by copies, not by vectors.
    copies = total * trained["probed"]
    wanted = resolve(search.run).duplicates.buckets or math.ceil(copies / PARTITION_VECTORS)
    search = DuplicateSearch(
        search.run, search.modality, search.units, max(1, int(wanted)), fingerprint([search.inputs, trained])
    )
    search.go("cells", write_cells, search.units)
    if search.modality == "image":
        search.go("search", link_partition, search.partition_names)
        _forest(search, "forest-", search.partition_names)
    else:
        search.go("search", write_hits, search.partition_names)
        search.go("match", match_partition, search.partition_names)
        _forest(search, "edges-", search.partition_names)
    return search


def unit_vectors(
    search: DuplicateSearch, name: str
) -> tuple[Ids, NDArray[np.int32], NDArray[np.float16], list[list[float]], Ids]:
    """A unit's fingerprints: (row, frame index, vector (m, d)) for each, then per sample its times, and its row id."""
    _, _, rows = survivors_of(search, name)
    if not len(rows):
        empty = np.zeros(0)
        return rows, empty.astype(np.int32), np.zeros((0, 0), np.float16), [], rows
    cells = stored_cells(search, name, "fingerprint", rows)
    dims = [d for d in cells["dim"].to_pylist() if d]
    dim = dims[0] if dims else 1
    frames, parts = [], []
    plain, mirrored = cells["vectors"].to_pylist(), cells["mirrored"].to_pylist()
    for one, other in zip(plain, mirrored, strict=True):
        for blob, first in ((one, 0), (other, MIRRORED)):
            part = np.frombuffer(blob or b"", dtype=np.float16).reshape(-1, dim)
            if len(part) > MIRRORED:
                raise StageError(f"a sample has more than {MIRRORED} fingerprints", hint="lower max_frames")
            parts.append(part)
            frames.append(first + np.arange(len(part), dtype=np.int32))
    row = np.repeat(np.repeat(rows, 2), [len(part) for part in parts])
    times = [list(t or []) for t in cells["times"].to_pylist()]
    return row, np.concatenate(frames), np.concatenate(parts), times, rows


def write_sample(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: a unit's candidates for the training sample, and how many vectors it has."""
    row, frame, vectors, times, rows = unit_vectors(search, name)
    tables.write(search.at("times", f"{name}.parquet"), pa.table({"row": rows, "times": times}, schema=TIMES))
    # Enough for 256 cells from one unit; where there are more cells there are more units.
    most = duplicates.sample_size(256)
    ids = mix64(row) + frame.astype(np.uint64)
    chosen = duplicates.sample_rows(ids, most, search.run.config.seed) if len(ids) else np.zeros(0, np.int64)
    table = pa.table(
        {"id": ids[chosen], "vector": [vectors[i].tobytes() for i in chosen]},
        schema=pa.schema([("id", pa.uint64()), ("vector", pa.binary())]),
    )
    tables.write(search.at("sample", f"{name}.parquet"), table)
    return {"vectors": len(row)}


def _train(search: DuplicateSearch, total: int) -> dict[str, Any]:
    """The driver's part, on one sample of bounded size: centroids, how far a vector is searched, in how many cells."""
    uri = search.at("centroids.json")
    if storage.is_file(uri) and read_json(uri)["inputs"] == search.inputs:
        return dict(read_json(uri))
    parts = pa.concat_tables([tables.read(search.at("sample", f"{name}.parquet")) for name in search.units])
    k = duplicates.cluster_count(total)
    ids = parts["id"].to_numpy()
    margin, probed = 0.0, 1.0
    centroids = np.zeros((0, 0), np.float32)
    if len(ids):
        chosen = duplicates.sample_rows(ids, duplicates.sample_size(k), search.run.config.seed)
        blobs = parts["vector"].take(pa.array(chosen)).to_pylist()
        sample = np.stack([np.frombuffer(blob, dtype=np.float16) for blob in blobs])
        train, held = duplicates.split_sample(sample) if k > 1 else (sample, sample[:0])
        centroids = duplicates.train_centroids(train, k, seed=search.run.config.seed)
        margin = duplicates.probe_margin(held, centroids, _threshold(search))
        cells = duplicates.nearest_cells(sample[:4096], centroids, _probes(search), margin=margin)
        probed = round(float((cells >= 0).sum(axis=1).mean()), 3)
    buffer = io.BytesIO()
    np.save(buffer, centroids)
    storage.write_bytes(search.at("centroids.npy"), buffer.getvalue())
    value = {"inputs": search.inputs, "cells": k, "margin": margin, "probed": probed, "vectors": total}
    storage.write_bytes(uri, canonical_json(value))
    return value


def _probes(search: DuplicateSearch) -> int:
    return int(getattr(resolve(search.run).duplicates, search.modality).probes)


def _threshold(search: DuplicateSearch) -> float:
    return float(getattr(resolve(search.run).duplicates, search.modality).threshold)


def write_cells(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: a unit's vectors, each to every partition in which it is searched."""
    uri = search.at("cells", f"{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    row, frame, vectors, _, _ = unit_vectors(search, name)
    trained = read_json(search.at("centroids.json"))
    centroids = np.load(io.BytesIO(storage.read_bytes(search.at("centroids.npy"))))
    if not len(row):
        shuffle_files.write(uri, tables.empty(VECTOR), np.zeros(0, np.int64), search.partitions, search.inputs)
        return {"vectors": 0}
    cells = duplicates.nearest_cells(vectors, centroids, _probes(search), margin=trained["margin"])
    partition = np.where(cells >= 0, cells % search.partitions, -1)
    take: list[NDArray[np.int64]] = []
    where: list[NDArray[np.int64]] = []
    for p in range(search.partitions):
        mine = np.flatnonzero((partition == p).any(axis=1))
        take.append(mine)
        where.append(np.full(len(mine), p))
    chosen, target = np.concatenate(take), np.concatenate(where)
    blobs = [vectors[i].tobytes() for i in chosen]
    listed = [cells[i].tolist() for i in chosen]
    table = pa.table({"row": row[chosen], "frame": frame[chosen], "vector": blobs, "cells": listed}, schema=VECTOR)
    shuffle_files.write(uri, table, target, search.partitions, search.inputs)
    return {"vectors": len(chosen)}


def partition_rows(
    search: DuplicateSearch, partition: int
) -> tuple[duplicates.VectorTable, duplicates.VectorTable, Ids]:
    """(base rows, query rows, row id of each sample number): what partition p holds and what is searched in it.

    Vectors are named sample number << FRAME_BITS | frame, where samples are numbered as they stand here.
    """
    table = shuffle_files.read(search.at("cells"), search.units, partition, VECTOR)
    if not table.num_rows:
        none = duplicates.VectorTable(np.zeros((0, 1), np.float16), np.zeros(0, np.uint64), np.zeros((0, 1), np.int32))
        return none, none, np.zeros(0, np.uint64)
    rows, number = np.unique(table["row"].to_numpy(), return_inverse=True)
    vectors = np.stack([np.frombuffer(blob, dtype=np.float16) for blob in table["vector"].to_pylist()])
    listed = table["cells"].to_pylist()
    cells = np.array(listed, dtype=np.int32)
    mine = np.where(cells % search.partitions == partition, cells, -1)
    mine[cells < 0] = -1
    ids = (number.astype(np.uint64) << np.uint64(FRAME_BITS)) | table["frame"].to_numpy().astype(np.uint64)
    # Mirrored vectors only ask: two mirrored copies meet through their plain ones.
    home = np.flatnonzero((mine[:, 0] >= 0) & (table["frame"].to_numpy() < MIRRORED))
    return (
        duplicates.VectorTable(vectors[home], ids[home], cells[home]),
        duplicates.VectorTable(vectors, ids, mine),
        rows,
    )


def link_partition(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task (images): the forest of one partition's cells."""
    uri = search.at("edges", f"forest-{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    base, queries, rows = partition_rows(search, int(name[1:]))
    a, b = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    if len(base.ids):
        a, b = duplicates.link_cells(base, queries, _threshold(search))
    shift = np.uint64(FRAME_BITS)
    a, b = rows[(a >> shift).astype(np.int64)], rows[(b >> shift).astype(np.int64)]
    different = a != b
    a, b = components.spanning_forest(a[different], b[different])
    tables.write(uri, pa.table({"a": a, "b": b}), fingerprint=search.inputs)
    return {"edges": len(a)}


# -- videos -----------------------------------------------------------------------------------------------------


def write_hits(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task (videos): frames that look alike, to the partition of their pair of videos."""
    uri = search.at("hits", f"{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    base, queries, rows = partition_rows(search, int(name[1:]))
    pieces = []
    if len(base.ids):
        for edges in duplicates.search_cells(base, queries, _threshold(search), shift=FRAME_BITS):
            if len(edges.a):
                pieces.append((edges.a, edges.b))
    a = np.concatenate([p[0] for p in pieces]) if pieces else np.zeros(0, np.uint64)
    b = np.concatenate([p[1] for p in pieces]) if pieces else np.zeros(0, np.uint64)
    shift, low = np.uint64(FRAME_BITS), np.uint64(MIRRORED - 1)
    row_a, row_b = rows[(a >> shift).astype(np.int64)], rows[(b >> shift).astype(np.int64)]
    table = pa.table(
        {"a": row_a, "b": row_b, "i": (a & low).astype(np.int32), "j": (b & low).astype(np.int32)}, schema=HITS
    )
    pair = mix64(row_a) ^ mix64(mix64(row_b))
    target = (pair % np.uint64(search.partitions)).astype(np.int64)
    shuffle_files.write(uri, table, target, search.partitions, search.inputs)
    return {"hits": len(a)}


def match_partition(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task (videos): which pairs share enough frames in order."""
    uri = search.at("edges", f"edges-{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    hits = shuffle_files.read(search.at("hits"), search.partition_names, int(name[1:]), HITS)
    least = getattr(resolve(search.run).duplicates, search.modality, None)
    share = float(getattr(least, "min_share", 0.5))
    found = list(_matches(search, hits, share))
    tables.write(uri, pa.Table.from_pylist(found, schema=EDGES), fingerprint=search.inputs)
    return {"edges": len(found)}


def _matches(search: DuplicateSearch, hits: pa.Table, least: float) -> Iterator[dict[str, object]]:
    ends = np.concatenate([hits["a"].to_numpy(), hits["b"].to_numpy()])
    rows, number = np.unique(ends, return_inverse=True)
    frames = np.concatenate([hits["i"].to_numpy(), hits["j"].to_numpy()]).astype(np.uint64)
    ids = (number.astype(np.uint64) << np.uint64(FRAME_BITS)) | frames
    a, b = ids[: hits.num_rows], ids[hits.num_rows :]
    known = _times(search, rows)
    times = {index: known[int(row)] for index, row in enumerate(rows)}
    for one, other, match in videos.match_videos(a, b, times, shift=FRAME_BITS, least=least):
        spans = match.spans
        yield {
            "a": int(rows[one]),
            "b": int(rows[other]),
            "share": match.share,
            "a_start": spans[0].a_start,
            "a_end": spans[-1].a_end,
            "b_start": spans[0].b_start,
            "b_end": spans[-1].b_end,
        }


def _times(search: DuplicateSearch, rows: Ids) -> dict[int, NDArray[np.float64]]:
    found: dict[int, NDArray[np.float64]] = {}
    wanted = pa.array(rows, pa.uint64())
    for index in np.unique(rows >> np.uint64(32)).tolist():
        table = tables.read(search.at("times", f"u{index:06d}.parquet"))
        table = table.filter(pc.is_in(table["row"], value_set=wanted))
        for row, times in zip(table["row"].to_pylist(), table["times"].to_pylist(), strict=True):
            found[row] = np.asarray(times, dtype=np.float64)
    return found


# -- texts ------------------------------------------------------------------------------------------------------


def _texts(search: DuplicateSearch) -> DuplicateSearch:
    counts = search.go("count", count_rows, search.units)
    total = counts.get("rows", 0)
    wanted = resolve(search.run).duplicates.buckets or -(-total // PARTITION_VECTORS)
    search = DuplicateSearch(
        search.run, search.modality, search.units, max(1, int(wanted)), fingerprint([search.inputs, total])
    )
    search.go("bands", write_bands, search.units)
    search.go("buckets", link_bands, search.partition_names)
    _forest(search, "forest-", search.partition_names)
    return search


def count_rows(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: how many rows of a unit take part."""
    return {"rows": len(survivors_of(search, name)[2])}


def write_bands(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task (texts): each row to the partition of its exact hash and of each of its bands."""
    uri = search.at("bands", f"{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    _, _, rows = survivors_of(search, name)
    if not len(rows):
        shuffle_files.write(uri, tables.empty(BANDS), np.zeros(0, np.int64), search.partitions, search.inputs)
        return {}
    cells = stored_cells(search, name, "minhash", rows)
    blobs = cells["signature"].to_pylist()
    exact = np.array([int.from_bytes(h[:8], "little") for h in cells["exact"].to_pylist()], dtype=np.uint64)
    bands, members, signatures = [mix64(exact)], [np.arange(len(rows))], [blobs]
    threshold = resolve(search.run).duplicates.text.threshold  # type: ignore[union-attr]
    if threshold is not None:
        matrix = np.stack([np.frombuffer(blob, dtype="<u4") for blob in blobs])
        keys = texts.band_keys(matrix, texts.band_rows(threshold, matrix.shape[1]))
        for band in range(keys.shape[1]):
            bands.append(keys[:, band])
            members.append(np.arange(len(rows)))
            signatures.append(blobs)
    key = np.concatenate(bands)
    table = pa.table(
        {"band": key, "row": rows[np.concatenate(members)], "signature": [s for part in signatures for s in part]},
        schema=BANDS,
    )
    shuffle_files.write(
        uri, table, (key % np.uint64(search.partitions)).astype(np.int64), search.partitions, search.inputs
    )
    return {"bands": len(key)}


def link_bands(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task (texts): the forest of one partition's buckets; a text equal to another has an equal signature."""
    uri = search.at("edges", f"forest-{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    table = shuffle_files.read(search.at("bands"), search.units, int(name[1:]), BANDS)
    a, b = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    if table.num_rows:
        matrix = np.stack([np.frombuffer(blob, dtype="<u4") for blob in table["signature"].to_pylist()])
        threshold = resolve(search.run).duplicates.text.threshold or 1.0  # type: ignore[union-attr]
        a, b = texts.link_buckets(table["band"].to_numpy(), table["row"].to_numpy(), matrix, threshold)
    tables.write(uri, pa.table({"a": a, "b": b}), fingerprint=search.inputs)
    return {"edges": len(a)}


# -- components -------------------------------------------------------------------------------------------------


def _forest(search: DuplicateSearch, prefix: str, names: Sequence[str]) -> None:
    """Merge the partitions' forests by Beam; what travels is packed pairs of row ids."""
    uri = search.at("components.parquet")
    if tables.is_done(uri, search.inputs):
        return
    uris = [search.at("edges", f"{prefix}{name}.parquet") for name in names]

    def build(pipeline: Any) -> object:
        import apache_beam as ab

        return (
            pipeline
            | "partitions" >> ab.Create(uris)
            | "spread" >> ab.Reshuffle()
            | "edges" >> ab.Map(packed_edges)
            | "merge" >> ab.CombineGlobally(_merge_forests())
            | "write" >> ab.Map(functools.partial(_write_components, uri, search.inputs))
        )

    beam.run(f"duplicates {search.modality} components", build, search.runner)


def packed_edges(uri: str) -> bytes:
    """One partition's edges as packed pairs."""
    table = tables.read(uri, ["a", "b"])
    return components.pack(*components.spanning_forest(table["a"].to_numpy(), table["b"].to_numpy()))


def _merge_forests() -> Any:
    import apache_beam as ab

    class MergeForests(ab.CombineFn):  # type: ignore[misc]
        """Packed pairs in, packed spanning forest out; the result does not depend on the order of merging."""

        def create_accumulator(self) -> components.Forest:
            return components.create()

        def add_input(self, forest: components.Forest, block: bytes) -> components.Forest:
            return components.add(forest, *components.unpack(block))

        def merge_accumulators(self, forests: Iterable[components.Forest]) -> components.Forest:
            return components.merge(forests)

        def extract_output(self, forest: components.Forest) -> bytes:
            return components.pack(*components.extract(forest))

    return MergeForests()  # type: ignore[no-untyped-call]


def _write_components(uri: str, inputs: str, block: bytes) -> None:
    ids, roots = components.components(*components.unpack(block))
    tables.write(uri, pa.table({"row": ids, "root": roots}), fingerprint=inputs)


# -- survivors --------------------------------------------------------------------------------------------------


def write_ranks(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: what decides who stays, for those of a unit's rows that have a duplicate, to their group's partition."""
    uri = search.at("ranks", f"{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    found = tables.read(search.at("components.parquet"))
    low = np.uint64(unit_index(name)) << np.uint64(32)
    ids = found["row"].to_numpy()
    start, end = np.searchsorted(ids, [low, low + np.uint64(2**32)])
    rows, roots = ids[start:end], found["root"].to_numpy()[start:end]
    if not len(rows):
        shuffle_files.write(uri, tables.empty(RANKS), np.zeros(0, np.int64), search.partitions, search.inputs)
        return {}
    local = pa.array((rows & np.uint64(0xFFFFFFFF)).astype(np.int64))
    keys = tables.read(search.run.at("samples", f"{name}.parquet"), ["key"])["key"].take(local)
    signals = tables.read(search.run.at("signals", f"{name}.parquet")).take(local)
    ranks = np.stack([_rank(signals, column) for column in _rank_columns(resolve(search.run), search.modality)], axis=1)
    annotator = "minhash" if search.modality == "text" else "fingerprint"
    cells = stored_cells(search, name, annotator, rows)
    table = pa.table(
        {
            "row": rows,
            "root": roots,
            "key": keys,
            "ranks": list(ranks),
            "vectors": [
                bytes(v or b"") for v in cells["signature" if search.modality == "text" else "vectors"].to_pylist()
            ],
            "frames": cells["words" if search.modality == "text" else "frames"].cast(pa.int32()),
        },
        schema=RANKS,
    )
    target = (mix64(roots) % np.uint64(search.partitions)).astype(np.int64)
    shuffle_files.write(uri, table, target, search.partitions, search.inputs)
    return {"members": len(rows)}


def _rank_columns(resolved: Resolved, modality: str) -> list[str]:
    """The longest, then the best aligned, then the largest (texts: the longest); the key decides the rest."""
    if modality == "text":
        return ["minhash.words"]
    alignment = [c for c in ("video_alignment.score", "alignment.score") if c.split(".")[0] in resolved.annotators]
    return [*(["facts.duration"] if modality == "video" else []), *alignment, "facts.area"]


def _rank(signals: pa.Table, column: str) -> NDArray[np.float64]:
    if column == "facts.area":
        width, height = (_rank(signals, f"facts.{side}") for side in ("width", "height"))
        return width * height
    values = pc.cast(signals[column], pa.float64())
    found: NDArray[np.float64] = np.asarray(pc.fill_null(values, float("-inf")), dtype=np.float64)
    # Containers state durations to the frame or to the millisecond: copies differ in the last digits.
    return np.round(found, 1) if column == "facts.duration" else found


def write_survivors(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: who stays in each group of one partition, and how alike each member is to it."""
    uri = search.run.at("duplicates", f"{search.modality}-{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    members = shuffle_files.read(search.at("ranks"), search.units, int(name[1:]), RANKS)
    if not members.num_rows:
        none = tables.empty(tables.DUPLICATES)
        shuffle_files.write(
            search.at("by-unit", f"{name}.parquet"), none, np.zeros(0, np.int64), len(search.units), search.inputs
        )
        tables.write(uri, none, fingerprint=search.inputs)
        return {}
    members = members.take(pc.sort_indices(members["row"]))
    rows, roots = members["row"].to_numpy(), members["root"].to_numpy()
    keys = members["key"].to_pylist()
    ranks = np.array(members["ranks"].to_pylist(), dtype=np.float64)
    kept = components.survivors(rows, roots, list(ranks.T), keys)
    survivor = np.searchsorted(rows, kept)
    if search.modality in ("video", "multi_image"):
        strongest = _strongest_edges(search, rows)
    else:
        strongest = _similarities(search, members, survivor)
    table = pa.table(
        {
            "key": keys,
            "row": rows,
            "survivor": [keys[i] for i in survivor],
            "component": roots,
            "similarity": [e["similarity"] for e in strongest],
            "match": [None if e["match"] is None else keys[e["match"]] for e in strongest],
            "start_s": [e.get("start_s") for e in strongest],
            "end_s": [e.get("end_s") for e in strongest],
            "match_start_s": [e.get("match_start_s") for e in strongest],
            "match_end_s": [e.get("match_end_s") for e in strongest],
        },
        schema=tables.DUPLICATES,
    )
    # Each unit's verdicts need its own rows only: they are laid out by unit beside the final table.
    unit = np.searchsorted([unit_index(u) for u in search.units], (rows >> np.uint64(32)).astype(np.int64))
    shuffle_files.write(search.at("by-unit", f"{name}.parquet"), table, unit, len(search.units), search.inputs)
    tables.write(uri, table, fingerprint=search.inputs)
    return {"groups": len(np.unique(roots)), "duplicates": int((kept != rows).sum())}


def _similarities(search: DuplicateSearch, members: pa.Table, survivor: NDArray[np.int64]) -> list[dict[str, Any]]:
    """How alike each member and its survivor are: cosine of the closest vectors, or the share of equal MinHash places.

    In a chain this may lie below the threshold; the group holds together through its other members.
    """
    blobs = members["vectors"].to_pylist()
    found: list[dict[str, Any]] = []
    for i, j in enumerate(survivor.tolist()):
        if i == j:
            found.append({"similarity": None, "match": None})
            continue
        if search.modality == "text":
            one, two = (np.frombuffer(blobs[k], dtype="<u4") for k in (i, j))
            value = float((one == two).mean())
        else:
            dim = len(np.frombuffer(blobs[i], dtype=np.float16)) // max(1, members["frames"][i].as_py())
            one, two = (np.frombuffer(blobs[k], np.float16).astype(np.float64).reshape(-1, dim) for k in (i, j))
            value = float((one @ two.T).max())
        found.append({"similarity": round(value, 6), "match": j})
    return found


def _strongest_edges(search: DuplicateSearch, rows: Ids) -> list[dict[str, Any]]:
    """For each row its edge with the largest matched share, the smallest partner among equals."""
    parts = [tables.read(search.at("edges", f"edges-{name}.parquet")) for name in search.partition_names]
    edges = pa.concat_tables([part.replace_schema_metadata(None) for part in parts])
    best: dict[int, dict[str, Any]] = {}
    place = {int(row): i for i, row in enumerate(rows)}
    for edge in edges.to_pylist():
        for mine, other, me, it in (("a", "b", "a", "b"), ("b", "a", "b", "a")):
            row = edge[mine]
            if row not in place:
                continue
            candidate = {
                "similarity": edge["share"],
                "match": place[edge[other]],
                "start_s": edge[f"{me}_start"],
                "end_s": edge[f"{me}_end"],
                "match_start_s": edge[f"{it}_start"],
                "match_end_s": edge[f"{it}_end"],
            }
            held = best.get(row)
            if held is None or (-candidate["similarity"], candidate["match"]) < (-held["similarity"], held["match"]):
                best[row] = candidate
    return [best[int(row)] for row in rows]
