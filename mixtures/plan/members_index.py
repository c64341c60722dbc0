"""Members of one or several runs side by side, as columns of numbers: the input of the planner."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra import storage, tables
from infra.commit import MANIFEST, Unit, need_manifest, read_json
from infra.errors import ConfigError, StageError
from mixtures.plan.recipe import NUMBERS

#: Characters of a key (infra.hashing.sample_key).
KEY_CHARACTERS = 26

#: Numeric columns read for every sample, whatever the recipe.
_NUMERIC = {"offset": np.int64, "size": np.int64, "text_tokens": np.int64, "images": np.int32, "seconds": np.float64,
            "bytes": np.int64}  # fmt: skip

#: Columns with one value per shard.
_PER_SHARD = ("run", "shard", "modality")

_EXPORT_AGAIN = "run `reelmill export` on its config again, or `reelmill audit` to find out what else is wrong"


@dataclass(frozen=True)
class RunShard:
    """A tar of a run: the number of its parent, and the facts on its card."""

    parent: int
    name: str
    modality: str
    suffixes: tuple[str, ...]
    bytes: int
    sha256: str
    rows: int

    def to_manifest(self) -> dict[str, Any]:
        """Serialise for mixture.json."""
        return {"parent": self.parent, "name": self.name, "modality": self.modality, "suffixes": list(self.suffixes),
                "bytes": self.bytes, "sha256": self.sha256}  # fmt: skip


@dataclass
class MembersIndex:
    """Samples shard after shard, by offset within a shard.

    key uint8 (n, 26); shard int32, offset, size, text_tokens, bytes int64, images int32, seconds float64: (n,).
    columns: further columns of the recipe, as codes int32 (n,) and the category of each code; numbers: those that are
    numeric. dropped: samples of later runs that an earlier run contains too.
    """

    parents: list[dict[str, Any]]
    shards: list[RunShard]
    key: NDArray[np.uint8]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    text_tokens: NDArray[np.int64]
    images: NDArray[np.int32]
    seconds: NDArray[np.float64]
    bytes: NDArray[np.int64]
    columns: dict[str, tuple[NDArray[np.int32], list[str]]] = field(default_factory=dict)
    numbers: dict[str, NDArray[Any]] = field(default_factory=dict)
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.shard)

    def keys(self, rows: NDArray[np.int64]) -> pa.Array:
        """Keys of some rows as strings."""
        characters = self.key[rows]
        is_large = characters.nbytes >= 2**31  # beyond 32-bit offsets
        width = KEY_CHARACTERS
        ends = np.arange(0, (len(rows) + 1) * width, width, dtype=np.int64 if is_large else np.int32)
        array = pa.LargeStringArray if is_large else pa.StringArray
        return array.from_buffers(len(rows), pa.py_buffer(ends), pa.py_buffer(characters))


def read_index(runs: Sequence[str], columns: Sequence[str] = ("modality",), *, threads: int = 2) -> MembersIndex:
    """Read the members of finished runs.

    Every file is verified against the sha256 in its run's manifest, every tar against the size on its card.
    Raises ConfigError where a run is named twice; StageError where one is unfinished, of another version, or damaged.
    """
    paths = [os.path.realpath(storage.local_path(run)) if storage.is_local(run) else run.rstrip("/") for run in runs]
    if repeated := sorted({path for path in paths if paths.count(path) > 1}):
        raise ConfigError(f"the run {repeated[0]} is named twice", where="--from")
    names = sorted({"key", "modality", *_NUMERIC, *(column for column in columns if column not in _PER_SHARD)})
    parents: list[dict[str, Any]] = []
    tasks: list[tuple[int, str, Unit, str]] = []
    for number, run in enumerate(runs):
        manifest = need_manifest(run, "members")
        uri = storage.join(run, "members", MANIFEST)
        checksums = read_json(storage.join(run, "checksums.json"))
        parents.append({"run": run, "name": _read_name(run), "members": storage.sha256(uri)})
        tasks += [(number, run, unit, checksums.get(f"shards/{unit.name}.tar", "")) for unit in manifest.units]
    with ThreadPoolExecutor(threads) as pool:
        shards = list(pool.map(lambda task: _read_shard(*task, columns=names), tasks))
    return _build_index(parents, [shard for shard, _ in shards], [table for _, table in shards], columns)


def _read_name(run: str) -> str:
    uri = storage.join(run, "run.json")
    manifest = read_json(uri) if storage.is_file(uri) else {}
    return str(manifest.get("config", {}).get("name") or run.rstrip("/").rsplit("/", 1)[-1])


def _read_shard(
    parent: int, run: str, unit: Unit, tar_sha256: str, *, columns: Sequence[str]
) -> tuple[RunShard, pa.Table]:
    uri = storage.join(run, "members", f"{unit.name}.parquet")
    if not storage.is_file(uri):
        raise StageError("the members of a shard are missing", where=uri, hint=_EXPORT_AGAIN)
    content = storage.read_bytes(uri)
    if hashlib.sha256(content).hexdigest() != unit.sha256:
        raise StageError("the members of a shard differ from the run's manifest", where=uri, hint=_EXPORT_AGAIN)
    strings = [column for column in columns if column not in ("key", "modality", *_NUMERIC, *NUMBERS)]
    file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=strings)
    _check_version(file, uri)
    table = file.read(columns=list(columns), use_threads=False)
    return _read_card(parent, run, unit.name, tar_sha256, table.num_rows), table


def _check_version(file: pq.ParquetFile, uri: str) -> None:
    version = (file.metadata.metadata or {}).get(b"reelmill.version", b"none").decode()
    if version != str(tables.VERSION):
        raise StageError(
            f"these members were written with tables of version {version}, not {tables.VERSION}",
            where=uri,
            hint="run `reelmill run` on its config with this version of Reelmill and a new --out: "
            "nothing is measured again, the store has the measurements",
        )


def _read_card(parent: int, run: str, name: str, tar_sha256: str, rows: int) -> RunShard:
    where = storage.join(run, "shards", f"{name}.card.json")
    if not storage.is_file(where):
        raise StageError("a shard has no card", where=where, hint=_EXPORT_AGAIN)
    card = read_json(where)
    tar, size = storage.join(run, "shards", f"{name}.tar"), card["tar"]["bytes"]
    if card.get("shard") != name or card["samples"] != rows or card["tar"]["sha256"] != tar_sha256:
        raise StageError("this card belongs to another shard", where=where, hint=_EXPORT_AGAIN)
    if not storage.is_file(tar):
        raise StageError("a shard is missing", where=tar, hint=_EXPORT_AGAIN)
    if storage.is_local(tar) and (actual := storage.local_path(tar).stat().st_size) != size:
        raise StageError(f"a shard has {actual:,} bytes, its card says {size:,}", where=tar, hint=_EXPORT_AGAIN)
    return RunShard(parent, name, card["modality"], tuple(card["suffixes"]), size, tar_sha256, rows)


def _build_index(
    parents: list[dict[str, Any]], shards: list[RunShard], members: Sequence[pa.Table], columns: Sequence[str]
) -> MembersIndex:
    rows = np.array([table.num_rows for table in members], dtype=np.int64)
    key = np.empty((int(rows.sum()), KEY_CHARACTERS), dtype=np.uint8)
    start = 0
    for shard, table in zip(shards, members, strict=True):
        key[start : start + table.num_rows] = view_keys(table["key"], shard.name)
        start += table.num_rows
    numeric: dict[str, Any] = {name: _concatenate(members, name, dtype) for name, dtype in _NUMERIC.items()}
    index = MembersIndex(parents, shards, key, np.repeat(np.arange(len(shards), dtype=np.int32), rows), **numeric)
    for column in columns:
        if column in NUMBERS:
            index.numbers[column] = _concatenate(members, column, np.float64)
        elif column in _PER_SHARD:
            labels = [_get_label(column, shard, parents) for shard in shards]
            categories = sorted(set(labels))
            codes = np.array([categories.index(label) for label in labels], dtype=np.int32)
            index.columns[column] = (np.repeat(codes, rows), categories)
        else:
            index.columns[column] = _encode([table[column] for table in members])
    return index


def _concatenate(members: Sequence[pa.Table], name: str, dtype: Any) -> NDArray[Any]:
    chunks = [view_numbers(chunk) for table in members for chunk in table[name].chunks]
    return np.concatenate([np.empty(0, dtype=dtype), *chunks], dtype=dtype, casting="unsafe")


def _get_label(column: str, shard: RunShard, parents: Sequence[Mapping[str, Any]]) -> str:
    if column == "run":
        return str(parents[shard.parent]["name"])
    return shard.name if column == "shard" else shard.modality


def _encode(columns: Sequence[pa.ChunkedArray]) -> tuple[NDArray[np.int32], list[str]]:
    """(code of each value, categories that the codes stand for, sorted)."""
    merged = pa.chunked_array([chunk for column in columns for chunk in column.chunks] or [pa.array([], pa.string())])
    if not pa.types.is_dictionary(merged.type):
        merged = merged.dictionary_encode()
    merged = merged.unify_dictionaries().combine_chunks()
    array = merged.chunk(0) if isinstance(merged, pa.ChunkedArray) else merged
    categories = [str(category) for category in array.dictionary.to_pylist()]
    order = sorted(range(len(categories)), key=categories.__getitem__)
    rank = np.empty(len(categories), dtype=np.int32)
    rank[order] = np.arange(len(categories), dtype=np.int32)
    return rank[view_numbers(array.indices)], [categories[i] for i in order]


def view_numbers(array: pa.Array) -> NDArray[Any]:
    """View an array without nulls as numpy; Arrow's own conversion would import pandas first."""
    numbers = np.frombuffer(array.buffers()[1], dtype=to_dtype(array.type))
    return numbers[array.offset : array.offset + len(array)]


