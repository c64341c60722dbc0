"""Compare texts: send each to the partitions of its exact hash and of its signature's bands, and link the buckets."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters.dedup import texts as dedup
from infra import tables
from infra.engines.jobs import Phase
from infra.hashing import mix64
from pipelines.core import shuffle_files
from pipelines.decide.duplicates.search import DuplicateSearch, list_partitions, list_units

BANDS = pa.schema([("band", pa.uint64()), ("row", pa.uint64()), ("signature", pa.binary())])


def list_phases(search: DuplicateSearch) -> list[Phase]:
    """The phases that link texts."""
    names, count = functools.partial(list_units, search), functools.partial(count_rows, search)
    return [
        Phase(search.name("count"), names, count, finish=functools.partial(_cut, search)),
        search.phase("bands", write_bands, list_units),
        search.phase("buckets", link_bands, list_partitions),
    ]


def _cut(search: DuplicateSearch, counters: Mapping[str, int] | None) -> None:
    """Cut the search into partitions by the number of texts."""
    total = (counters or {}).get("rows", 0)
    search.write_cut(total, total)


def count_rows(search: DuplicateSearch, unit: str) -> Mapping[str, int]:
    """Task: count the rows of a unit that are searched."""
    return {"rows": len(search.read_row_ids(unit))}


def write_bands(search: DuplicateSearch, unit: str) -> Mapping[str, int]:
    """Task: write each row to the partition of its exact hash and, for near copies, of each of its bands."""
    uri = search.at("bands", f"{unit}.parquet")
    if tables.is_intact(uri, search.inputs):
        return {}
    rows = search.read_row_ids(unit)
    if not len(rows):
        search.write_shuffled(uri, tables.empty(BANDS), np.zeros(0, np.uint64))
        return {}
    cells = search.read_cells(unit, "minhash", rows)
    hashes = np.array([int.from_bytes(blob[:8], "little") for blob in cells["exact"].to_pylist()], dtype=np.uint64)
    keys = mix64(hashes)[None]
    settings = search.settings.text
    if settings is not None and settings.threshold is not None:
        signatures = _stack(cells["signature"])
        bands = dedup.hash_bands(signatures, dedup.longest_band(settings.threshold, signatures.shape[1]))
        keys = np.concatenate([keys, bands.T])
    band = keys.ravel()
    table = pa.table(
        {"band": band, "row": np.tile(rows, len(keys)), "signature": cells["signature"].to_pylist() * len(keys)},
        schema=BANDS,
    )
    search.write_shuffled(uri, table, band)
    return {"bands": len(band)}


def link_bands(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: link the buckets of one partition. Texts with equal exact hashes have equal signatures."""
    uri = search.at("edges", f"{name}.parquet")
    if tables.is_intact(uri, search.inputs):
        return {}
    table = shuffle_files.read(search.at("bands"), search.units, int(name[1:]), BANDS)
    a, b = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    if table.num_rows:
        signatures = _stack(table["signature"])
        a, b = dedup.link_buckets(table["band"].to_numpy(), table["row"].to_numpy(), signatures, search.threshold)
    tables.write(uri, pa.table({"a": a, "b": b}), fingerprint=search.inputs)
    return {"edges": len(a)}


def _stack(signatures: pa.ChunkedArray) -> NDArray[Any]:
    """uint32 (n, length): MinHash signatures from their bytes."""
    return np.stack([np.frombuffer(blob, dtype="<u4") for blob in signatures.to_pylist()])
