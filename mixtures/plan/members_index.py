"""All members of one or several runs side by side, as columns of numbers: what a recipe is planned on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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

#: Read for every sample, whatever the recipe.
_ALWAYS = ("key", "offset", "size", "modality", "text_tokens", "images", "seconds", "bytes")


@dataclass(frozen=True)
class RunShard:
    """A tar of a run: its place among the parents, and what its card says of it."""

    parent: int
    name: str
    modality: str
    suffixes: tuple[str, ...]
    bytes: int
    sha256: str
    rows: int

    def record(self) -> dict[str, Any]:
        return {"parent": self.parent, "name": self.name, "modality": self.modality, "suffixes": list(self.suffixes),
                "bytes": self.bytes, "sha256": self.sha256}  # fmt: skip


@dataclass
class MembersIndex:
    """Rows lie shard after shard, by offset within one.

    key uint8 (n, 26); shard int32, offset, size, text_tokens, bytes int64, images int32, seconds float64: (n,).
    columns: what a recipe asks for beyond these: codes int32 (n,) and the values that they stand for, or numbers.
    dropped: samples of later runs that an earlier one has too.
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
        data = self.key[rows]
        wide = data.nbytes >= 2**31  # more than 32-bit offsets can point into
        ends = np.arange(0, (len(rows) + 1) * KEY_CHARACTERS, KEY_CHARACTERS, dtype=np.int64 if wide else np.int32)
        kind = pa.LargeStringArray if wide else pa.StringArray
        return kind.from_buffers(len(rows), pa.py_buffer(ends), pa.py_buffer(data))


def read_index(runs: Sequence[str], columns: Sequence[str] = ("modality",), *, threads: int = 2) -> MembersIndex:
    """Read the members of finished runs.

    Every file read is held against the hash that the run recorded of it, every tar against its size in its card.
    Raises ConfigError where a run is named twice; StageError where one is unfinished, of another version, or damaged.
    """
    places = [os.path.realpath(storage.local_path(run)) if storage.is_local(run) else run.rstrip("/") for run in runs]
    if twice := sorted({place for place in places if places.count(place) > 1}):
        raise ConfigError(f"the run {twice[0]} is named twice", where="--from")
    wanted = sorted({*_ALWAYS, *(column for column in columns if column not in ("run", "shard"))})
    parents: list[dict[str, Any]] = []
    tasks: list[tuple[int, str, Unit, str]] = []
    for number, run in enumerate(runs):
        manifest = need_manifest(run, "members")
        uri = storage.join(run, "members", MANIFEST)
        covered = read_json(storage.join(run, "checksums.json"))
        parents.append({"run": run, "name": _name(run), "members": storage.sha256(uri)})
        tasks += [(number, run, unit, covered.get(f"shards/{unit.name}.tar", "")) for unit in manifest.units]
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda task: _read(*task, wanted=wanted), tasks))
    return _joined(parents, parts, columns)


def _name(run: str) -> str:
    uri = storage.join(run, "run.json")
    held = read_json(uri) if storage.is_file(uri) else {}
    return str(held.get("config", {}).get("name") or run.rstrip("/").rsplit("/", 1)[-1])


def _read(parent: int, run: str, unit: Unit, tar_sha256: str, *, wanted: Sequence[str]) -> tuple[RunShard, pa.Table]:
    uri = storage.join(run, "members", f"{unit.name}.parquet")
    if not storage.is_file(uri):
        raise StageError("the members of a shard are missing", where=uri, hint=_AGAIN)
    data = storage.read_bytes(uri)
    if hashlib.sha256(data).hexdigest() != unit.sha256:
        raise StageError("the members of a shard are not what the run's manifest says", where=uri, hint=_AGAIN)
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=[c for c in wanted if c not in (*_ALWAYS, *NUMBERS)])
    _check_version(file, uri)
    table = file.read(columns=list(wanted), use_threads=False)
    return _shard(parent, run, unit.name, tar_sha256, table.num_rows), table


_AGAIN = "run `reelmill export` on its config again, or `reelmill audit` to see what else is wrong"


def _check_version(file: pq.ParquetFile, uri: str) -> None:
    version = (file.metadata.metadata or {}).get(b"reelmill.version", b"none").decode()
    if version != str(tables.VERSION):
        raise StageError(
            f"these members were written with tables of version {version}, not {tables.VERSION}",
            where=uri,
            hint="run `reelmill run` on its config with this version of Reelmill and a new --out: "
            "nothing is measured again, the store serves it",
        )


def _shard(parent: int, run: str, name: str, tar_sha256: str, rows: int) -> RunShard:
    where = storage.join(run, "shards", f"{name}.card.json")
    if not storage.is_file(where):
        raise StageError("a shard has no card", where=where, hint=_AGAIN)
    card = read_json(where)
    tar = storage.join(run, "shards", f"{name}.tar")
    if card.get("shard") != name or card["samples"] != rows or card["tar"]["sha256"] != tar_sha256:
        raise StageError("this card belongs to another shard", where=where, hint=_AGAIN)
    if not storage.is_file(tar):
        raise StageError("a shard is missing", where=tar, hint=_AGAIN)
    if storage.is_local(tar) and (size := storage.local_path(tar).stat().st_size) != card["tar"]["bytes"]:
        raise StageError(f"a shard has {size:,} bytes, its card says {card['tar']['bytes']:,}", where=tar, hint=_AGAIN)
    return RunShard(parent, name, card["modality"], tuple(card["suffixes"]), card["tar"]["bytes"], tar_sha256, rows)