def to_dtype(kind: pa.DataType) -> np.dtype[Any]:
    """numpy's dtype for a numeric Arrow type."""
    return np.dtype({"double": "float64", "float": "float32"}.get(str(kind), str(kind)))


def view_keys(keys: pa.ChunkedArray, where: str = "") -> NDArray[np.uint8]:
    """uint8 (n, 26): keys as bytes. Raises StageError for a key of another length."""
    chunks = [np.empty((0, KEY_CHARACTERS), dtype=np.uint8)]
    for chunk in keys.chunks:
        ends = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if len(chunk) and (np.diff(ends) != KEY_CHARACTERS).any():
            raise StageError(f"a key does not have {KEY_CHARACTERS} characters", where=where, hint=_EXPORT_AGAIN)
        if len(chunk):
            characters = np.frombuffer(chunk.buffers()[2], dtype=np.uint8)
            chunks.append(characters[ends[0] : ends[-1]].reshape(-1, KEY_CHARACTERS))
    return np.concatenate(chunks)


def drop_repeats(index: MembersIndex, draw: NDArray[np.uint64]) -> tuple[MembersIndex, NDArray[np.int64]]:
    """Drop samples that an earlier run contains too; returns (index, its rows by draw).

    Equal keys have equal draws, so only neighbours in the order of draws need to be compared.
    Raises StageError where one run has a key twice.
    """
    order = np.argsort(draw)  # much faster than a stable sort, which only equal draws need
    if not (draw[order[1:]] == draw[order[:-1]]).any():
        return index, order
    order = np.argsort(draw, kind="stable")
    same = np.flatnonzero(draw[order[1:]] == draw[order[:-1]])
    first, second = order[same], order[same + 1]
    equal = (index.key[first] == index.key[second]).all(axis=1)
    first, second = first[equal], second[equal]
    parent = np.array([shard.parent for shard in index.shards])[index.shard]
    if (repeated := second[parent[first] == parent[second]]).size:
        key, shard = index.key[repeated[0]].tobytes().decode(), index.shards[index.shard[repeated[0]]]
        raise StageError(f"the key {key} appears twice in one run", where=shard.name, hint=_EXPORT_AGAIN)
    if not len(second):
        return index, order
    keep = np.ones(len(index), dtype=bool)
    keep[second] = False
    kept = replace(
        index,
        **{name: getattr(index, name)[keep] for name in ("key", "shard", *_NUMERIC)},
        columns={name: (codes[keep], categories) for name, (codes, categories) in index.columns.items()},
        numbers={name: numbers[keep] for name, numbers in index.numbers.items()},
        dropped=len(second),
    )
    return kept, (np.cumsum(keep) - 1)[order[keep[order]]]
