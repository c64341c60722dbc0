"""Compare fingerprints of images and video frames: train cells, and send each vector to the cells that search it.

A vector's id is its sample's number in the partition << FRAME_BITS | frame, plus MIRRORED for mirrored images.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters.dedup import cells as dedup_cells
from filters.dedup import vectors as dedup
from filters.dedup.components import build_forest
from infra import storage, tables
from infra.commit import read_json, read_scratch, write_scratch
from infra.engines.jobs import Phase
from infra.errors import StageError
from infra.hashing import mix64
from pipelines.core import shuffle_files
from pipelines.decide.duplicates.equal_bytes import link_equal_media, write_media_ids
from pipelines.decide.duplicates.search import DuplicateSearch, Ids, list_units

#: Bits of a frame's number: twice the frames that `measure.fingerprint.max_frames` allows, plain and mirrored.
FRAME_BITS = 14
MIRRORED = 1 << (FRAME_BITS - 1)

#: Training candidates per unit: enough for 256 cells; data sets with more cells have more units.
UNIT_SAMPLE = dedup_cells.sample_size(256)

VECTORS = pa.schema(
    [
        ("row", pa.uint64()),
        ("frame", pa.int32()),
        ("vector", pa.binary()),
        ("cells", pa.list_(pa.int32())),
    ]
)
SAMPLE = pa.schema([("id", pa.uint64()), ("vector", pa.binary())])
TIMES = pa.schema([("row", pa.uint64()), ("times", pa.list_(pa.float32()))])


class Fingerprints(NamedTuple):
    """n fingerprints of a unit.

    rows: row ids uint64 (n,); frames: int32 (n,); vectors: float16 (n, d); times: row ids of all samples and the
    seconds of their frames.
    """

    rows: Ids
    frames: NDArray[np.int32]
    vectors: NDArray[np.float16]
    times: pa.Table


class PartitionVectors(NamedTuple):
    """base: vectors whose home is in a partition; queries: vectors searched there; rows: row ids by sample number."""

    base: dedup.VectorTable
    queries: dedup.VectorTable
    rows: Ids

    def to_rows(self, ids: Ids) -> Ids:
        """Row ids of the samples that vectors belong to."""
        return self.rows[(ids >> np.uint64(FRAME_BITS)).astype(np.int64)]


def list_phases(search: DuplicateSearch) -> list[Phase]:
    """The phases that send vectors to the partitions that search them."""
    names, sample = functools.partial(list_units, search), functools.partial(write_sample, search)
    return [
        Phase(search.name("sample"), names, sample, finish=functools.partial(_cut, search)),
        search.phase("cells", write_cells, list_units),
    ]


def _cut(search: DuplicateSearch, counters: Mapping[str, int] | None) -> None:
    """Train cells, and set the number of partitions from the number of vectors that all cells receive."""
    total = (counters or {}).get("vectors", 0)
    training = _train(search, total)
    search.write_cut(total * training["probed"], training)


def read_fingerprints(search: DuplicateSearch, unit: str) -> Fingerprints:
    """Read the fingerprints, plain and mirrored, of a unit's rows that passed the filters.

    Raises StageError for a sample with more than MIRRORED fingerprints.
    """
    rows = search.read_row_ids(unit)
    if not len(rows):
        return Fingerprints(rows, np.zeros(0, np.int32), np.zeros((0, 0), np.float16), tables.empty(TIMES))
    cells = search.read_cells(unit, "fingerprint", rows)
    dim = next((dim for dim in cells["dim"].to_pylist() if dim), 1)
    frames, vectors = [], []
    for pair in zip(cells["vectors"].to_pylist(), cells["mirrored"].to_pylist(), strict=True):
        for blob, first in zip(pair, (0, MIRRORED), strict=True):
            matrix = np.frombuffer(blob or b"", dtype=np.float16).reshape(-1, dim)
            if len(matrix) > MIRRORED:
                raise StageError(f"a sample has more than {MIRRORED} fingerprints", hint="lower max_frames")
            vectors.append(matrix)
            frames.append(first + np.arange(len(matrix), dtype=np.int32))
    vector_rows = np.repeat(np.repeat(rows, 2), [len(matrix) for matrix in vectors])
    times = pa.table({"row": rows, "times": [list(t or []) for t in cells["times"].to_pylist()]}, schema=TIMES)
    return Fingerprints(vector_rows, np.concatenate(frames), np.concatenate(vectors), times)


def write_sample(search: DuplicateSearch, unit: str) -> Mapping[str, int]:
    """Task: write a unit's training candidates and the times of its frames, and count its vectors."""
    prints = read_fingerprints(search, unit)
    tables.write(search.at("times", f"{unit}.parquet"), prints.times)
    ids = mix64(prints.rows) + prints.frames.astype(np.uint64)
    positions = dedup_cells.sample_rows(ids, UNIT_SAMPLE, search.run.config.seed)
    vectors = [prints.vectors[i].tobytes() for i in positions]
    tables.write(
        search.at("sample", f"{unit}.parquet"), pa.table({"id": ids[positions], "vector": vectors}, schema=SAMPLE)
    )
    return {"vectors": len(ids)}