def _joined(
    parents: list[dict[str, Any]], parts: Sequence[tuple[RunShard, pa.Table]], columns: Sequence[str]
) -> MembersIndex:
    shards = [shard for shard, _ in parts]
    each = [table for _, table in parts]
    rows = np.array([table.num_rows for table in each], dtype=np.int64)
    shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), rows)

    def numbers(name: str, dtype: Any) -> NDArray[Any]:
        found = np.empty(int(rows.sum()), dtype=dtype)
        start = 0
        for table in each:
            for chunk in table[name].chunks:
                found[start : start + len(chunk)] = view_numbers(chunk)
                start += len(chunk)
        return found

    key = np.empty((int(rows.sum()), KEY_CHARACTERS), dtype=np.uint8)
    start = 0
    for shard, table in parts:
        key[start : start + table.num_rows] = view_keys(table["key"], shard.name)
        start += table.num_rows
    index = MembersIndex(
        parents=parents,
        shards=shards,
        key=key,
        shard=shard_of,
        offset=numbers("offset", np.int64),
        size=numbers("size", np.int64),
        text_tokens=numbers("text_tokens", np.int64),
        images=numbers("images", np.int32),
        seconds=numbers("seconds", np.float64),
        bytes=numbers("bytes", np.int64),
    )
    for column in columns:
        if column in NUMBERS:
            index.numbers[column] = numbers(column, np.float64)
        elif column in ("run", "shard", "modality"):
            names = [_label(column, shard, parents) for shard in shards]
            values = sorted(set(names))
            codes = np.array([values.index(name) for name in names], dtype=np.int32)
            index.columns[column] = (np.repeat(codes, rows), values)
        else:
            index.columns[column] = _codes([table[column] for table in each])
    return index


def _label(column: str, shard: RunShard, parents: Sequence[Mapping[str, Any]]) -> str:
    if column == "run":
        return str(parents[shard.parent]["name"])
    return shard.name if column == "shard" else shard.modality


def _codes(parts: Sequence[pa.ChunkedArray]) -> tuple[NDArray[np.int32], list[str]]:
    both = pa.chunked_array([chunk for part in parts for chunk in part.chunks] or [pa.array([], pa.string())])
    if not pa.types.is_dictionary(both.type):
        both = both.dictionary_encode()
    both = both.unify_dictionaries().combine_chunks()
    array = both.chunk(0) if isinstance(both, pa.ChunkedArray) else both
    values = [str(value) for value in array.dictionary.to_pylist()]
    order = sorted(range(len(values)), key=values.__getitem__)
    rank = np.empty(len(values), dtype=np.int32)
    rank[order] = np.arange(len(values), dtype=np.int32)
    return rank[view_numbers(array.indices)], [values[i] for i in order]


def view_numbers(array: pa.Array) -> NDArray[Any]:
    """The numbers of an array without nulls, as they lie in memory; Arrow's own way would load pandas first."""
    values = np.frombuffer(array.buffers()[1], dtype=to_dtype(array.type))
    return values[array.offset : array.offset + len(array)]


def to_dtype(kind: pa.DataType) -> np.dtype[Any]:
    """numpy's name for a type of numbers."""
    return np.dtype({"double": "float64", "float": "float32"}.get(str(kind), str(kind)))


def view_keys(keys: pa.ChunkedArray, where: str = "") -> NDArray[np.uint8]:
    """uint8 (n, 26): keys as bytes.

    Raises StageError for a key of another length.
    """
    parts = []
    for chunk in keys.chunks:
        ends = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if len(chunk) and (np.diff(ends) != KEY_CHARACTERS).any():
            raise StageError(f"a key has not {KEY_CHARACTERS} characters", where=where, hint=_AGAIN)
        if len(chunk):
            data = np.frombuffer(chunk.buffers()[2], dtype=np.uint8)
            parts.append(data[ends[0] : ends[-1]].reshape(-1, KEY_CHARACTERS))
    return np.concatenate(parts) if parts else np.empty((0, KEY_CHARACTERS), dtype=np.uint8)


def drop_repeats(index: MembersIndex, draw: NDArray[np.uint64]) -> tuple[MembersIndex, NDArray[np.int64]]:
    """(the index without samples that an earlier run has too, its rows by draw): the first run named wins.

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
    if (inside := np.flatnonzero(parent[first] == parent[second])).size:
        row = second[inside[0]]
        name = index.shards[index.shard[row]].name
        raise StageError(
            f"the key {index.key[row].tobytes().decode()} stands twice in one run", where=name, hint=_AGAIN
        )
    if not len(second):
        return index, order
    keep = np.ones(len(index), dtype=bool)
    keep[second] = False
    columns = {name: (codes[keep], values) for name, (codes, values) in index.columns.items()}
    rest = MembersIndex(
        index.parents, index.shards, index.key[keep], index.shard[keep], index.offset[keep], index.size[keep],
        index.text_tokens[keep], index.images[keep], index.seconds[keep], index.bytes[keep], columns,
        {name: values[keep] for name, values in index.numbers.items()}, len(second),
    )  # fmt: skip
    return rest, (np.cumsum(keep) - 1)[order[keep[order]]]