def _train(search: DuplicateSearch, total: int) -> dict[str, Any]:
    """Train centroids in one process, on one sample of bounded size.

    Returns the number of cells, the margin within which a further cell is searched, and `probed`: the mean number of
    cells in which a vector is searched.
    """
    uri = search.at("centroids.json")
    vectors_uri = search.at("centroids.npy")
    cached = read_scratch(uri, search.inputs)
    if cached is not None and storage.is_file(vectors_uri) and storage.sha256(vectors_uri) == cached["sha256"]:
        return dict(cached)
    seed = search.run.config.seed
    samples = [
        tables.read(search.at("sample", f"{unit}.parquet")).replace_schema_metadata(None) for unit in search.units
    ]
    candidates = pa.concat_tables([tables.empty(SAMPLE), *samples])
    ids = candidates["id"].to_numpy()
    count = dedup_cells.cluster_count(total)
    margin, probed = 0.0, 1.0
    centroids = np.zeros((0, 0), np.float32)
    if len(ids):
        positions = dedup_cells.sample_rows(ids, dedup_cells.sample_size(count), seed)
        sample = _stack(candidates["vector"].take(pa.array(positions)))
        centroids, margin = dedup_cells.train_cells(sample, count, search.threshold, seed=seed)
        cells = dedup_cells.nearest_cells(sample[:4096], centroids, _probes(search), margin=margin)
        probed = round(float((cells >= 0).sum(axis=1).mean()), 3)
    buffer = io.BytesIO()
    np.save(buffer, centroids)
    storage.write_bytes(vectors_uri, buffer.getvalue())
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    training = {"cells": count, "margin": margin, "probed": probed, "vectors": total, "sha256": sha256}
    write_scratch(uri, search.inputs, training)
    return training


def _probes(search: DuplicateSearch) -> int:
    settings = search.settings.for_visual(search.modality)
    assert settings is not None
    return settings.probes


def _stack(blobs: pa.ChunkedArray) -> NDArray[np.float16]:
    return np.stack([np.frombuffer(blob, dtype=np.float16) for blob in blobs.to_pylist()])


def write_cells(search: DuplicateSearch, unit: str) -> Mapping[str, int]:
    """Task: write each vector of a unit to every partition in which it is searched, and the ids of its media."""
    write_media_ids(search, unit)
    uri = search.at("cells", f"{unit}.parquet")
    if tables.is_intact(uri, search.inputs):
        return {}
    prints = read_fingerprints(search, unit)
    if not len(prints.rows):
        search.write_shuffled(uri, tables.empty(VECTORS), np.zeros(0, np.uint64))
        return {"vectors": 0}
    margin = read_json(search.at("centroids.json"))["content"]["margin"]  # checked by `_train` of this command
    centroids = np.load(io.BytesIO(storage.read_bytes(search.at("centroids.npy"))))
    cells = dedup_cells.nearest_cells(prints.vectors, centroids, _probes(search), margin=margin)
    rows, slots = np.nonzero(cells >= 0)
    # One copy per partition, even where several of a vector's cells belong to it.
    copies = np.unique((cells[rows, slots].astype(np.int64) % search.partitions) * len(cells) + rows)
    partition, position = np.divmod(copies, len(cells))
    table = pa.table(
        {
            "row": prints.rows[position],
            "frame": prints.frames[position],
            "vector": [prints.vectors[i].tobytes() for i in position],
            "cells": [cells[i].tolist() for i in position],
        },
        schema=VECTORS,
    )
    search.write_shuffled(uri, table, partition.astype(np.uint64))
    return {"vectors": len(position)}


def read_partition(search: DuplicateSearch, name: str) -> PartitionVectors:
    """Read the vectors of one partition; samples are numbered in the order of their row ids."""
    number = int(name[1:])
    table = shuffle_files.read(search.at("cells"), search.units, number, VECTORS)
    if not table.num_rows:
        empty = dedup.VectorTable(np.zeros((0, 1), np.float16), np.zeros(0, np.uint64), np.zeros((0, 1), np.int32))
        return PartitionVectors(empty, empty, np.zeros(0, np.uint64))
    rows, sample = np.unique(table["row"].to_numpy(), return_inverse=True)
    frames, vectors = table["frame"].to_numpy(), _stack(table["vector"])
    ids = (sample.astype(np.uint64) << np.uint64(FRAME_BITS)) | frames.astype(np.uint64)
    cells = np.array(table["cells"].to_pylist(), dtype=np.int32)
    own_cells = np.where((cells >= 0) & (cells % search.partitions == number), cells, -1)
    # Mirrored vectors are queries only: two mirrored copies match through their plain vectors.
    home = np.flatnonzero((own_cells[:, 0] >= 0) & (frames < MIRRORED))
    base = dedup.VectorTable(vectors[home], ids[home], cells[home])
    return PartitionVectors(base, dedup.VectorTable(vectors, ids, own_cells), rows)


def link_partition(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task (images): link the vectors of one partition's cells, and images of equal bytes."""
    uri = search.at("edges", f"{name}.parquet")
    if tables.is_intact(uri, search.inputs):
        return {}
    vectors = read_partition(search, name)
    a, b = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    if len(vectors.base.ids):
        a, b = dedup.link_cells(vectors.base, vectors.queries, search.threshold)
    a, b = vectors.to_rows(a), vectors.to_rows(b)
    distinct = a != b
    heads, copies = link_equal_media(search, name)
    a, b = build_forest(np.concatenate([a[distinct], heads]), np.concatenate([b[distinct], copies]))
    tables.write(uri, pa.table({"a": a, "b": b}), fingerprint=search.inputs)
    return {"edges": len(a)}
